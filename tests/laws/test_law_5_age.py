"""Law 5: every value says how old it is. Nothing stale is passed off as fresh, nothing missing as zero.

The check writes features of known ages with the real store and asks a reader for them, in each way that there
is. Each planted fault is a reader with one plausible mistake; the check must find it.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pytest

from levibot.clock import ManualClock
from levibot.serving.weighing import Route, chosen
from levibot.stores.live_weights import HeldWeights
from levibot.stores.online import (
    FeatureReading,
    FeatureWindow,
    Freshness,
    OnlineStore,
    ValueReading,
    ValueTime,
)
from levibot.stores.packed import NO_OWN_TIMES, IntArray, Unpacked, UnpackedMany, microseconds
from levibot.stores.reading import AgePolicy, Instant

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NAMES = ("present", "gone", "outside")
LIFE_S = 0.5

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

# A value from outside in a vector of now: its own time, and what it must be called.
OUTSIDE: dict[str, tuple[ValueTime, ValueReading]] = {
    "OUTNOW": (ValueTime(NOON), ValueReading(5.0, Freshness.FRESH, 0.0)),
    "OUTOLD": (ValueTime(NOON - 3 * HOUR), ValueReading(5.0, Freshness.STALE, 10_800.0)),
    "OUTLIVES": (ValueTime(NOON - 3 * HOUR, 4 * HOUR), ValueReading(5.0, Freshness.STALE, 10_800.0)),
    "OUTOVER": (ValueTime(NOON - HOUR, HOUR), ValueReading(None, Freshness.MISSING, None)),
    "OUTAHEAD": (ValueTime(NOON + 2 * HOUR), ValueReading(None, Freshness.MISSING, None)),
    # Had anew every eight hours: nothing newer can be known, and two hours later it is overdue.
    "OUTDUE": (ValueTime(NOON - 10 * HOUR, every=8 * HOUR), ValueReading(5.0, Freshness.FRESH, 36_000.0)),
    "OUTOVERDUE": (
        ValueTime(NOON - 10 * HOUR - SECOND, every=8 * HOUR),
        ValueReading(5.0, Freshness.STALE, 36_001.0),
    ),
}


class IgnoresTheAge(AgePolicy):
    """Calls everything it finds fresh."""

    def freshness(self, age_us: int, every_us: int = 0) -> Freshness:
        return Freshness.FRESH


class CallsOldWhatIsTheNewest(AgePolicy):
    """Measures what comes every eight hours with the clock of the bars."""

    def freshness(self, age_us: int, every_us: int = 0) -> Freshness:
        return super().freshness(age_us)


class MeasuresOnItsOwnClock(AgePolicy):
    """Takes the machine's time for the market's."""

    def age_us(self, source_us: int, stored: Unpacked, at: Instant) -> int | None:
        return microseconds(datetime.now(UTC)) - source_us


class TrustsTheFuture(AgePolicy):
    """Takes what another run left for this one's."""

    def age_us(self, source_us: int, stored: Unpacked, at: Instant) -> int | None:
        return super().age_us(source_us, stored, at) or 0


class AgesAllAsTheBars(AgePolicy):
    """Knows one age for a whole vector."""

    def reading(self, symbol, stored, at, columns) -> FeatureReading:  # type: ignore[no-untyped-def]
        return super().reading(symbol, stored._replace(own=NO_OWN_TIMES), at, columns)


class LeavesTheEndToTheServer(AgePolicy):
    """Takes for alive whatever the server still has."""

    def reading(self, symbol, stored, at, columns) -> FeatureReading:  # type: ignore[no-untyped-def]
        return super().reading(symbol, stored._replace(ttl_us=2**62), at, columns)


class LooksAtTheFirstOfMany(AgePolicy):
    """Ages a whole cross-section as its first symbol."""

    def ages_us(self, stored: UnpackedMany, at: Instant) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        ages, usable = super().ages_us(stored, at)
        return np.full_like(ages, ages[0]), usable | usable[0]


