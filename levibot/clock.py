"""Time is passed in, never looked up. A market has one clock, and age and freshness are measured on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

# A fast replay that is left alone for a day would run out of the calendar.
END_OF_TIME = datetime(2200, 12, 31, tzinfo=UTC)


class Clock(Protocol):
    """The time of a market."""

    @property
    def rate(self) -> float:
        """Seconds of the market in a second of the machine; 0 where it does not run by itself."""
        ...

    def now(self) -> datetime:
        """The market's present instant, aware UTC."""
        ...


class SystemClock:
    """The time of a live market: the machine's own."""

    rate = 1.0

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ReplayClock:
    """The time of a recorded or simulated market: it runs `rate` times as fast as the machine's.

    `market_start`: the market's instant at the wall instant `wall_start`, both aware UTC.
    Every process that is given the same three numbers reads the same time, without talking to another.
    """

    market_start: datetime
    wall_start: datetime
    rate: float

    def now(self) -> datetime:
        elapsed_s = time.time() - self.wall_start.timestamp()
        longest_s = (END_OF_TIME - self.market_start).total_seconds()
        return self.market_start + timedelta(seconds=min(max(0.0, elapsed_s) * self.rate, longest_s))


class ManualClock:
    """A clock that a test moves by hand."""

    rate = 0.0

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
