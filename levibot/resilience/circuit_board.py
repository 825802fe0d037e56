"""Where processes tell each other that a circuit has opened or closed: one key a circuit, in Redis.

Key `circuit:{name}`, value `state:origin:number`, gone when the opening ends. Calls never touch Redis: a task
of its own writes what this process announces and reads what the others say, four times a second at most.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

import structlog
from redis.asyncio import Redis

from levibot.errors import StoreError
from levibot.stores.redis import translated

READ_EVERY_S = 0.25
# While Redis is away it is asked less often.
LONGEST_PAUSE_S = 2.0
SHORTEST_LIFE_S = 1.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class News:
    """What another process says of a place. remaining_s: how long its circuit stays open."""

    state: str
    origin: str
    remaining_s: float


class Listener(Protocol):
    """What hears the news of one place: a circuit."""

    name: str

    def hear(self, news: News) -> None: ...


class CircuitBoard:
    """Best effort: circuits stay right when Redis is away, they only know less of each other.

    `async with CircuitBoard(client):` runs its task. `join` and `announce` may be called from any thread.
    """

    def __init__(self, client: Redis, *, read_every_s: float = READ_EVERY_S) -> None:
        self._client = client
        self._read_every_s = read_every_s
        self._origin = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._circuits: dict[str, WeakSet[Listener]] = {}
        # Of each circuit the newest word, and until when (monotonic) it is worth telling.
        self._unsent: dict[str, tuple[str, float]] = {}
        self._heard: dict[str, str] = {}
        self._due = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> CircuitBoard:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task, self._loop = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def join(self, circuit: Listener) -> None:
        """Tell this circuit the news of its name, for as long as it lives."""
        self._circuits.setdefault(circuit.name, WeakSet()).add(circuit)

    def announce(self, name: str, state: str, life_s: float) -> None:
        """Tell the others, soon, that the circuit is in this state; never waits and never fails."""
        value = f"{state}:{self._origin}:{next(self._numbers)}"
        self._unsent[name] = (value, time.monotonic() + max(SHORTEST_LIFE_S, life_s))
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._due.set)

    async def exchange(self) -> None:
        """Write what is unsent and read what there is, in one round trip. Raises StoreError."""
        unsent, names = dict(self._unsent), list(self._circuits)
        now = time.monotonic()
        pipeline = self._client.pipeline(transaction=False)
        for name, (value, ends_at) in unsent.items():
            if ends_at > now:
                pipeline.set(_key(name), value, px=max(1, round((ends_at - now) * 1000)))
        n_written = len(pipeline)
        for name in names:
            pipeline.get(_key(name))
            pipeline.pttl(_key(name))
        with translated("share circuits"):
            answers = (await pipeline.execute())[n_written:]
        for name, sent in unsent.items():
            # Only what was not replaced meanwhile.
            if self._unsent.get(name) == sent:
                del self._unsent[name]
        for name, value, life_ms in zip(names, answers[::2], answers[1::2], strict=True):
            self._hear(name, value, life_ms)

    async def _run(self) -> None:
        pause_s = self._read_every_s
        while True:
            try:
                await self.exchange()
                pause_s = self._read_every_s
            except StoreError as exc:
                if pause_s == self._read_every_s:
                    log.warning("circuits are not shared for now", reason=str(exc))
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        if self._unsent:
            # The server has just failed to take it: not at once again.
            await asyncio.sleep(pause_s)
        else:
            try:
                async with asyncio.timeout(pause_s):
                    await self._due.wait()
            except TimeoutError:
                return
        self._due.clear()

    def _hear(self, name: str, value: bytes | None, life_ms: int) -> None:
        if value is None or life_ms <= 0:
            return
        text = value.decode(errors="replace")
        state, _, rest = text.partition(":")
        origin = rest.partition(":")[0]
        if origin == self._origin or self._heard.get(name) == text:
            return
        self._heard[name] = text
        circuits: Iterable[Listener] = self._circuits[name]
        for circuit in list(circuits):
            circuit.hear(News(state, origin, life_ms / 1000))


def _key(name: str) -> str:
    return f"circuit:{name}"
