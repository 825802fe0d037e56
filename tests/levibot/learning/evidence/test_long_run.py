"""Block lengths against those that the arch package publishes, and what follows for an interval."""

from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.evidence.long_run import dependence
from levibot.market.bars import FloatArray
from levibot.trading.metrics import sharpe_interval


def autoregression(noise: FloatArray, phi: float) -> FloatArray:
    out = noise.copy()
    for t in range(1, len(out)):
        out[t] += phi * out[t - 1]
    return out


def test_the_block_lengths_are_those_of_archs_own_test() -> None:
    """arch/tests/bootstrap/test_block_length.py: 13.635665 and 15.60894 for a first autoregression of 0.3."""
    noise = np.random.RandomState(0).standard_normal(10_100)
    found = dependence(autoregression(noise, 0.3)[100:])
    assert found.stationary_block == pytest.approx(13.635665, rel=1e-6)
    assert found.circular_block == pytest.approx(15.60894, rel=1e-6)


@pytest.mark.parametrize(
    ("phi", "n", "stationary", "circular"),
    # What arch 8.0.0 says of these.
    [
        (0.0, 731, 1.6381679671, 1.8752342037),
        (0.7, 365, 10.0414040991, 11.4945440118),
        (-0.3, 300, 4.1017377359, 4.6953176055),
        (0.9, 120, 12.0501757971, 13.7940078602),
    ],
)
def test_they_are_those_of_arch_for_short_and_for_swinging_series(
    phi: float, n: int, stationary: float, circular: float
) -> None:
    found = dependence(autoregression(np.random.default_rng(11).standard_normal(n), phi))
    assert found.stationary_block == pytest.approx(stationary, rel=1e-5)
    assert found.circular_block == pytest.approx(circular, rel=1e-5)


def test_the_long_run_variance_is_that_of_the_process() -> None:
    values = autoregression(np.random.default_rng(4).standard_normal(20_000), 0.5)
    assert dependence(values).long_run_variance == pytest.approx(4.0, rel=0.15)
    assert dependence(values).inflation == pytest.approx(3.0, rel=0.15)


def test_days_that_swing_back_are_not_counted_in_favour() -> None:
    values = autoregression(np.random.default_rng(4).standard_normal(5_000), -0.5)
    assert dependence(values).long_run_variance < 0.6 * dependence(values).variance
    assert dependence(values).inflation == 1.0


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 50, [0.1] * 50, [1.0, 2.0, 3.0]])
def test_short_and_constant_series_are_taken_as_independent(values: list[float]) -> None:
    found = dependence(np.array(values))
    assert (found.stationary_block, found.circular_block, found.inflation) == (1.0, 1.0, 1.0)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        dependence(np.array([0.0, np.nan] * 20))


def test_an_interval_with_the_automatic_block_holds_the_truth_where_days_hang_together() -> None:
    """Each day's return is half the day before: single days as blocks give an interval that is too narrow."""
    rng = np.random.default_rng(5)
    n_held = {"automatic": 0, "single": 0}
    runs = 120
    for run in range(runs):
        days = autoregression(rng.normal(0.0, 0.01, 700), 0.5)
        for name, block in (("automatic", dependence(days).stationary_block), ("single", 1.0)):
            interval = sharpe_interval(days, seed=run, block_days=block, resamples=300)
            n_held[name] += interval.low < 0.0 < interval.high
    assert n_held["automatic"] / runs > 0.87
    assert n_held["single"] / runs < 0.82
