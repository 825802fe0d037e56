"""The newest signals as they were found a moment ago: the first of the caches that a question comes to."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")
# Times its life: what was read is told no longer than that, whatever becomes of the next read.
LATE = 10.0


class SignalCache(Generic[T]):
    """Reads, or computes, the signals of all symbols at once; what was found is held for `lives_s`.

    While the next read is under way it is held longer, LATE times at most: a replica that has much to do
    reads slowly, and must not have all who ask wait for that. So a signal may be told that much later than
    Redis has it: how old it is, and whether it may be used, is the caller's to ask anew each time. State:
    what was read last, for one event loop. read: raises StoreError; nothing is held then. lives_s: 0 holds
    nothing. monotonic: seconds.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        *,
        lives_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._lives_s = lives_s
        self._monotonic = monotonic
        self._held: T | None = None
        self._read_at = -math.inf
        self._reading: asyncio.Task[T] | None = None

    def held(self) -> T | None:
        """What was read a moment ago, None where nothing was; nobody waits for anything.

        Where half of its life is over the next read begins, so that under steady questions no one waits.
        """
        age_s = self._monotonic() - self._read_at
        if self._lives_s / 2.0 <= age_s < self._lives_s:
            self._begin()
        is_read_anew = self._reading is not None and not self._reading.done()
        return self._held if age_s < self._lives_s * (LATE if is_read_anew else 1.0) else None

    async def read(self) -> T:
        """What there is now. Those who wait share one read.

        Raises StoreError.
        """
        return await asyncio.shield(self._begin())

    def forget(self) -> None:
        """Hold nothing of what was read: it would be another now."""
        self._read_at = -math.inf

    async def close(self) -> None:
        """End the read that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    def _begin(self) -> asyncio.Task[T]:
        if self._reading is None or self._reading.done():
            # In a context of its own: whose deadline the first caller has is not the others'.
            self._reading = asyncio.create_task(self._read_anew(), context=Context())
            self._reading.add_done_callback(_look_at)
        return self._reading

    async def _read_anew(self) -> T:
        asked_at = self._monotonic()
        found = self._held = await self._read()
        self._read_at = asked_at
        return found


def _look_at(reading: asyncio.Task[Any]) -> None:
    """Its callers may be gone; then nobody else looks at what was raised."""
    if not reading.cancelled():
        reading.exception()
