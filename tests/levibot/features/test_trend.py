"""Trend, moving averages, channels and RSI against loops over one symbol."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest


@pytest.mark.parametrize("bars", [168, 336, 672, 1344])
def test_a_trend_is_the_scaled_move_and_is_not_clipped(small_market, core_values, sigma, bars) -> None:
    close = small_market.close
    expected = np.log(close[-1] / close[-1 - bars]) / (sigma * np.sqrt(bars))
    np.testing.assert_allclose(core_values[f"trend_{bars}"][-1], expected, rtol=1e-9)


@pytest.mark.parametrize("bars", [168, 336, 672, 1344])
def test_relative_trends_are_what_is_left_of_the_mean(core_values, bars) -> None:
    own, relative = core_values[f"trend_{bars}"], core_values[f"relative_trend_{bars}"]
    for symbol in range(3):
        assert relative[-1, symbol] == pytest.approx(own[-1, symbol] - sum(own[-1]) / 3)


@pytest.mark.parametrize("bars", [24, 168, 672])
def test_the_gap_to_the_average_is_scaled(small_market, core_values, sigma, bars) -> None:
    for symbol in range(3):
        last = small_market.close[-bars:, symbol]
        expected = np.log(last[-1] / (sum(last) / bars)) / (sigma[symbol] * np.sqrt(bars))
        assert core_values[f"sma_gap_{bars}"][-1, symbol] == pytest.approx(expected)


@pytest.mark.parametrize("bars", [24, 168, 672])
def test_the_channel_is_made_of_highs_and_lows(small_market, core_values, bars) -> None:
    for row in (bars - 1, 1000, -1):
        end = row + 1 or None
        start = (row if row >= 0 else len(small_market) + row) - bars + 1
        top = max(small_market.high[start:end, 1])
        bottom = min(small_market.low[start:end, 1])
        place = (small_market.close[row, 1] - bottom) / (top - bottom)
        assert core_values[f"donchian_{bars}"][row, 1] == pytest.approx(place)


@pytest.mark.parametrize("bars", [14, 72])
def test_rsi_is_wilders_to_the_weight_that_is_dropped(small_market, core_values, bars) -> None:
    close = small_market.close[:, 2]
    rise = fall = 0.0
    for before, after in pairwise(close):
        rise += (max(after - before, 0.0) - rise) / bars
        fall += (max(before - after, 0.0) - fall) / bars
    wilder = 100.0 - 100.0 / (1.0 + rise / fall)
    assert core_values[f"rsi_{bars}"][-1, 2] == pytest.approx(wilder, abs=0.01)
