"""Volatility levels, ranges, asymmetry and extremes against loops over one symbol."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

HOURS_PER_YEAR = 8760


def log_returns(small_market, symbol: int) -> list[float]:
    close = small_market.close[:, symbol]
    return [math.log(after / before) for before, after in pairwise(close)]


def root_mean_square(values: list[float]) -> float:
    return math.sqrt(sum(v * v for v in values) / len(values))


def test_slow_volatility_is_annualised_by_the_hours_of_a_year(core_values, sigma) -> None:
    np.testing.assert_allclose(core_values["vol_slow"][-1], sigma * math.sqrt(HOURS_PER_YEAR), rtol=1e-9)


def test_fast_volatility_has_a_half_life_of_ten_days_and_ends_after_three(small_market, core_values) -> None:
    newest_first = log_returns(small_market, 0)[::-1][:720]
    weights = [0.5 ** (age / 240) for age in range(720)]
    mean = sum(w * r * r for w, r in zip(weights, newest_first, strict=True)) / sum(weights)
    assert core_values["vol_fast"][-1, 0] == pytest.approx(math.sqrt(mean * HOURS_PER_YEAR))


@pytest.mark.parametrize("bars", [24, 168])
def test_short_volatility_is_the_root_mean_square(small_market, core_values, sigma, bars) -> None:
    short = root_mean_square(log_returns(small_market, 1)[-bars:])
    assert core_values[f"vol_{bars}"][-1, 1] == pytest.approx(short * math.sqrt(HOURS_PER_YEAR))
    assert core_values[f"vol_ratio_{bars}"][-1, 1] == pytest.approx(math.log(short / sigma[1]))


def test_the_fast_ratio_is_fast_over_slow(core_values) -> None:
    expected = np.log(core_values["vol_fast"][-1] / core_values["vol_slow"][-1])
    np.testing.assert_allclose(core_values["vol_ratio_fast"][-1], expected, rtol=1e-9)


def test_parkinson_reads_the_ranges(small_market, core_values) -> None:
    ranges = [math.log(small_market.high[row, 2] / small_market.low[row, 2]) for row in range(-24, 0)]
    per_bar = math.sqrt(sum(r * r for r in ranges) / 24 / (4 * math.log(2)))
    from_closes = root_mean_square(log_returns(small_market, 2)[-24:])
    assert core_values["parkinson_24"][-1, 2] == pytest.approx(per_bar * math.sqrt(HOURS_PER_YEAR))
    assert core_values["parkinson_ratio_24"][-1, 2] == pytest.approx(math.log(per_bar / from_closes))


def test_skew_is_the_realised_one(small_market, core_values) -> None:
    window = log_returns(small_market, 0)[-168:]
    expected = math.sqrt(168) * sum(r**3 for r in window) / sum(r * r for r in window) ** 1.5
    assert core_values["skew_168"][-1, 0] == pytest.approx(expected)


def test_extremes_are_the_largest_and_smallest_bars(small_market, core_values, sigma) -> None:
    window = log_returns(small_market, 1)[-24:]
    assert core_values["max_return_24"][-1, 1] == pytest.approx(max(window) / sigma[1])
    assert core_values["min_return_24"][-1, 1] == pytest.approx(min(window) / sigma[1])
