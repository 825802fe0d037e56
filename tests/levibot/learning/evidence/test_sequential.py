"""Looking every day is paid for: the error that is stated holds over all days together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from levibot.errors import DataError, UsageError
from levibot.learning.evidence.sequential import confidence_sequence
from levibot.market.bars import FloatArray

Draw = Callable[[np.random.Generator, int], FloatArray]


def normal(rng: np.random.Generator, n: int) -> FloatArray:
    return rng.normal(0.0, 0.01, n)


def heavy_tails(rng: np.random.Generator, n: int) -> FloatArray:
    return rng.standard_t(4, n) * 0.01


def changing_volatility(rng: np.random.Generator, n: int) -> FloatArray:
    """A volatility that wanders: a quarter or four times of what it was is nothing unusual."""
    return rng.normal(0.0, 0.01, n) * np.exp(np.cumsum(rng.normal(0.0, 0.05, n)))


@pytest.mark.parametrize("draw", [normal, heavy_tails, changing_volatility])
def test_equal_streams_are_told_apart_no_oftener_than_stated(draw: Draw) -> None:
    rng = np.random.default_rng(0)
    runs, days = 500, 1_000
    n_wrong = n_wrong_daily = 0
    for _ in range(runs):
        first, second = draw(rng, days), draw(rng, days)
        n_wrong += confidence_sequence(first, second).decided_after is not None
        difference, n = first - second, np.arange(1, days + 1)
        z = np.cumsum(difference) / np.sqrt(np.cumsum(difference**2))
        n_wrong_daily += bool((np.abs(z) > norm.ppf(0.975))[n >= 60].any())
    # Three standard errors above 0.05 for 500 runs.
    assert n_wrong / runs <= 0.05 + 3.0 * np.sqrt(0.05 * 0.95 / runs)
    # The planted fault: an ordinary test, looked at every day.
    assert n_wrong_daily / runs > 0.25


def test_a_better_stream_is_found_and_named() -> None:
    rng = np.random.default_rng(1)
    control = rng.normal(0.0, 0.01, 1_500)
    better = 0.9 * control + rng.normal(0.001, 0.004, 1_500)
    found = confidence_sequence(better, control)
    assert found.decided_after is not None
    assert 60 <= found.decided_after < 700
    assert found.first_is_better is True
    assert confidence_sequence(control, better).first_is_better is False
    assert confidence_sequence(control, better).decided_after == found.decided_after


def test_a_bound_is_known_on_its_day_and_later_days_do_not_change_it() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.0, 0.01, (2, 300))
    whole, early = confidence_sequence(first, second), confidence_sequence(first[:200], second[:200])
    np.testing.assert_array_equal(whole.low[:200], early.low)
    np.testing.assert_array_equal(whole.high[:200], early.high)
    assert np.isinf(whole.low[:59]).all()
    assert np.isfinite(whole.low[59:]).all()


def test_the_mean_is_inside_on_every_day_of_most_runs() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        found = confidence_sequence(rng.normal(0.002, 0.01, 800), np.zeros(800))
        held += bool(((found.low < 0.002) & (found.high > 0.002)).all())
    assert held / 200 >= 0.92


@pytest.mark.parametrize("n", [0, 1, 59, 200])
def test_streams_that_do_not_differ_or_are_short_decide_nothing(n: int) -> None:
    same = confidence_sequence(np.full(n, 0.01), np.full(n, 0.01))
    assert (same.decided_after, same.first_is_better) == (None, None)
    assert np.isinf(same.low).all()


def test_what_is_no_pair_of_streams_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be compared with"):
        confidence_sequence(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError, match="not finite"):
        confidence_sequence(np.array([np.nan]), np.zeros(1))
    with pytest.raises(UsageError, match=r"alpha 1\.5"):
        confidence_sequence(np.zeros(3), np.zeros(3), alpha=1.5)
