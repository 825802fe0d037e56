"""An operation that is done once for each key, however often it is asked for: the first writer wins.

Key `idem:{key}`, a hash in the durable Redis: the request's fingerprint, the fencing token, until when the
claim is held, and the result once there is one. It lives for `ttl_s` from the claim, and from the result.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis

from levibot.errors import DataError, LeviBotError, NotReady, StoreError, UsageError
from levibot.resilience.deadline import remaining_s
from levibot.resilience.idempotency_scripts import CLAIM, FINISH, HOLD
from levibot.resilience.retry import Retry, is_transient
from levibot.stores.redis import ask

MAX_KEY = 200
MAX_BYTES = 1_000_000
FIRST_LOOK_S, LONGEST_LOOK_S = 0.02, 0.25
log = structlog.get_logger()

# Takes the fencing token: it rises with each claim of the key, so that what the operation writes to can
# refuse a writer that was overtaken. Its result is JSON.
Operation = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Done:
    """The result of the operation, and whether it was stored before this call."""

    result: Any
    is_repeat: bool


def fingerprint(body: Any) -> str:
    """What tells two requests apart: SHA-256 of the body's JSON, whatever the order of its keys."""
    try:
        text = json.dumps(body, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as exc:
        raise DataError(f"The request is not JSON: {exc}.") from exc
    return hashlib.sha256(text.encode()).hexdigest()


class Idempotency:
    """Keys on one Redis server. State: none; any number of processes may use them at once.

    ttl_s: how long a result is remembered. lease_s: how long a claim outlives a writer that died; one that
    lives renews it. wait_s: how long a repeat waits for a writer that is at work, before it is told so.

    What is promised: of all calls with one key, one does the operation at a time, and all that return, return
    the one stored result. Not promised is that a writer which dies, or loses Redis, between the operation and
    its result has not done it: then the repeat does it again, with a higher token.
    """

    def __init__(self, client: Redis, *, ttl_s: float, lease_s: float, wait_s: float = 5.0) -> None:
        self._lease_s = lease_s
        self._ttl_ms = round(ttl_s * 1000)
        self._wait_s = wait_s
        self._claim = client.register_script(CLAIM)
        self._hold = client.register_script(HOLD)
        self._finish = client.register_script(FINISH)
        self._storing = Retry("store an idempotent result", is_failure=is_transient)

    async def run(self, key: str, fingerprint: str, operation: Operation) -> Done:
        """Do the operation, or return what the first writer's came to.

        An operation that raises frees the key: a repeat does it again.
        Raises UsageError when the key was used with another request, NotReady (with `retry_after_s`) while
        another writer is still at it, DataError when the operation's result is not JSON, StoreError when the
        claim cannot be made (nothing was done then) or the result cannot be stored (the message says that it
        was done).
        """
        if not 1 <= len(key) <= MAX_KEY:
            raise UsageError(f"The idempotency key has {len(key)} characters, not 1 to {MAX_KEY}.")
        left_s = remaining_s()
        ends_at = time.monotonic() + (self._wait_s if left_s is None else min(self._wait_s, left_s))
        look_s = FIRST_LOOK_S
        while True:
            state, value = await self._claimed(key, fingerprint)
            if state == "done":
                return Done(json.loads(value), is_repeat=True)
            if state == "claimed":
                result = await self._do(key, int(value), operation)
                if result is not None:
                    return Done(json.loads(result), is_repeat=False)
                # Overtaken: the result that counts is that of the newer claim.
                continue
            left_s = ends_at - time.monotonic()
            if left_s <= 0.0:
                raise NotReady(
                    f"The request {key} is in progress, begun by another caller.",
                    hint="Ask again for its result.",
                    retry_after_s=min(int(value) / 1000, self._lease_s),
                )
            await asyncio.sleep(min(left_s, random.uniform(look_s / 2, look_s)))
            look_s = min(LONGEST_LOOK_S, look_s * 2)

    async def _claimed(self, key: str, request: str) -> tuple[str, Any]:
        """What the key says: `claimed` and the token, `done` and the result, `busy` and for how many ms."""
        arguments: list[str | int] = [request, round(self._lease_s * 1000), self._ttl_ms]
        answer = await ask("claim an idempotency key", self._claim([_key(key)], arguments))
        state = answer[0].decode()
        if state == "other":
            raise UsageError(
                f"The idempotency key {key} was used with another request.",
                hint="A new request needs a new key.",
            )
        return state, answer[1]

    async def _do(self, key: str, token: int, operation: Operation) -> str | None:
        """The stored result; None when a newer claim has overtaken this one."""
        has_ended = asyncio.Event()
        holding = asyncio.create_task(self._keep_hold(key, token, has_ended))
        try:
            result = _to_text(key, await operation(token))
        except BaseException:
            # Also when cancelled: others need not wait for the end of the lease.
            await asyncio.shield(self._give_up(key, token))
            raise
        finally:
            # Not by the cancellation alone: one can be lost inside the client, where it meets a time-out.
            has_ended.set()
            holding.cancel()
            await asyncio.wait({holding}, timeout=self._lease_s)
        try:
            is_stored = await self._storing.call(self._store, key, token, result)
        except StoreError as exc:
            raise StoreError(
                f"The request {key} was done, but its result could not be stored: {exc.message}",
                hint="A repeat does it again.",
            ) from exc
        return result if is_stored else None

    async def _store(self, key: str, token: int, result: str) -> bool:
        arguments: list[str | int] = [token, result, self._ttl_ms]
        return bool(await ask("store an idempotent result", self._finish([_key(key)], arguments)))

    async def _keep_hold(self, key: str, token: int, has_ended: asyncio.Event) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            if has_ended.is_set():
                return
            try:
                lease_ms = round(self._lease_s * 1000)
                if not await ask("renew a claim", self._hold([_key(key)], [token, lease_ms])):
                    log.warning("a claim was overtaken", key=key, token=token)
                    return
            except LeviBotError as exc:
                log.warning("a claim could not be renewed", key=key, reason=str(exc))

    async def _give_up(self, key: str, token: int) -> None:
        try:
            await ask("give up a claim", self._hold([_key(key)], [token, 0]))
        except LeviBotError as exc:
            log.warning("a claim ends with its lease only", key=key, reason=str(exc))


def _to_text(key: str, result: Any) -> str:
    try:
        text = json.dumps(result, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise DataError(f"The result of {key} is not JSON: {exc}.") from exc
    if len(text) > MAX_BYTES:
        raise DataError(f"The result of {key} has {len(text)} bytes, over {MAX_BYTES}.")
    return text


def _key(key: str) -> str:
    return f"idem:{key}"
