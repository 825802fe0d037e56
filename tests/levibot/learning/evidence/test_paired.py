"""The difference of two Sharpe ratios against the closed form, and as often wrong as it says."""

from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.evidence.paired import sharpe_difference
from levibot.trading.metrics import DAYS_PER_YEAR, sharpe


def test_the_error_is_memmels_for_independent_normal_days() -> None:
    """Memmel 2003: variance (2 - 2 r + (a^2 + b^2 - 2 a b r^2) / 2) / T of the ratios a and b of one day."""
    rng = np.random.default_rng(0)
    n, r, a, b = 20_000, 0.6, 0.1, 0.05
    first, second = rng.standard_normal((2, n))
    other = r * first + np.sqrt(1.0 - r**2) * second
    found = sharpe_difference(first + a, other + b, seed=1, resamples=200)
    known = np.sqrt((2.0 - 2.0 * r + 0.5 * (a**2 + b**2 - 2.0 * a * b * r**2)) / n * DAYS_PER_YEAR)
    assert found.standard_error == pytest.approx(known, rel=0.05)
    assert found.difference == pytest.approx(sharpe(first + a) - sharpe(other + b))
    assert found.p_hac < 0.01
    assert found.interval95.low < found.difference < found.interval95.high


def test_what_both_share_cancels() -> None:
    rng = np.random.default_rng(1)
    market = rng.normal(0.001, 0.03, 900)
    better = 0.5 * market + rng.normal(0.0004, 0.002, 900)
    found = sharpe_difference(better, market, seed=0, resamples=500)
    alone = sharpe_difference(rng.permutation(better), market, seed=0, resamples=500)
    assert found.standard_error < 0.2 * alone.standard_error
    assert found.p_bootstrap < 0.01


def test_equal_ratios_are_told_apart_as_seldom_as_stated() -> None:
    """Heavy tails, shared moves, days that hang together: one in ten at ten per cent, or fewer."""
    rng = np.random.default_rng(2)
    runs, wrong = 150, {"hac": 0, "bootstrap": 0}
    for run in range(runs):
        shared, own = rng.standard_t(5, (1, 401)), rng.standard_t(5, (2, 401))
        days = shared + own
        days = days[:, 1:] + 0.2 * days[:, :-1] + 0.05
        found = sharpe_difference(days[0], 3.0 * days[1], seed=run, resamples=300)
        wrong["hac"] += found.p_hac < 0.1
        wrong["bootstrap"] += found.p_bootstrap < 0.1
    assert 0.03 < wrong["hac"] / runs < 0.17
    assert 0.03 < wrong["bootstrap"] / runs < 0.17


def test_the_sign_follows_the_order_and_the_seed_repeats() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.001, 0.01, (2, 300))
    ahead, behind = (
        sharpe_difference(*pair, seed=5, resamples=200) for pair in ((first, second), (second, first))
    )
    assert ahead.difference == -behind.difference
    assert ahead.standard_error == pytest.approx(behind.standard_error)
    assert ahead == sharpe_difference(first, second, seed=5, resamples=200)


def test_a_series_against_itself_is_no_evidence() -> None:
    days = np.random.default_rng(4).normal(0.0, 0.01, 100)
    found = sharpe_difference(days, days, seed=0)
    assert (found.difference, found.p_hac, found.p_bootstrap) == (0.0, 1.0, 1.0)


def test_a_short_pair_has_no_bootstrap_and_a_constant_one_nothing() -> None:
    rng = np.random.default_rng(5)
    short = sharpe_difference(*rng.normal(0.0, 0.01, (2, 7)), seed=0)
    assert np.isfinite([short.difference, short.p_hac]).all()
    assert np.isnan([short.p_bootstrap, short.interval95.low]).all()
    constant = sharpe_difference(np.full(50, 0.01), rng.normal(0.0, 0.01, 50), seed=0)
    assert np.isnan([constant.difference, constant.p_hac, constant.interval95.high]).all()


def test_what_is_no_pair_is_refused() -> None:
    days = np.zeros(10)
    with pytest.raises(DataError, match="cannot be paired"):
        sharpe_difference(days, days[:9], seed=0)
    with pytest.raises(DataError, match="not finite"):
        sharpe_difference(days, np.full(10, np.nan), seed=0)
