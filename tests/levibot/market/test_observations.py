"""Observations: what is one, and what became known when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import UsageError
from levibot.market.bars import to_datetime64
from levibot.market.observations import Reading, screen_observations, screen_readings
from levibot.market.side_series import DEX_SPREAD, FUNDING_RATE, NFT_FLOOR, SideSeries

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = np.timedelta64(1, "h")
T0 = to_datetime64(NOON)


def screened(name: str, events: list[int], available: list[int], values: list[float]):
    """Rows so many hours after noon."""
    at = {"event_ts": events, "available_ts": available}
    columns = {key: T0 + np.array(hours, np.int64) * HOUR for key, hours in at.items()}
    return screen_observations("x", name, "BTCUSDT", {**columns, "value": np.array(values, np.float64)})


def reasons(found) -> dict[str, int]:
    return dict(found.rejects.reasons())


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (FUNDING_RATE, np.inf, "not_finite"),
        (FUNDING_RATE, 0.6, "too_small_or_large"),
        (DEX_SPREAD, 1e12, "too_small_or_large"),
        (NFT_FLOOR, 0.0, "not_positive"),
        (NFT_FLOOR, 1e10, "too_small_or_large"),
    ],
)
def test_a_bad_value_is_rejected_with_its_reason_and_the_others_pass(name, value, reason) -> None:
    found = screened(name, [0, 1], [0, 1], [0.25, value])
    assert reasons(found) == {reason: 1}
    assert found.sound.value.tolist() == [0.25]
    ((code, row),) = found.rejects.records()
    # Without the instant of the reading: the same broken row at each look is one row in quarantine.
    assert (code, sorted(row)) == (reason, ["event_ts", "name", "source", "value"])


def test_nothing_known_any_more_is_an_observation() -> None:
    found = screened(NFT_FLOOR, [0, 0], [1, 1], [np.nan, np.nan])
    assert np.isnan(found.sound.value).tolist() == [True]
    assert (len(found.repeated), len(found.rejects)) == (1, 0)


def test_an_event_that_is_known_before_it_happens_is_rejected() -> None:
    assert reasons(screened(FUNDING_RATE, [0, 2], [0, 1], [0.1, 0.1])) == {"from_the_future": 1}


def test_rows_of_one_pair_of_instants_are_a_repeat_or_a_conflict() -> None:
    found = screened(FUNDING_RATE, [0, 0, 0, 0], [1, 1, 1, 2], [0.1, 0.1, 0.2, 0.3])
    assert reasons(found) == {"conflict": 1}
    assert len(found.repeated) == 1
    assert found.sound.value.tolist() == [0.1, 0.3]


def test_an_instant_that_is_none_is_rejected() -> None:
    columns = {
        "event_ts": np.array(["NaT", "2500-01-01", "2026-03-01"], "datetime64[us]"),
        "available_ts": np.array(["2026-03-01", "2500-01-02", "2026-03-01"], "datetime64[us]"),
        "value": np.zeros(3),
    }
    assert reasons(screen_observations("x", FUNDING_RATE, None, columns)) == {
        "no_instant": 1,
        "impossible_instant": 1,
    }


def test_a_series_that_no_feature_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="no side series 'tides'"):
        screened("tides", [0], [0], [0.0])


def test_a_reading_is_known_when_it_is_read_or_when_it_was_published() -> None:
    minute = timedelta(minutes=1)
    readings = [
        Reading(FUNDING_RATE, "BTCUSDT", NOON, 1e-4, NOON + minute),
        Reading(FUNDING_RATE, "BTCUSDT", NOON + 60 * minute, None),
        Reading(NFT_FLOOR, None, NOON, 11.0),
    ]
    funding, floor = screen_readings("x", readings, NOON + 90 * minute)
    assert funding.sound.available_ts.tolist() == [
        to_datetime64(NOON + minutes * minute).item() for minutes in (1, 90)
    ]
    assert np.isnan(funding.sound.value).tolist() == [False, True]
    assert (floor.sound.symbol, floor.sound.value.tolist()) == (None, [11.0])


rows = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 6), st.floats(-0.4, 0.4)),
    max_size=20,
    unique_by=lambda r: r[:2],
)


@given(rows=rows, close=st.integers(0, 20), longest=st.integers(1, 20))
def test_at_any_instant_the_newest_event_known_by_then_counts(rows, close, longest) -> None:
    event = T0 + np.array([r[0] for r in rows], np.int64) * HOUR
    known = event + np.array([r[1] for r in rows], np.int64) * HOUR
    value = np.array([r[2] for r in rows], np.float64)
    series = SideSeries.of_observations(FUNDING_RATE, None, event, known, value)
    instant = T0 + close * HOUR
    seen = series.at(np.array([instant]), timedelta(hours=longest))[0]
    by_then = [(e, k, v) for e, k, v in zip(event, known, value, strict=True) if k <= instant]
    newest = max(by_then, default=None)
    # Age counts from the event: what comes late is old when it comes.
    is_known = newest is not None and instant - newest[0] <= longest * HOUR
    assert np.array_equal(seen, newest[2] if is_known else np.nan, equal_nan=True)
    assert series.true_at_of(instant) == (None if newest is None else newest[0])
