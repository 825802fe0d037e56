"""Broken rows are told apart from sound ones, each with its reason, and no row is lost or counted twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.market.bars import FIELDS, Bars
from levibot.market.screening import Screened, between, screen_bars
from levibot.market.validation import check_bars

HOUR = timedelta(hours=1)
START = np.datetime64("2024-01-01T00:00:00", "us")

Columns = dict[str, Any]


def columns(n: int = 10) -> Columns:
    close = 100.0 + np.arange(n)
    return {
        "ts": START + np.arange(n) * np.timedelta64(HOUR),
        "open": close - 0.5,
        "high": close + 1.0,
        "low": close - 1.0,
        "close": close,
        "volume": np.full(n, 3.0),
    }


def screen(rows: Columns) -> Screened[Bars]:
    return screen_bars("BTCUSDT", HOUR, rows, "a file")


def assert_holds(bars: Bars, rows: Columns) -> None:
    """Exactly these rows, to the last bit."""
    for name in ("ts", *FIELDS):
        np.testing.assert_array_equal(getattr(bars, name), rows[name])


FAULTS = {
    "not_finite": lambda row, field: row | {field: np.nan},
    "not_positive": lambda row, field: row | {field: -1.0},
    "high_low": lambda row, _: row | {"high": row["low"] * 0.5},
    "off_grid": lambda row, _: row | {"ts": row["ts"] + np.timedelta64(1, "s")},
    "no_instant": lambda row, _: row | {"ts": np.datetime64("NaT", "us")},
    "impossible_instant": lambda row, _: row | {"ts": np.datetime64("0024-01-01", "us")},
    # Beside the row that it contradicts, or repeats.
    "conflict": lambda row, _: row | {"volume": row["volume"] + 1.0},
    "repeat": lambda row, _: row,
}


@given(st.data())
def test_planted_faults_are_found_and_the_other_rows_come_through_bit_for_bit(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    clean = columns(n)
    planted = data.draw(
        st.lists(st.tuples(st.integers(0, n - 1), st.sampled_from(list(FAULTS)), st.sampled_from(FIELDS)))
    )
    rows = [{name: values[row] for name, values in clean.items()} for row in range(n)]
    given_rows: list[dict[str, Any]] = []
    for row in range(n):
        given_rows.append(rows[row])
        given_rows += [FAULTS[kind](rows[row], field) for at, kind, field in planted if at == row]
    given_columns = {name: np.array([row[name] for row in given_rows]) for name in clean}
    screened = screen(given_columns)
    assert_holds(screened.sound, clean)
    expected = [kind for _, kind, _ in sorted(planted, key=lambda fault: fault[0]) if kind != "repeat"]
    assert [reason for reason, _ in screened.rejects.records()] == expected
    assert len(screened.repeated) == len(planted) - len(expected)
    # A range at a time, every row is met once.
    cut = datetime(2024, 1, 1, tzinfo=UTC) + data.draw(st.integers(0, n)) * HOUR
    parts = [between(screened, cut - 99 * HOUR, cut), between(screened, cut, cut + 99 * HOUR)]
    assert sum(len(part.sound) for part in parts) == n
    assert sum(len(part.rejects) for part in parts) == len(expected)
    assert sum(len(part.repeated) for part in parts) == len(screened.repeated)


@given(st.data())
def test_every_row_that_the_strict_check_refuses_is_told_apart(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 12))
    rows = columns(n)
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(list(rows)))
        at, other = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
        rows[name][at] = rows[name][other]
    try:
        screened = screen(rows)
    except DataError:
        assert (np.diff(rows["ts"]) < np.timedelta64(0)).sum() > 0, "the order is what a set is refused for"
        return
    assert len(screened.sound) + len(screened.rejects) + len(screened.repeated) == n
    is_clean = len(screened.sound) == n
    try:
        check_bars("BTCUSDT", HOUR, rows, "a file")
    except DataError:
        assert not is_clean
    else:
        assert is_clean
    if len(screened.sound):
        check_bars(
            "BTCUSDT", HOUR, {f: getattr(screened.sound, f) for f in ("ts", *FIELDS)}, "the sound rows"
        )


@pytest.mark.parametrize(
    ("order", "rejected"),
    [
        ([0, 1, 2, 9, 3, 4, 5, 6, 7, 8], [9]),
        ([1, 2, 3, 4, 0, 5, 6, 7, 8, 9], [0]),
        ([0, 1, 3, 2, 4, 5, 6, 8, 7, 9], [2, 7]),
    ],
)
def test_as_few_rows_as_possible_are_out_of_order(order: list[int], rejected: list[int]) -> None:
    clean = columns()
    screened = screen({name: values[order] for name, values in clean.items()})
    assert screened.rejects.reasons() == {"out_of_order": len(rejected)}
    kept = sorted(set(range(10)) - set(rejected))
    if len(rejected) == 1:
        assert_holds(screened.sound, {name: values[kept] for name, values in clean.items()})
    assert len(screened.sound) == len(kept)


def test_rows_of_which_most_are_out_of_order_are_refused_as_a_whole() -> None:
    backwards = {name: values[::-1] for name, values in columns().items()}
    with pytest.raises(DataError, match=r"has 9 of 10 rows out of order\. Sort the rows by ts, oldest first"):
        screen(backwards)


def test_a_row_counts_under_the_first_rule_that_it_breaks() -> None:
    rows = columns()
    rows["close"][3], rows["high"][3] = np.nan, -5.0
    assert screen(rows).rejects.reasons() == {"not_finite": 1}


def test_of_two_rows_of_one_instant_the_sound_one_counts() -> None:
    rows = {name: np.append(values[:1], values) for name, values in columns().items()}
    rows["close"][0] = np.nan
    screened = screen(rows)
    assert_holds(screened.sound, columns())
    assert screened.rejects.reasons() == {"not_finite": 1}


def test_a_rejected_row_is_kept_as_it_came() -> None:
    rows = columns()
    rows["close"][3], rows["ts"] = np.inf, rows["ts"].astype("datetime64[ms]")
    rows["ts"][5] = np.datetime64("NaT")
    rows["volume"] = np.arange(10)
    records = list(screen(rows).rejects.records())
    assert records == [
        (
            "not_finite",
            {"ts": "2024-01-01T03:00:00.000Z", "open": 102.5, "high": 104.0, "low": 102.0, "close": "inf"}
            | {"volume": 3},
        ),
        ("no_instant", {"ts": None, "open": 104.5, "high": 106.0, "low": 104.0, "close": 105.0, "volume": 5}),
    ]


def test_no_sound_row_is_no_bars() -> None:
    screened = screen(columns() | {"volume": np.full(10, np.nan)})
    assert (len(screened.sound), len(screened.rejects)) == (0, 10)


def test_what_makes_every_row_useless_is_refused() -> None:
    rows = columns()
    del rows["low"]
    with pytest.raises(DataError, match="has no column 'low'"):
        screen(rows)


def test_the_callers_arrays_stay_its_own() -> None:
    rows = columns()
    bars = screen(rows).sound
    rows["close"][0] = -1.0
    assert bars.close[0] == 100.0
    assert not any(getattr(bars, f).flags.writeable for f in ("ts", *FIELDS))
