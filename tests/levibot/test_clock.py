"""A market has one time, however many processes read it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from levibot.clock import END_OF_TIME, Clock, ManualClock, ReplayClock, SystemClock

MARKET = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "clock", [SystemClock(), ReplayClock(MARKET, datetime.now(UTC), 3600.0), ManualClock(MARKET)]
)
def test_every_clock_is_aware_utc_and_never_runs_back(clock: Clock) -> None:
    seen = [clock.now() for _ in range(100)]
    assert all(instant.tzinfo is UTC for instant in seen)
    assert seen == sorted(seen)


def test_a_replay_runs_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = datetime(2025, 6, 1, tzinfo=UTC)
    clock = ReplayClock(MARKET, wall, rate=3600.0)
    monkeypatch.setattr(time, "time", lambda: wall.timestamp() + 2.5)
    assert clock.now() == MARKET + timedelta(hours=2.5)
    assert ReplayClock(MARKET, wall, rate=3600.0).now() == clock.now()


def test_a_replay_stands_still_before_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = datetime(2025, 6, 1, tzinfo=UTC)
    monkeypatch.setattr(time, "time", lambda: wall.timestamp() - 100.0)
    assert ReplayClock(MARKET, wall, rate=3600.0).now() == MARKET


def test_a_replay_that_is_left_alone_stands_still_at_the_end_of_time() -> None:
    clock = ReplayClock(MARKET, datetime(2020, 1, 1, tzinfo=UTC), rate=3.6e6)
    assert clock.now() == clock.now() == END_OF_TIME


def test_a_manual_clock_moves_only_by_hand() -> None:
    clock = ManualClock(MARKET)
    clock.advance(1.5)
    assert clock.now() == clock.now() == MARKET + timedelta(seconds=1.5)
