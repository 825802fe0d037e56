"""How long one use of a connection may wait. A slow query and a silent server are told apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class Deadline:
    """Bounds the waits of a block. State: two timers and at most one question to the server.

    silence_s: after so long without a sign of life the server is asked, on another connection, whether it
    still answers. If it does not, the block ends with TimeoutError; if it does, the query is only slow and
    goes on. limit_s: the server itself cancels a statement after this; where even that does not come, the
    block ends `silence_s` later.
    """

    def __init__(
        self,
        timeout: asyncio.Timeout,
        silence_s: float,
        limit_s: float,
        is_alive: Callable[[], Awaitable[bool]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._silence_s = silence_s
        self._limit_s = limit_s
        self._is_alive = is_alive
        self._silent_at = 0.0
        self._question: asyncio.Task[None] | None = None
        self.extend()
        self._timer = self._loop.call_at(self._silent_at, self._look)

    def extend(self) -> None:
        """The server gave a sign of life: it has the same time again."""
        now = self._loop.time()
        self._silent_at = now + self._silence_s
        if not self._timeout.expired():
            self._timeout.reschedule(now + self._limit_s + self._silence_s)

    def close(self) -> None:
        """The block is over."""
        self._timer.cancel()
        if self._question is not None:
            self._question.cancel()

    def _look(self) -> None:
        if self._loop.time() < self._silent_at:
            self._timer = self._loop.call_at(self._silent_at, self._look)
        else:
            self._question = self._loop.create_task(self._ask())

    async def _ask(self) -> None:
        if await self._is_alive():
            # Not `extend`: the limit on the query itself goes on.
            self._silent_at = self._loop.time() + self._silence_s
            self._timer = self._loop.call_at(self._silent_at, self._look)
        elif not self._timeout.expired():
            self._timeout.reschedule(self._loop.time())


@asynccontextmanager
async def bounded(
    silence_s: float, limit_s: float, is_alive: Callable[[], Awaitable[bool]]
) -> AsyncIterator[Deadline]:
    """A deadline for the block. Raises TimeoutError when it has passed."""
    async with asyncio.timeout(None) as timeout:
        deadline = Deadline(timeout, silence_s, limit_s, is_alive)
        try:
            yield deadline
        finally:
            deadline.close()
