"""Messages that no attempt could deliver, kept in Redis until they are delivered or dropped by hand.

Keys, none of which expires (they belong on the durable server, never on one that evicts):

    dlq:{queue}                     list of letters, JSON, oldest first
    dlq:{queue}:taken:{consumer}    the letters that a consumer has in hand
    dlq:{queue}:consumers           who may have letters in hand
    dlq:{queue}:lease:{consumer}    the consumer's sign of life; the one key that expires

A letter is at each instant in exactly one list: scripts inside Redis move it. When a consumer dies, its
letters go back to the queue once its lease is over. So each letter is delivered at least once; a handler that
was killed between its work and the acknowledgement gets the letter again, and must be idempotent.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from redis.asyncio import Redis

from levibot.clock import Clock, SystemClock
from levibot.errors import DataError, LeviBotError, StoreError, UsageError
from levibot.resilience.dead_letter_scripts import COUNT, GIVE_BACK, PUSH, RECOVER, REPLACE, TAKE
from levibot.stores.redis import ask, translated
from levibot.telemetry.metrics import DEFAULT, Metrics

MAX_LETTERS = 10_000
MAX_BYTES = 200_000
MAX_ERROR = 2_000
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 3600.0
HANDLER_TIMEOUT_S = 30.0
LEASE_MARGIN_S = 5.0
PAGE = 100
log = structlog.get_logger()

# Takes the message, which is JSON. What it raises keeps the letter.
Handler = Callable[[Any], Awaitable[None]]
# Queue to handler: what a consumer knows to deliver.
Handlers = Mapping[str, Handler]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message and why it could not be delivered.

    message: JSON. attempts: all there were, replays included. died_at: when it was given up; due_at: no
    replay is tried before; both aware UTC.
    """

    letter_id: str
    queue: str
    message: Any
    error: str
    attempts: int
    trace_id: str
    died_at: datetime
    due_at: datetime
    replays: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"died_at": self.died_at.isoformat(), "due_at": self.due_at.isoformat()}


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a pass over a queue came to. waiting: letters that were not due yet, or are in other hands."""

    delivered: int
    failed: int
    waiting: int


class DeadLetters:
    """The queues of dead letters on one server. State: none; any number of processes may use them at once.

    max_letters: of a queue; more are refused loudly. handler_timeout_s: how long a handler may take; a
    consumer that shows no life for twice this and lease_margin_s counts as dead. first_wait_s: before the
    first replay, and doubled after each. clock: of the machine, not of a market.
    """

    def __init__(
        self,
        client: Redis,
        *,
        clock: Clock | None = None,
        max_letters: int = MAX_LETTERS,
        handler_timeout_s: float = HANDLER_TIMEOUT_S,
        lease_margin_s: float = LEASE_MARGIN_S,
        first_wait_s: float = FIRST_WAIT_S,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._max_letters = max_letters
        self._handler_timeout_s = handler_timeout_s
        self._lease_ms = round((2 * handler_timeout_s + lease_margin_s) * 1000)
        self._first_wait_s = first_wait_s
        self._metrics = metrics
        self._push = client.register_script(PUSH)
        self._take = client.register_script(TAKE)
        self._give_back = client.register_script(GIVE_BACK)
        self._recover = client.register_script(RECOVER)
        self._replace = client.register_script(REPLACE)
        self._count = client.register_script(COUNT)

    async def send(
        self, queue: str, message: Any, *, error: str, attempts: int, trace_id: str = ""
    ) -> DeadLetter:
        """Keep a message that could not be delivered; returns once Redis has it.

        Raises DataError when the message is not JSON or larger than 200 kB, StoreError when the queue is
        full, StoreUnavailable. The message is not kept then, and the caller must say so.
        """
        _check_queue(queue)
        now = self._clock.now()
        letter = DeadLetter(
            letter_id=uuid.uuid4().hex,
            queue=queue,
            message=message,
            error=error[:MAX_ERROR],
            attempts=attempts,
            trace_id=trace_id,
            died_at=now,
            due_at=now + timedelta(seconds=self._first_wait_s),
        )
        text = _to_text(letter)
        if len(text) > MAX_BYTES:
            raise DataError(f"The message for dlq:{queue} has {len(text)} bytes, over {MAX_BYTES}.")
        if not await ask("keep a dead letter", self._push([_key(queue)], [text, self._max_letters])):
            raise StoreError(
                f"The queue {queue} holds {self._max_letters} dead letters, its limit; the next is refused.",
                hint=f"See `python -m levibot dead-letters list {queue}`.",
            )
        self._metrics.dead_letters.labels(queue).inc()
        return letter

    async def queues(self) -> dict[str, int]:
        """How many letters each queue holds, those in a consumer's hands included."""
        with translated("count dead letters"):
            keys = [key async for key in self._client.scan_iter(match="dlq:*", count=1000)]
        # A queue whose last letter is in hands has no list, but consumers.
        names = sorted({key.decode().split(":")[1] for key in keys})
        counts = {name: await self._count_letters(name) for name in names}
        return {name: n for name, n in counts.items() if n}

    async def _count_letters(self, queue: str) -> int:
        keys = [_key(queue), _consumers(queue)]
        return int(await ask("count dead letters", self._count(keys, [_taken(queue)])))

    async def read(self, queue: str, limit: int = PAGE) -> list[DeadLetter]:
        """The oldest letters of a queue that are in nobody's hands."""
        _check_queue(queue)
        stored = await ask("read dead letters", self._client.lrange(_key(queue), 0, limit - 1))
        return [letter for text in stored if (letter := _from_text(queue, _text(text))) is not None]

    async def make_due(self, queue: str, letter_ids: Collection[str] | None = None) -> int:
        """Let letters be replayed now: these, or all where None; returns how many there were."""
        now = self._clock.now()
        n_due = 0

        async def step(at: int, text: str, letter: DeadLetter) -> bool:
            nonlocal n_due
            if letter_ids is None or letter.letter_id in letter_ids:
                due = _to_text(replace(letter, due_at=min(letter.due_at, now)))
                n_due += await ask("make a dead letter due", self._replace([_key(queue)], [at, text, due]))
            return False

        await self._walk(queue, step)
        return n_due

    async def drop(self, queue: str, letter_ids: Collection[str] | None = None) -> int:
        """Delete letters for good: these, or all where None; returns how many. None in a consumer's hands."""
        _check_queue(queue)
        n_dropped = 0
        if letter_ids is None:
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.llen(_key(queue))
                pipeline.delete(_key(queue))
                counts = await ask("drop dead letters", pipeline.execute())
            return int(counts[0])

        async def step(_: int, text: str, letter: DeadLetter) -> bool:
            nonlocal n_dropped
            if letter.letter_id not in letter_ids:
                return False
            n_dropped += await ask("drop a dead letter", self._client.lrem(_key(queue), 1, text))
            return True

        await self._walk(queue, step)
        return n_dropped

    async def replay(self, queue: str, handler: Handler, *, consumer: str) -> Replayed:
        """Hand each due letter to the handler, oldest first; what fails waits longer before the next time.

        consumer: a name that no other living consumer of this queue has. An error of the handler, or a
        handler that takes too long, keeps the letter. Raises StoreError when Redis fails; a letter in hand
        then goes back at the next replay.
        """
        await self.recover(queue, consumer)
        keys = [_key(queue), _taken(queue) + consumer, _consumers(queue), _lease(queue) + consumer]
        delivered = failed = waiting = 0

        async def step(_: int, text: str, letter: DeadLetter) -> bool:
            nonlocal delivered, failed, waiting
            if letter.due_at > self._clock.now():
                waiting += 1
                return False
            if not await ask("take a dead letter", self._take(keys, [text, consumer, self._lease_ms])):
                return True  # another consumer was quicker, or it was dropped
            error = await self._deliver(handler, letter)
            kept = "" if error is None else _to_text(self._after_failure(letter, error))
            await ask("give a dead letter back", self._give_back(keys[:2], [text, kept]))
            delivered, failed = delivered + (error is None), failed + (error is not None)
            return True

        await self._walk(queue, step)
        return Replayed(delivered, failed, waiting)

    async def recover(self, queue: str, consumer: str = "") -> int:
        """Put back what dead consumers had in hand, and what `consumer` itself had in an earlier life."""
        _check_queue(queue)
        keys = [_key(queue), _consumers(queue)]
        arguments = [consumer, _taken(queue), _lease(queue)]
        return int(await ask("recover dead letters", self._recover(keys, arguments)))

    async def _walk(self, queue: str, step: Callable[[int, str, DeadLetter], Awaitable[bool]]) -> None:
        """Show `step` each letter and its place; it says whether the letter has left its place."""
        _check_queue(queue)
        at, left = 0, await ask("count dead letters", self._client.llen(_key(queue)))
        while left > 0:
            last = at + min(PAGE, left) - 1
            page = await ask("read dead letters", self._client.lrange(_key(queue), at, last))
            if not page:
                return
            left -= len(page)
            for text in map(_text, page):
                letter = _from_text(queue, text)
                if letter is None or not await step(at, text, letter):
                    at += 1

    async def _deliver(self, handler: Handler, letter: DeadLetter) -> str | None:
        """None once the handler is done, otherwise why it is not."""
        try:
            async with asyncio.timeout(self._handler_timeout_s):
                await handler(letter.message)
        except TimeoutError:
            error = f"The handler took longer than {self._handler_timeout_s:g} s."
        except Exception as exc:  # noqa: BLE001 - whatever it is, the letter is kept, and says it
            error = str(exc) if isinstance(exc, LeviBotError) else f"{type(exc).__name__}: {exc}"
        else:
            return None
        log.warning(
            "a dead letter was not delivered", queue=letter.queue, letter=letter.letter_id, reason=error
        )
        return error

    def _after_failure(self, letter: DeadLetter, error: str) -> DeadLetter:
        wait_s = min(LONGEST_WAIT_S, self._first_wait_s * 2.0 ** min(letter.replays + 1, 30))
        return replace(
            letter,
            error=error[:MAX_ERROR],
            attempts=letter.attempts + 1,
            replays=letter.replays + 1,
            due_at=self._clock.now() + timedelta(seconds=wait_s),
        )


