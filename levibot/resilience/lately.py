"""An answer that is waited for only so long: otherwise the last one is given, with its age."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lately(Generic[T]):
    """What `look` says, asked by many at once and run once at a time. State: the last answer, and when.

    wait_s: how long a caller waits for a new answer; a look that takes longer goes on without it.
    """

    def __init__(self, look: Callable[[], Awaitable[T]], *, wait_s: float) -> None:
        self._look = look
        self._wait_s = wait_s
        self._running: asyncio.Task[T] | None = None
        self._last: tuple[T, float] | None = None

    async def get(self) -> tuple[T | None, float]:
        """The answer and its age in seconds: 0 for a new one, infinite and None where there never was one.

        What `look` raises within the time is raised.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())
        running = self._running
        done, _ = await asyncio.wait({running}, timeout=self._wait_s)
        if done:
            return running.result(), 0.0
        if self._last is None:
            return None, float("inf")
        value, at = self._last
        return value, time.monotonic() - at

    async def _run(self) -> T:
        value = await self._look()
        self._last = value, time.monotonic()
        return value