class SaysNoAge(OnlineStore):
    """Knows what is stale, but not how stale."""

    async def get(self, symbol: str) -> FeatureReading:
        return (await super().get(symbol))._replace(age_s=0.0)


class TakesMissingForZero(OnlineStore):
    """Fills the gaps of a vector."""

    async def get(self, symbol: str) -> FeatureReading:
        found = await super().get(symbol)
        return found if found.rows is None else found._replace(rows=np.nan_to_num(found.rows))


FAULTS: tuple[type[AgePolicy] | type[OnlineStore], ...] = (
    *(IgnoresTheAge, MeasuresOnItsOwnClock, TrustsTheFuture, AgesAllAsTheBars, LeavesTheEndToTheServer),
    *(CallsOldWhatIsTheNewest, LooksAtTheFirstOfMany, SaysNoAge, TakesMissingForZero),
)


class Stores:
    """A reader and two writers of one market; what the second writes lives for LIFE_S."""

    def __init__(self, url: str, fault: type[AgePolicy] | type[OnlineStore] | None = None) -> None:
        kind = fault if fault is not None and issubclass(fault, OnlineStore) else OnlineStore
        self.writer, self.brief, self.reader = (
            opened.open(
                *(url, "law-5", "v", NAMES),
                clock=ManualClock(NOON),
                interval=HOUR,
                fresh_bars=2.0,
                ttl_s=ttl_s,
                timeout_s=2.0,
            )
            for opened, ttl_s in ((OnlineStore, 60.0), (OnlineStore, LIFE_S), (kind, 60.0))
        )
        if fault is not None and issubclass(fault, AgePolicy):
            ages = self.reader._ages
            self.reader._ages = fault(ages.interval_us, ages.fresh_us, ages.rate)

    async def close(self) -> None:
        for store in (self.writer, self.brief, self.reader):
            await store.close()


