"""The adapter: stretches between holes, what is known when, and what is left of the rows before."""

from __future__ import annotations

import numpy as np
import pytest
import talib

from levibot.features.talib_series import (
    EMA_CHAIN_SPANS,
    EMA_SPANS,
    WILDER_CHAIN_LENGTHS,
    WILDER_LENGTHS,
    talib_series,
)
from levibot.market.bars import FloatArray

BARS = 14


@pytest.fixture(scope="module")
def close() -> FloatArray:
    steps = np.random.default_rng(2).standard_t(4, (3000, 2)) * 0.01
    return np.exp(np.cumsum(steps, axis=0))


def test_each_stretch_between_holes_is_a_series_of_its_own(close) -> None:
    holed = close.copy()
    holed[500, 0] = holed[900:950, 0] = np.nan
    values = talib_series("RSI", (holed,), 30, {"timeperiod": BARS})
    for start, stop in ((0, 500), (501, 900), (950, 3000)):
        expected = talib.RSI(np.ascontiguousarray(holed[start:stop, 0]), timeperiod=BARS)[29:]
        np.testing.assert_array_equal(values[start + 29 : stop, 0], expected)
        assert np.isnan(values[start : start + 29, 0]).all()
    assert np.isnan(values[900:950, 0]).all()


def test_a_hole_of_one_symbol_is_none_of_another(close) -> None:
    holed = close.copy()
    holed[500, 0] = np.nan
    values = talib_series("RSI", (holed,), 30, {"timeperiod": BARS})
    np.testing.assert_array_equal(values[29:, 1], talib.RSI(np.ascontiguousarray(close[:, 1]), BARS)[29:])


def test_a_stretch_that_is_too_short_has_no_value(close) -> None:
    assert np.isnan(talib_series("RSI", (close[:29],), 30, {"timeperiod": BARS})).all()
    assert np.isfinite(talib_series("RSI", (close[:30],), 30, {"timeperiod": BARS})[29]).all()
    assert talib_series("RSI", (close[:0],), 30, {"timeperiod": BARS}).shape == (0, 2)


def test_one_of_several_results_is_taken(close) -> None:
    values = talib_series("MACD", (close,), 60, {}, output=2)
    np.testing.assert_array_equal(values[59:, 0], talib.MACD(np.ascontiguousarray(close[:, 0]))[2][59:])


def test_rows_that_are_unknown_are_nan(close) -> None:
    unknown = np.zeros(close.shape, dtype=bool)
    unknown[1000:1010, 1] = True
    values = talib_series("RSI", (close,), 30, {"timeperiod": BARS}, unknown=unknown)
    assert np.isnan(values[1000:1010, 1]).all()
    assert np.isfinite(values[1000:1010, 0]).all()


@pytest.mark.parametrize(
    ("function", "fields", "rows"),
    [
        ("RSI", 1, WILDER_LENGTHS * BARS),
        ("NATR", 3, WILDER_LENGTHS * BARS),
        ("PLUS_DI", 3, WILDER_LENGTHS * BARS),
        ("ADX", 3, WILDER_CHAIN_LENGTHS * BARS),
        ("EMA", 1, EMA_SPANS * (BARS + 1)),
        ("TRIX", 1, EMA_CHAIN_SPANS * (BARS + 1)),
    ],
)
def test_the_rows_stated_are_enough_and_a_third_of_them_is_not(close, function, fields, rows) -> None:
    bars = (close * 1.01, close * 0.99, close)[3 - fields :]
    whole = talib_series(function, bars, rows, {"timeperiod": BARS})[-1]
    # TRIX crosses zero: its own scale is a percent.
    scale = np.maximum(np.abs(whole), 1.0 if function == "TRIX" else 0.0)

    def off(length: int) -> float:
        part = [field[-length:] for field in bars]
        return float(
            np.max(np.abs(talib_series(function, part, length, {"timeperiod": BARS})[-1] - whole) / scale)
        )

    assert off(rows) < 1e-7
    assert off(rows // 3) > 1e-7
