"""Law 5: every value says how old it is. Nothing stale is passed off as fresh, nothing missing as zero.

The check writes features of known ages with the real store and asks a reader for them. Each planted fault is
a reader with one plausible mistake; the check must find it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.stores.online import FeatureReading, FeatureWindow, Freshness, OnlineStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NAMES = ("present", "gone")

# Age at the moment of reading, what it must be called, the age it must say. Fresh is up to two bars.
EXPECTED: dict[str, tuple[timedelta, Freshness, float | None]] = {
    "NOW": (timedelta(0), Freshness.FRESH, 0.0),
    "EDGE": (2 * HOUR, Freshness.FRESH, 7200.0),
    "OLD": (2 * HOUR + timedelta(seconds=1), Freshness.STALE, 7201.0),
    "ANCIENT": (200 * HOUR, Freshness.STALE, 720_000.0),
    "AHEAD": (-HOUR / 2, Freshness.FRESH, 0.0),
    "OTHERRUN": (-3 * HOUR, Freshness.MISSING, None),
}
NEVER_WRITTEN = "NEVER"


class IgnoresTheAge(OnlineStore):
    """Calls everything it finds fresh."""

    def freshness(self, event_time: datetime) -> tuple[Freshness, float | None]:
        return Freshness.FRESH, super().freshness(event_time)[1]


class SaysNoAge(OnlineStore):
    """Knows what is stale, but not how stale."""

    async def read(self, symbols: Sequence[str]) -> dict[str, FeatureReading]:
        return {s: replace(r, age_s=0.0) for s, r in (await super().read(symbols)).items()}


class MeasuresOnItsOwnClock(OnlineStore):
    """Takes the machine's time for the market's."""

    def freshness(self, event_time: datetime) -> tuple[Freshness, float | None]:
        age_s = (datetime.now(UTC) - event_time).total_seconds()
        return (Freshness.FRESH if age_s <= 7200 else Freshness.STALE), age_s


class TakesMissingForZero(OnlineStore):
    """Fills the gaps of a vector."""

    async def read(self, symbols: Sequence[str]) -> dict[str, FeatureReading]:
        found = await super().read(symbols)
        return {s: replace(r, values={n: r.values.get(n, 0.0) for n in NAMES}) for s, r in found.items()}


class TrustsTheFuture(OnlineStore):
    """Takes what another run left for this one's."""

    def freshness(self, event_time: datetime) -> tuple[Freshness, float | None]:
        freshness, age_s = super().freshness(event_time)
        return (Freshness.FRESH, 0.0) if freshness is Freshness.MISSING else (freshness, age_s)


@pytest.fixture
async def stores(redis_url: str) -> AsyncIterator[list[OnlineStore]]:
    opened: list[OnlineStore] = []
    clock = ManualClock(NOON)
    for kind in (OnlineStore, *FAULTS):
        opened.append(
            kind.open(
                redis_url, "law-5", "v", clock=clock, interval=HOUR, fresh_bars=2.0, ttl_s=60.0, timeout_s=2.0
            )
        )
    yield opened
    for store in opened:
        await store.close()


FAULTS = (IgnoresTheAge, SaysNoAge, MeasuresOnItsOwnClock, TakesMissingForZero, TrustsTheFuture)


async def broken_promises(writer: OnlineStore, reader: OnlineStore) -> list[str]:
    """What the reader says that is not so, one sentence each; empty when the law holds."""
    run = secrets.token_hex(4).upper()
    rows = np.array([[1.0, 2.0], [3.0, np.nan]])
    await writer.write_features(
        [FeatureWindow(f"{name}{run}", NOON - age, NAMES, rows) for name, (age, _, _) in EXPECTED.items()]
    )
    readings = await reader.read([f"{name}{run}" for name in (*EXPECTED, NEVER_WRITTEN)])
    problems = []
    for name, (_, freshness, age_s) in EXPECTED.items():
        reading = readings[f"{name}{run}"]
        if (reading.freshness, reading.age_s) != (freshness, age_s):
            problems.append(
                f"{name} is {freshness}, {age_s} s; it says {reading.freshness}, {reading.age_s} s."
            )
        if dict(reading.values) != ({} if freshness is Freshness.MISSING else {"present": 3.0}):
            problems.append(f"{name} has the values {reading.values}.")
    never = readings[f"{NEVER_WRITTEN}{run}"]
    if (never.freshness, never.age_s, dict(never.values)) != (Freshness.MISSING, None, {}):
        problems.append(f"What was never written is {never.freshness} with {never.values}.")
    return problems


async def test_every_value_says_how_old_it_is(stores: list[OnlineStore]) -> None:
    assert await broken_promises(stores[0], stores[0]) == []


@pytest.mark.parametrize("number", range(1, len(FAULTS) + 1), ids=[fault.__name__ for fault in FAULTS])
async def test_the_check_finds_a_planted_fault(stores: list[OnlineStore], number: int) -> None:
    assert await broken_promises(stores[0], stores[number]) != []