@pytest.fixture
async def stores(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    opened = Stores(redis_url, getattr(request, "param", None))
    yield opened
    await opened.close()


async def broken_promises(stores: Stores) -> list[str]:
    """What the reader says that is not so, one sentence each; empty when the law holds."""
    run = secrets.token_hex(4).upper()
    problems: list[str] = []
    rows = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    await stores.writer.write_features(
        [FeatureWindow(f"{name}{run}", NOON - age, NAMES, rows) for name, (age, _, _) in EXPECTED.items()]
    )
    for name in (*EXPECTED, NEVER_WRITTEN):
        _, freshness, age_s = EXPECTED.get(name, (None, Freshness.MISSING, None))
        for reading in await every_way(stores.reader, name, run):
            if (reading.freshness, reading.age_s) != (freshness, age_s):
                problems.append(
                    f"{name}: {freshness}, {age_s} s; not {reading.freshness}, {reading.age_s} s."
                )
            if dict(reading.values) != ({} if freshness is Freshness.MISSING else {"present": 3.0}):
                problems.append(f"{name} has the values {reading.values}.")
    return [*problems, *await broken_for_outside(stores, run), *await broken_without_expiry(stores, run)]


async def broken_for_outside(stores: Stores, run: str) -> list[str]:
    """As `broken_promises`, of values that have a time of their own."""
    rows = np.array([[3.0, np.nan, 5.0]])
    await stores.writer.write_features(
        [
            FeatureWindow(f"{name}{run}", NOON, NAMES, rows, {"outside": time})
            for name, (time, _) in OUTSIDE.items()
        ]
    )
    problems = []
    for name, (_, expected) in OUTSIDE.items():
        for reading in await every_way(stores.reader, name, run):
            if reading.value("outside") != expected:
                problems.append(f"{name}: {expected}; not {reading.value('outside')}.")
            if ("outside" in reading.values) is (expected.freshness is Freshness.MISSING):
                problems.append(f"{name} has the values {reading.values}.")
            if reading.value("present") != ValueReading(3.0, Freshness.FRESH, 0.0):
                problems.append(f"{name}: its other value is {reading.value('present')}.")
            whole = Freshness.STALE if expected.freshness is Freshness.STALE else Freshness.FRESH
            if reading.freshness is not whole:
                problems.append(f"{name} is called {reading.freshness} as a whole.")
    return problems


async def broken_without_expiry(stores: Stores, run: str) -> list[str]:
    """As `broken_promises`, on a server that keeps what is over."""
    await stores.brief.write_features([FeatureWindow(f"OVER{run}", NOON, NAMES, np.ones((1, 3)))])
    for kind in ("vector", "window"):
        assert await stores.brief._client.persist(f"OVER{run}:features:{kind}")
    await asyncio.sleep(LIFE_S)
    return [
        f"What was over is {reading.freshness}."
        for reading in await every_way(stores.reader, "OVER", run)
        if reading.freshness is not Freshness.MISSING or reading.values
    ]


async def every_way(reader: OnlineStore, name: str, run: str) -> list[FeatureReading]:
    """What each of the three questions answers, and the arrays that the one for many gives too.

    Those for many are asked beside a symbol of now.
    """
    symbol, beside = f"{name}{run}", f"NOW{run}"
    many = await reader.get_many([beside, symbol])
    windows = await reader.get_windows([beside, symbol])
    age_s = float(many.ages_s[1])
    in_arrays = many[symbol]._replace(
        age_s=None if math.isnan(age_s) else age_s,
        rows=None if math.isnan(age_s) else many.vectors[1:2],
        columns={name: column for column, name in enumerate(NAMES)},
    )
    return [await reader.get(symbol), many[symbol], windows[symbol], in_arrays]


async def test_every_value_says_how_old_it_is(stores: Stores) -> None:
    assert await broken_promises(stores) == []


@pytest.mark.parametrize("stores", FAULTS, indirect=True, ids=lambda fault: fault.__name__)
async def test_the_check_finds_a_planted_fault(stores: Stores) -> None:
    assert await broken_promises(stores) != []


Choose = Callable[[Sequence[HeldWeights], Sequence[str], datetime, str], Route]
MEMBERS = ("trend", "strength")
TODAY = NOON.date()


def weights_after(day: date | None) -> HeldWeights:
    return HeldWeights(day, MEMBERS, (0.75, 0.25), (0.75, 0.25), "None.", {}, "prior", "v1.0.0")


def wrong_weights(choose: Choose) -> list[str]:
    """What a choice of weights says of their age that is not so."""
    wrong = []
    for days in range(1, 60):
        route = choose([weights_after(TODAY - timedelta(days=days))], MEMBERS, NOON, "redis")
        if route.age_s != 43_200.0 + 86_400.0 * (days - 1) or route.as_of != TODAY - timedelta(days=days):
            wrong.append(f"of {days} days before: {route.age_s}")
    for known in ([weights_after(None)], [], [weights_after(TODAY)], [weights_after(TODAY + timedelta(1))]):
        route = choose(known, MEMBERS, NOON, "redis")
        if route.age_s is not None or route.as_of is not None:
            wrong.append(f"that have learned from nothing yet: {route.age_s}")
    return wrong


def never_old(held: Sequence[HeldWeights], members: Sequence[str], as_of: datetime, read_from: str) -> Route:
    """The planted fault: whatever there is, is of now."""
    route = chosen(held, members, as_of, read_from)
    return route if route.age_s is None else replace(route, age_s=0.0)


def takes_the_newest(
    held: Sequence[HeldWeights], members: Sequence[str], as_of: datetime, read_from: str
) -> Route:
    """The planted fault: what was learned later than the decision is taken as well."""
    return chosen(held, members, as_of + timedelta(days=2), read_from)


def test_weights_say_how_old_they_are_and_those_that_know_nothing_have_no_age() -> None:
    assert wrong_weights(chosen) == []


@pytest.mark.parametrize("fault", [never_old, takes_the_newest])
def test_weights_that_lie_about_their_age_would_be_caught(fault: Choose) -> None:
    assert wrong_weights(fault) != []