def _to_text(letter: DeadLetter) -> str:
    try:
        return json.dumps(letter.to_json(), allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise DataError(f"The message for dlq:{letter.queue} is not JSON: {exc}.") from exc


def _from_text(queue: str, text: str) -> DeadLetter | None:
    """The letter, None (and an error in the log) where somebody else has put something there."""
    try:
        fields = json.loads(text)
        instants = {name: datetime.fromisoformat(fields[name]) for name in ("died_at", "due_at")}
        return DeadLetter(**fields | instants)
    except (ValueError, TypeError, KeyError) as exc:
        log.error("an entry of a queue is not a dead letter", queue=queue, reason=str(exc))
        return None


def _text(stored: bytes | str) -> str:
    return stored if isinstance(stored, str) else stored.decode(errors="replace")


def _check_queue(queue: str) -> None:
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", queue):
        raise UsageError(f"The queue is named {queue!r}.", hint="Use a-z, 0-9, _ and -, at most 64 of them.")


def _key(queue: str) -> str:
    return f"dlq:{queue}"


def _taken(queue: str) -> str:
    return f"dlq:{queue}:taken:"


def _consumers(queue: str) -> str:
    return f"dlq:{queue}:consumers"


def _lease(queue: str) -> str:
    return f"dlq:{queue}:lease:"
