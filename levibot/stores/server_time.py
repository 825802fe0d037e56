"""The clock of a Redis server, as this process knows it."""

from __future__ import annotations

import time

from redis.asyncio import Redis

from levibot.stores.redis import ask

# A quartz that is off by 100 ppm is off by 3 ms then.
RESYNC_NS = 30_000_000_000
TOLERANCE_US = 100_000
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class ServerTime:
    """Reads the server's clock now and then, and counts on by the machine's own, which is never set.

    Writers have the server stamp what they write, so that ages do not depend on what time writer and reader
    think it is. State: the last reading.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._server_us = 0
        self._asked_at_ns: int | None = None
        self._answered_at_ns = 0

    async def sync(self) -> int:
        """Read the server's clock, whatever is known; returns it as `latest_us` does.

        Raises StoreUnavailable or StoreError.
        """
        asked_at_ns = _now_ns()
        seconds, microseconds = await ask("read its clock", self._client.time())
        self._server_us = seconds * 1_000_000 + microseconds
        self._asked_at_ns, self._answered_at_ns = asked_at_ns, _now_ns()
        return self._server_us + (self._answered_at_ns - asked_at_ns) // 1000

    def latest_us(self) -> int | None:
        """The server's clock, microseconds since 1970: not behind it, ahead by a round trip at most.

        None when what is known is too old to count on: `sync` is due.
        """
        now_ns = _now_ns()
        if self._asked_at_ns is None or now_ns - self._asked_at_ns >= RESYNC_NS:
            return None
        return self._server_us + (now_ns - self._asked_at_ns) // 1000

    async def earliest_us(self) -> int:
        """The same, not ahead of it, behind by a round trip at most; read first where that is due.

        Raises StoreUnavailable or StoreError.
        """
        if self.latest_us() is None:
            await self.sync()
        return self._server_us + (_now_ns() - self._answered_at_ns) // 1000

    def check(self, earliest_us: int, server_us: int) -> None:
        """Compare with what the server's clock said in an answer that just came; `earliest_us` when asked.

        Where that cannot be, the clock was set, or another server answers: `sync` is due at once.
        """
        latest_us = self.latest_us()
        if latest_us is None or not earliest_us - TOLERANCE_US <= server_us <= latest_us + TOLERANCE_US:
            self._asked_at_ns = None


def _now_ns() -> int:
    return time.clock_gettime_ns(_SINCE_BOOT)
