"""Trades that are none are told apart from trades, each with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.market.screening import Screened
from levibot.market.tick_screening import screen_again, screen_ticks
from levibot.market.ticks import COLUMNS, LARGEST, SMALLEST, Ticks, check_ticks

START = np.datetime64("2024-08-09T00:00:00", "us")

Columns = dict[str, Any]


def columns(n: int = 10) -> Columns:
    return {
        "ts": START + np.arange(n) // 3 * np.timedelta64(250, "ms"),
        "price": 60_000.0 + np.arange(n) / 8,
        "size": 0.5 + np.arange(n) / 16,
        "trade_id": 900 + np.arange(n),
        "is_buyer_maker": np.arange(n) % 2 == 0,
    }


def screen(rows: Columns) -> Screened[Ticks]:
    return screen_ticks("BTCUSDT", rows, "a file")


def assert_holds(ticks: Ticks, rows: Columns) -> None:
    """Exactly these rows, to the last bit."""
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(ticks, name), rows[name])


FAULTS = {
    "no_instant": lambda row: row | {"ts": np.datetime64("NaT", "us")},
    "impossible_instant": lambda row: row | {"ts": np.datetime64("2201-01-01", "us")},
    "no_id": lambda row: row | {"trade_id": np.int64(0)},
    "no_side": lambda row: row | {"is_buyer_maker": np.int8(-1)},
    "not_finite": lambda row: row | {"price": np.nan},
    "not_positive": lambda row: row | {"size": 0.0},
    "too_small_or_large": lambda row: row | {"price": LARGEST * 2.0},
    "conflict": lambda row: row | {"price": row["price"] + 1.0},
    "repeat": lambda row: row,
}


@given(st.data())
def test_planted_faults_are_found_and_the_trades_come_through_in_order(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    clean = columns(n)
    clean["is_buyer_maker"] = clean["is_buyer_maker"].astype(np.int8)
    faults = st.lists(st.tuples(st.integers(0, n - 1), st.sampled_from(list(FAULTS))))
    planted = data.draw(faults)
    rows = [{name: values[row] for name, values in clean.items()} for row in range(n)]
    # In any order, but for a contradiction: of two trades of one id the first one counts.
    order = data.draw(st.permutations(range(n)))
    given_rows = [
        row for at in order for row in (rows[at], *(FAULTS[k](rows[at]) for i, k in planted if i == at))
    ]
    screened = screen({name: np.array([row[name] for row in given_rows]) for name in clean})
    assert_holds(screened.sound, clean)
    assert check_ticks(screened.sound) is screened.sound
    expected = sorted(kind for _, kind in planted if kind != "repeat")
    assert sorted(reason for reason, _ in screened.rejects.records()) == expected
    assert len(screened.repeated) == len(planted) - len(expected)


@pytest.mark.parametrize("value", [SMALLEST, LARGEST])
@pytest.mark.parametrize("name", ["price", "size"])
def test_the_limits_themselves_are_inside(name: str, value: float) -> None:
    rows = columns()
    rows[name][4] = value
    assert len(screen(rows).rejects) == 0
    rows[name][4] = np.nextafter(value, 0.0 if value == SMALLEST else np.inf)
    assert screen(rows).rejects.reasons() == {"too_small_or_large": 1}


def test_an_instant_is_cut_to_microseconds() -> None:
    rows = columns()
    fine = rows["ts"].astype("datetime64[ns]") + np.timedelta64(999, "ns")
    assert_holds(screen(rows | {"ts": fine}).sound, rows)


def test_a_trade_without_id_is_kept_as_it_came() -> None:
    rows = columns(3)
    rows["trade_id"][1] = -4
    assert list(screen(rows).rejects.records()) == [
        (
            "no_id",
            {"ts": "2024-08-09T00:00:00.000000Z", "price": 60_000.125, "size": 0.5625, "trade_id": -4}
            | {"is_buyer_maker": False},
        )
    ]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_named(name: str) -> None:
    rows = columns()
    del rows[name]
    with pytest.raises(DataError, match=f"BTCUSDT in a file has no column '{name}'"):
        screen(rows)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("ts", np.arange(10), "ts is int64"),
        ("price", np.array(["1"] * 10), "price is <U1"),
        ("trade_id", np.arange(10.0), "trade_id is float64 .* not a column of whole numbers"),
        ("is_buyer_maker", np.array(["sell"] * 10), "is_buyer_maker is <U4 .* not a column of yes and no"),
        ("size", np.ones(9), "10 values of ts but 9 of size"),
    ],
)
def test_a_column_of_another_type_or_length_is_refused(name: str, values: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        screen(columns() | {name: values})


def test_what_comes_as_trades_is_screened_too() -> None:
    rows = columns()
    rows["price"][2] = -1.0
    screened = screen_again(Ticks("BTCUSDT", *(rows[name] for name in COLUMNS)), "the feed")
    assert (len(screened.sound), screened.rejects.reasons()) == (9, {"not_positive": 1})


def test_no_trades_are_no_fault() -> None:
    assert len(screen(columns(0)).sound) == 0


def test_the_callers_arrays_stay_its_own() -> None:
    rows = columns()
    ticks = screen(rows).sound
    rows["price"][0] = -1.0
    assert ticks.price[0] == 60_000.0
    assert not any(getattr(ticks, name).flags.writeable for name in COLUMNS)
