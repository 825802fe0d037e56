"""Side series: what is known at a close, how long it counts, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError, UnknownSymbol, UsageError
from levibot.market.bars import FloatArray, Panel, TimeArray
from levibot.market.side_series import (
    FUNDING_RATE,
    NEWS_SENTIMENT,
    NFT_FLOOR,
    SideSeries,
    read_funding,
    with_side_series,
)

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-01-01T00:00:00", "us")
SYMBOLS = ("BTCUSDT", "ETHUSDT")

At = Callable[[SideSeries, TimeArray, timedelta], FloatArray]


def panel(rows: int = 10) -> Panel:
    price = np.ones((rows, 2))
    return Panel(
        SYMBOLS, timedelta(hours=1), START + np.arange(rows) * HOUR, price, price, price, price, price
    )


def series(name: str, symbol: str | None, minutes: list[int], values: list[float]) -> SideSeries:
    """Observations available so many minutes after the first bar opens."""
    at = START + np.array(minutes, dtype=np.int64) * np.timedelta64(1, "m")
    return SideSeries(name, symbol, at, np.array(values, dtype=np.float64))


def check_nothing_shows_before_it_is_available(observed: SideSeries, instants: TimeArray, at: At) -> None:
    """Raises AssertionError where a value changes when what comes later is taken away."""
    seen = at(observed, instants, timedelta(hours=100))
    for row, instant in enumerate(instants):
        known = observed.available_at <= instant
        past = SideSeries("past", None, observed.available_at[known], observed.value[known])
        expected = past.value[-1] if known.any() else np.nan
        assert np.array_equal(seen[row], expected, equal_nan=True), f"row {row} shows what it cannot know"


def at_series(observed: SideSeries, instants: TimeArray, longest_age: timedelta) -> FloatArray:
    return observed.at(instants, longest_age)


minutes_lists = st.lists(st.integers(0, 600), min_size=0, max_size=30).map(sorted)


@given(minutes=minutes_lists)
def test_an_observation_never_shows_before_it_is_available(minutes) -> None:
    observed = series("any", None, minutes, [float(i) for i in range(len(minutes))])
    check_nothing_shows_before_it_is_available(observed, panel().closes_at, at_series)


def nearest(observed: SideSeries, instants: TimeArray, longest_age: timedelta) -> FloatArray:
    gaps = np.abs(observed.available_at[None, :] - instants[:, None])
    return observed.value[np.argmin(gaps, axis=1)]


def by_opening(observed: SideSeries, instants: TimeArray, longest_age: timedelta) -> FloatArray:
    return observed.at(instants + HOUR, longest_age)


@pytest.mark.parametrize("wrong", [nearest, by_opening])
def test_an_alignment_that_looks_ahead_is_caught(wrong) -> None:
    observed = series("any", None, [5, 65, 130, 200], [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(AssertionError, match="cannot know"):
        check_nothing_shows_before_it_is_available(observed, panel().closes_at, wrong)


def test_what_becomes_available_at_the_close_itself_counts() -> None:
    observed = series("any", None, [60, 121], [1.0, 2.0])
    np.testing.assert_array_equal(observed.at(panel(3).closes_at, timedelta(hours=9)), [1.0, 1.0, 2.0])


def test_an_observation_that_is_too_old_is_missing() -> None:
    observed = series("any", None, [60], [1.0])
    expected = [1.0, 1.0, 1.0, np.nan, np.nan]
    np.testing.assert_array_equal(observed.at(panel(5).closes_at, timedelta(hours=2)), expected)


def test_a_nan_says_that_nothing_is_known_any_more() -> None:
    observed = series("any", None, [60, 100], [1.0, np.nan])
    np.testing.assert_array_equal(observed.at(panel(3).closes_at, timedelta(hours=9)), [1.0, np.nan, np.nan])


def test_of_two_observations_of_one_instant_the_later_one_counts() -> None:
    observed = series("any", None, [60, 60], [1.0, 2.0])
    assert observed.at(panel(1).closes_at, timedelta(hours=9))[0] == 2.0


def test_each_symbol_has_its_own_and_the_market_one_for_all() -> None:
    given_series = [
        series(FUNDING_RATE, "ETHUSDT", [0], [1e-4]),
        series(FUNDING_RATE, "DOGEUSDT", [0], [9.0]),
        series(NFT_FLOOR, None, [0], [12.0]),
    ]
    extra = with_side_series(panel(2), given_series).extra
    np.testing.assert_array_equal(extra[FUNDING_RATE], [[np.nan, 1e-4]] * 2)
    np.testing.assert_array_equal(extra[NFT_FLOOR], [[12.0, 12.0]] * 2)
    assert NEWS_SENTIMENT not in extra


def test_a_series_given_anew_takes_the_place_of_the_old_one() -> None:
    once = with_side_series(panel(1), [series(NFT_FLOOR, None, [0], [1.0])])
    again = with_side_series(once, [series(NFT_FLOOR, "BTCUSDT", [0], [2.0])])
    np.testing.assert_array_equal(again.extra[NFT_FLOOR], [[2.0, np.nan]])
    np.testing.assert_array_equal(once.extra[NFT_FLOOR], [[1.0, 1.0]])


def test_a_cut_of_the_panel_keeps_its_side_series() -> None:
    whole = with_side_series(panel(10), [series(FUNDING_RATE, "BTCUSDT", [0, 300], [1.0, 2.0])])
    np.testing.assert_array_equal(whole.tail(3).extra[FUNDING_RATE], whole.extra[FUNDING_RATE][-3:])
    np.testing.assert_array_equal(whole.rows(slice(0, 4)).extra[FUNDING_RATE], whole.extra[FUNDING_RATE][:4])


def test_two_series_for_one_column_are_refused() -> None:
    twice = [series(NFT_FLOOR, None, [0], [1.0]), series(NFT_FLOOR, "ETHUSDT", [0], [2.0])]
    with pytest.raises(UsageError, match="Two side series 'nft_floor' are given for ETHUSDT"):
        with_side_series(panel(), twice)


def test_a_series_without_a_longest_age_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'tides' has no longest age.*dex_spread"):
        with_side_series(panel(), [series("tides", None, [0], [1.0])])


def test_instants_out_of_order_are_refused() -> None:
    with pytest.raises(DataError, match="not in order"):
        series("any", None, [60, 30], [1.0, 2.0])


def test_an_instant_for_each_value_is_needed() -> None:
    with pytest.raises(DataError, match="same length"):
        series("any", None, [60], [1.0, 2.0])


def write_rates(folder: Path, symbol: str, columns: dict[str, list[object]]) -> None:
    (folder / "funding").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "funding" / f"{symbol}.parquet")


def test_recorded_rates_are_known_when_they_are_paid(tmp_path) -> None:
    write_rates(tmp_path, "BTCUSDT", {"ts": [START, START + 8 * HOUR], "funding_rate": [1e-4, 2e-4]})
    (rates,) = read_funding(tmp_path, ["BTCUSDT"])
    assert (rates.name, rates.symbol) == (FUNDING_RATE, "BTCUSDT")
    extra = with_side_series(panel(10), [rates]).extra[FUNDING_RATE]
    np.testing.assert_array_equal(extra[:, 0], [1e-4] * 7 + [2e-4] * 3)
    assert np.isnan(extra[:, 1]).all()


def test_a_folder_without_rates_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="holds no funding rates"):
        read_funding(tmp_path, ["BTCUSDT"])


def test_a_symbol_without_rates_is_refused_with_what_is_there(tmp_path) -> None:
    write_rates(tmp_path, "BTCUSDT", {"ts": [START], "funding_rate": [1e-4]})
    with pytest.raises(UnknownSymbol, match=r"DOGEUSDT.*BTCUSDT"):
        read_funding(tmp_path, ["DOGEUSDT"])


def test_a_file_without_the_rate_is_refused(tmp_path) -> None:
    write_rates(tmp_path, "BTCUSDT", {"ts": [START], "rate": [1e-4]})
    with pytest.raises(DataError, match="no column funding_rate"):
        read_funding(tmp_path, ["BTCUSDT"])


def test_a_file_that_is_no_parquet_is_refused(tmp_path) -> None:
    (tmp_path / "funding").mkdir()
    (tmp_path / "funding" / "BTCUSDT.parquet").write_bytes(b"no rates")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_funding(tmp_path, ["BTCUSDT"])


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_the_recorded_rates_fill_the_hours_between_payments() -> None:
    rates = read_funding(Path(os.environ["LEVIBOT_MARKET_DATA"]), SYMBOLS)
    year = replace(panel(8000), ts=np.datetime64("2023-01-01", "us") + np.arange(8000) * HOUR)
    filled = with_side_series(year, rates).extra[FUNDING_RATE]
    assert np.isfinite(filled).all()
    assert np.abs(filled).max() < 0.01
    changes = np.flatnonzero(np.diff(filled[:, 0]) != 0.0)
    # A row closes an hour after it opens: the rate of 8:00 is in the row that opens at 7:00.
    assert set((changes + 2) % 8) == {0}
