"""Bars that break their schema are refused with one sentence that names the row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.market.bars import FIELDS
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


def check(rows: Columns) -> Any:
    return check_bars("BTCUSDT", HOUR, rows, "a file")


@st.composite
def sound_columns(draw: st.DrawFn) -> Columns:
    n = draw(st.integers(1, 30))
    steps = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    price = st.floats(1e-9, 1e9)
    rows = np.array([sorted(draw(st.tuples(price, price, price, price))) for _ in range(n)])
    is_up = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return {
        "ts": START + np.cumsum(steps) * np.timedelta64(HOUR),
        "low": rows[:, 0],
        "open": np.where(is_up, rows[:, 1], rows[:, 2]),
        "close": np.where(is_up, rows[:, 2], rows[:, 1]),
        "high": rows[:, 3],
        "volume": np.array(draw(st.lists(st.floats(0, 1e12), min_size=n, max_size=n))),
    }


@given(sound_columns())
def test_sound_bars_pass_unchanged(rows: Columns) -> None:
    bars = check(rows)
    assert all(np.array_equal(getattr(bars, f), rows[f]) for f in ("ts", *FIELDS))


@given(sound_columns(), st.data())
def test_one_spoilt_value_is_found_and_its_row_named(rows: Columns, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(rows["ts"]) - 1))
    field = data.draw(st.sampled_from(FIELDS))
    bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, -1.0] + ([] if field == "volume" else [0.0])))
    rows[field] = rows[field].copy()
    rows[field][row] = bad
    with pytest.raises(DataError, match=rf"row {row} \(20.*Z\): {field} "):
        check(rows)


@given(sound_columns(), st.data())
def test_any_other_order_of_the_rows_is_refused(rows: Columns, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rows["ts"]))))
    shuffled = {name: values[list(order)] for name, values in rows.items()}
    if list(order) == sorted(order):
        check(shuffled)
    else:
        with pytest.raises(DataError, match="opens before row"):
            check(shuffled)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("high", 103.2, "row 4 (2024-01-01T04:00:00Z): high 103.2 is below its open 103.5."),
        ("high", 103.7, "row 4 (2024-01-01T04:00:00Z): high 103.7 is below its close 104."),
        ("low", 103.7, "row 4 (2024-01-01T04:00:00Z): low 103.7 is above its open 103.5."),
        ("open", 99.0, "row 4 (2024-01-01T04:00:00Z): low 103 is above its open 99."),
        ("high", 103.9999999, "row 4 (2024-01-01T04:00:00Z): high 103.9999999 is below its close 104."),
        ("close", 0.0, "row 4 (2024-01-01T04:00:00Z): close 0 is not a price above 0."),
        ("volume", -2.0, "row 4 (2024-01-01T04:00:00Z): volume -2 is below 0."),
        ("volume", np.nan, "row 4 (2024-01-01T04:00:00Z): volume nan is not a finite number."),
        ("ts", START + np.timedelta64(3, "h"), "row 4 (2024-01-01T03:00:00Z) repeats the instant of row 3."),
        (
            "ts",
            START,
            "row 4 (2024-01-01T00:00:00Z) opens before row 3 (2024-01-01T03:00:00Z).",
        ),
        (
            "ts",
            START + np.timedelta64(270, "m"),
            "row 4 (2024-01-01T04:30:00Z) does not open on the grid of 1:00:00 bars.",
        ),
        ("ts", np.datetime64("NaT"), "row 4 has no ts."),
    ],
)
def test_a_fault_says_where_and_which_value(field: str, value: object, sentence: str) -> None:
    rows = columns()
    rows[field][4] = value
    with pytest.raises(DataError) as caught:
        check(rows)
    assert caught.value.message.startswith("BTCUSDT in a file")
    assert caught.value.message.endswith(sentence)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["ts", *FIELDS])
def test_a_missing_column_is_named(name: str) -> None:
    rows = columns()
    del rows[name]
    with pytest.raises(DataError, match=f"has no column '{name}'"):
        check(rows)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("ts", np.arange(10), "int64"),
        ("ts", [datetime(2024, 1, 1, tzinfo=UTC)] * 10, "object"),
        ("close", np.array(["1.5"] * 10), "<U3"),
        ("close", np.ones(10, dtype=np.bool_), "bool"),
        ("volume", np.ones((10, 1)), r"2 dimension\(s\)"),
    ],
)
def test_a_column_of_another_type_is_refused(name: str, values: object, kind: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is .*{kind}"):
        check(columns() | {name: values})


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="10 values of ts but 9 of close"):
        check(columns() | {"close": np.ones(9)})


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="holds no bars"):
        check(columns(0))


def test_an_instant_finer_than_a_microsecond_is_off_the_grid() -> None:
    rows = columns()
    rows["ts"] = rows["ts"].astype("datetime64[ns]")
    rows["ts"][2] += np.timedelta64(1, "ns")
    with pytest.raises(DataError, match=r"row 2 .* grid"):
        check(rows)


def test_milliseconds_and_whole_numbers_are_read_exactly() -> None:
    rows = columns()
    bars = check(rows | {"ts": rows["ts"].astype("datetime64[ms]"), "volume": np.arange(10)})
    assert bars.ts.dtype == "datetime64[us]"
    assert np.array_equal(bars.ts, rows["ts"])
    assert bars.volume.dtype == np.float64


def test_the_callers_arrays_stay_its_own() -> None:
    rows = columns()
    bars = check(rows)
    rows["close"][0] = -1.0
    assert bars.close[0] == 100.0
