"""Metrics against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.trading.metrics import (
    annual_return,
    daily_returns,
    max_drawdown,
    sharpe,
    sharpe_interval,
    sortino,
    turnover_per_day,
)


def closes(*instants: str) -> np.ndarray:
    return np.array(instants, dtype="datetime64[us]")


def test_a_day_ends_at_the_close_that_falls_on_midnight() -> None:
    known_at = closes("2024-01-01T12", "2024-01-02T00", "2024-01-02T12", "2024-01-03T00")
    returns = daily_returns(known_at, np.array([105.0, 110.0, 50.0, 99.0]), 100.0)
    assert returns.tolist() == pytest.approx([0.10, -0.10])


def test_a_day_without_bars_returns_zero() -> None:
    known_at = closes("2024-01-02T00", "2024-01-04T00")
    assert daily_returns(known_at, np.array([110.0, 121.0]), 100.0).tolist() == pytest.approx([0.1, 0.0, 0.1])


def test_a_bankrupt_account_earns_nothing_more() -> None:
    known_at = closes("2024-01-02T00", "2024-01-03T00", "2024-01-04T00")
    assert daily_returns(known_at, np.array([-20.0, -20.0, 0.0]), 100.0).tolist() == [-1.2, 0.0, 0.0]


def test_an_empty_curve_is_refused() -> None:
    with pytest.raises(DataError):
        daily_returns(closes(), np.array([]), 100.0)


def test_sharpe_is_mean_over_deviation_times_root_365() -> None:
    # Mean 0.01; squared deviations 0.0001, 0, 0.0001; variance over n - 1 is 0.0001.
    assert sharpe(np.array([0.00, 0.01, 0.02])) == pytest.approx(19.1049731745428)


def test_sortino_is_the_mean_over_the_root_mean_square_loss() -> None:
    # Mean 0.01; squared losses 0, 0.0001, 0 over three days.
    assert sortino(np.array([0.02, -0.01, 0.02])) == pytest.approx(0.01 / np.sqrt(1e-4 / 3) * np.sqrt(365))
    assert np.isnan(sortino(np.array([0.01, 0.0])))
    assert np.isnan(sortino(np.array([])))


@pytest.mark.parametrize("returns", [[], [0.01], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
def test_sharpe_without_variation_is_not_defined(returns: list[float]) -> None:
    assert np.isnan(sharpe(np.array(returns)))
    interval = sharpe_interval(np.array(returns), seed=0)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)


def test_the_interval_is_that_of_independent_days_where_days_are_independent() -> None:
    # For independent days the Sharpe ratio's standard error is about 1 / sqrt(years).
    returns = np.random.default_rng(1).normal(0.001, 0.02, 1_460)
    interval = sharpe_interval(returns, seed=0)
    assert interval.low < sharpe(returns) < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / np.sqrt(4), rel=0.15)


def test_fewer_days_than_a_block_have_no_interval() -> None:
    returns = np.random.default_rng(1).normal(0.0, 0.02, 11)
    assert np.isnan(sharpe_interval(returns[:10], seed=0).low)
    assert sharpe_interval(returns, seed=0).low < sharpe(returns) < sharpe_interval(returns, seed=0).high


def test_the_interval_is_wider_where_days_hang_together() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0.0, 0.02, 1_500)
    smooth = np.convolve(noise, np.ones(8) / np.sqrt(8), mode="valid")[:1_460] + 0.001
    shuffled = rng.permutation(smooth)
    wide, narrow = sharpe_interval(smooth, seed=0), sharpe_interval(shuffled, seed=0)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_the_interval_is_reproducible() -> None:
    returns = np.random.default_rng(3).normal(0.0, 0.02, 300)
    assert sharpe_interval(returns, seed=5) == sharpe_interval(returns, seed=5)
    assert sharpe_interval(returns, seed=5) != sharpe_interval(returns, seed=6)


def test_max_drawdown_counts_from_the_highest_equity_before() -> None:
    assert max_drawdown(np.array([120.0, 60.0, 130.0, 117.0]), 100.0) == pytest.approx(-0.5)
    assert max_drawdown(np.array([80.0, 90.0]), 100.0) == pytest.approx(-0.2)
    assert max_drawdown(np.array([101.0, 102.0]), 100.0) == 0.0


def test_annual_return_compounds() -> None:
    assert annual_return(121.0, 100.0, 730.0) == pytest.approx(0.10)
    assert annual_return(-5.0, 100.0, 730.0) == -1.0


def test_a_few_wild_days_leave_no_annual_return() -> None:
    assert annual_return(8.0, 1.0, 1.0) == np.inf
    assert annual_return(1e-300, 1.0, 1.0) == -1.0


def test_turnover_counts_both_sides() -> None:
    assert turnover_per_day(np.array([0.5, 0.0, 0.5, 0.0]), 2) == pytest.approx(0.5)
