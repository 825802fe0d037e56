"""What the store of observations promises, on every server."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.market.bars import to_datetime64
from levibot.market.intake import Intake
from levibot.market.observations import Observations, Reading, screen_readings
from levibot.market.side_series import FUNDING_RATE, NFT_FLOOR
from levibot.stores.observations import ALL, BATCH_ROWS
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
INSTANTS = st.tuples(st.integers(0, 3), st.integers(0, 3))


def said(
    rows: list[tuple[int, int, float]], symbol: str | None = "BTCUSDT", *, name: str = FUNDING_RATE
) -> Observations:
    """Rows of (event, how much later it was known, value), in hours after noon."""
    events = np.array([to_datetime64(NOON + event * HOUR) for event, _, _ in rows], "datetime64[us]")
    known = np.array(
        [to_datetime64(NOON + (event + later) * HOUR) for event, later, _ in rows], "datetime64[us]"
    )
    return Observations(
        "x", name, symbol, events, known, np.array([value for _, _, value in rows], np.float64)
    )


async def seen_at(store: TickStore, market_id: str, hours: float) -> float:
    """What is known of BTCUSDT so many hours after noon, as whoever asks then is answered."""
    instant = NOON + hours * HOUR
    series = await store.observations.read(market_id, [FUNDING_RATE], ["BTCUSDT"], as_of=instant)
    values = [one.at(np.array([to_datetime64(instant)]), timedelta(days=9))[0] for one in series]
    return float(values[0]) if values else np.nan


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(INSTANTS, min_size=1, max_size=12, unique=True),
    order=st.randoms(use_true_random=False),
    n_writers=st.integers(1, 4),
)
async def test_late_and_repeated_rows_end_in_exactly_one_row_each(
    tick_store: TickStore, keys, order, n_writers
) -> None:
    market_id = secrets.token_hex(8)
    rows = [(event, later, event + later / 8) for event, later in keys]
    deliveries = []
    for _ in range(n_writers):
        mixed = [*rows, *rows[: len(rows) // 2]]
        order.shuffle(mixed)
        deliveries.append([said(mixed[: len(mixed) // 2]), said(mixed[len(mixed) // 2 :])])
    new = await asyncio.gather(*(tick_store.observations.write(market_id, sets) for sets in deliveries))
    assert sum(new) == len(rows)
    # At each instant the newest event known by then counts.
    for hours in range(7):
        known = [row for row in rows if row[0] + row[1] <= hours]
        expected = max(known)[2] if known else np.nan
        assert await seen_at(tick_store, market_id, hours) == pytest.approx(expected, nan_ok=True)
    # Whoever asks at the closes of bars of two hours is told less, and at these closes the same.
    whole, short = [
        await tick_store.observations.read(market_id, [FUNDING_RATE], ["BTCUSDT"], every=every)
        for every in (ALL, 2 * HOUR)
    ]
    closes = np.array([to_datetime64(NOON + hours * HOUR) for hours in range(0, 10, 2)])
    seen = [series[0].at(closes, timedelta(days=9)) for series in (whole, short)]
    np.testing.assert_array_equal(*seen)
    assert len(short[0].value) <= len(whole[0].value)


async def test_the_first_writer_of_a_row_wins(tick_store: TickStore) -> None:
    assert await tick_store.observations.write("m", [said([(0, 1, 0.1)])]) == 1
    assert await tick_store.observations.write("m", [said([(0, 1, 0.2)])]) == 0
    assert await seen_at(tick_store, "m", 1) == 0.1


async def test_what_was_known_then_is_not_changed_by_what_is_known_later(tick_store: TickStore) -> None:
    await tick_store.observations.write("m", [said([(0, 1, 0.1)])])
    before = await seen_at(tick_store, "m", 2)
    await tick_store.observations.write("m", [said([(0, 4, 0.2), (1, 5, np.nan)])])
    assert (before, await seen_at(tick_store, "m", 2)) == (0.1, 0.1)
    assert await seen_at(tick_store, "m", 4) == 0.2
    assert np.isnan(await seen_at(tick_store, "m", 6))
    assert np.isnan(await seen_at(tick_store, "m", 0.5))


async def test_symbols_the_market_and_markets_are_apart(tick_store: TickStore) -> None:
    sets = [said([(0, 0, 0.1)]), said([(0, 0, 0.2)], "ETHUSDT"), said([(0, 0, 9.0)], None, name=NFT_FLOOR)]
    assert await tick_store.observations.write("m", sets) == 3
    series = await tick_store.observations.read("m", [FUNDING_RATE, NFT_FLOOR], ["ETHUSDT", "ADAUSDT"])
    assert [(one.name, one.symbol, one.value.tolist()) for one in series] == [
        (FUNDING_RATE, "ETHUSDT", [0.2]),
        (NFT_FLOOR, None, [9.0]),
    ]
    assert await tick_store.observations.read("other", [FUNDING_RATE], ["ETHUSDT"]) == []
    assert await tick_store.observations.read("m", [FUNDING_RATE], ["ETHUSDT"], since=NOON + HOUR) == []
    assert await tick_store.observations.newest_events("m", "x") == {
        (FUNDING_RATE, "BTCUSDT"): NOON,
        (FUNDING_RATE, "ETHUSDT"): NOON,
        (NFT_FLOOR, None): NOON,
    }


async def test_many_rows_are_written_all_or_none(tick_store: TickStore) -> None:
    n = BATCH_ROWS + 10
    assert await tick_store.observations.write("m", [said([(event, 0, 0.1) for event in range(n)])]) == n
    broken = said([*((event, 0, 0.1) for event in range(n, 2 * n)), (3 * n, 0, np.inf)])
    with pytest.raises(DataError, match="observations_are_finite"):
        await tick_store.observations.write("m", [broken])
    with pytest.raises(DataError, match="observations_come_after_their_event"):
        await tick_store.observations.write("m", [said([(3 * n, -1, 0.1)])])
    (series,) = await tick_store.observations.read("m", [FUNDING_RATE], ["BTCUSDT"])
    assert len(series.value) == n


async def test_a_source_that_says_the_same_again_adds_nothing_and_a_correction_one_row(
    tick_store: TickStore,
) -> None:
    intake = Intake(tick_store, "m")

    async def look(value: float | None, hours: float) -> int:
        readings = [Reading(FUNDING_RATE, "BTCUSDT", NOON, value)]
        return (await intake.take_observations(screen_readings("x", readings, NOON + hours * HOUR))).n_new

    assert [await look(0.1, 1), await look(0.1, 2), await look(0.2, 3), await look(0.2, 4)] == [1, 0, 1, 0]
    assert [await look(None, 5), await look(None, 6)] == [1, 0]
    assert [await seen_at(tick_store, "m", hours) for hours in (1, 2, 3)] == [0.1, 0.1, 0.2]


async def test_a_bad_value_goes_to_quarantine_once_and_holds_nothing_up(tick_store: TickStore) -> None:
    intake = Intake(tick_store, "m")
    readings = [Reading(FUNDING_RATE, "BTCUSDT", NOON, 7.0), Reading(FUNDING_RATE, "ETHUSDT", NOON, 0.1)]
    accounts = [
        await intake.take_observations(screen_readings("x", readings, NOON + hours * HOUR))
        for hours in (1, 2)
    ]
    assert [(a.n_new, a.n_there, a.n_rejected) for a in accounts] == [(1, 0, 1), (0, 2, 0)]
    (kept,) = await tick_store.quarantine.read("m")
    assert (kept.refused.table_name, kept.refused.reason) == ("observations", "too_small_or_large")
    assert kept.refused.row["value"] == 7.0
