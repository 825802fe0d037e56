"""How many trials there are, and how many independent ones they are worth."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.learning.evidence.family import ALONE, Family, family_of, mean_correlation
from levibot.learning.evidence.trial import Trial
from levibot.market.bars import FloatArray
from levibot.trading.metrics import DAYS_PER_YEAR
from tests.trial_books import START, trial


def correlated(seed: int, n_trials: int, correlation: float, n_days: int = 700) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(0.0, 0.01, n_days), rng.normal(0.0, 0.01, (n_trials, n_days))
    return list(np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own)


def trials_of(returns: list[FloatArray]) -> list[Trial]:
    return [trial(run, n=k) for k, run in enumerate(returns)]


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_trials_that_move_together_are_worth_fewer(correlation: float) -> None:
    """Bailey & López de Prado 2014, appendix 3: r + (1 - r) M."""
    family = family_of(trials_of(correlated(1, 40, correlation)))
    assert (family.n_trials, family.n_distinct) == (40, 40)
    assert family.correlation == pytest.approx(correlation, abs=0.02)
    assert family.n_effective == pytest.approx(correlation + (1.0 - correlation) * 40, abs=0.8)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_spread_of_the_ratios_says_the_same_where_only_they_are_kept(correlation: float) -> None:
    found = []
    for seed in range(20):
        kept = [replace(t, daily_returns=None) for t in trials_of(correlated(seed, 60, correlation))]
        found.append(family_of(kept).correlation)
    assert np.mean(found) == pytest.approx(correlation, abs=0.08)


def test_trials_that_differ_in_earnest_are_all_counted_where_only_ratios_are_kept() -> None:
    ratios = np.linspace(-3.0, 3.0, 25)
    kept = [trial(n=k, net_sharpe=float(ratio), n_days=365) for k, ratio in enumerate(ratios)]
    family = family_of(kept)
    assert (family.correlation, family.n_effective) == (0.0, 25.0)
    assert family.sharpe_variance == pytest.approx(np.var(ratios, ddof=1) / DAYS_PER_YEAR)


def test_the_correlation_is_numpys_where_all_have_the_same_days() -> None:
    returns = correlated(2, 300, 0.2, n_days=60)
    matrix = np.corrcoef(np.array(returns))
    known = (matrix.sum() - 300.0) / (300 * 299)
    assert mean_correlation(trials_of(returns)) == pytest.approx(known, abs=1e-5)


def test_only_shared_days_tell_of_correlation() -> None:
    days = correlated(3, 1, 0.0)[0]
    late = [trial(days, n=0), trial(days[300:], n=1, start=START + timedelta(days=300))]
    assert mean_correlation(late) == pytest.approx(1.0, abs=0.1)
    apart = [trial(days[:300], n=0), trial(days[:300], n=1, start=START + timedelta(days=290))]
    assert mean_correlation(apart) == 0.0


def test_the_same_outcome_and_the_same_configuration_are_one() -> None:
    days = correlated(4, 3, 0.0, n_days=100)
    again = trial(days[0], n=5, run_id="another study")
    rungs = [trial(days[k], n=9, budget=budget) for k, budget in ((1, 0.25), (2, 1.0))]
    family = family_of([trial(days[0], n=0), again, *rungs])
    assert (family.n_trials, family.n_distinct) == (4, 2)
    ratios = [t.net_sharpe for t in (again, rungs[1]) if t.net_sharpe is not None]
    assert family.sharpe_variance == pytest.approx(np.var(ratios, ddof=1) / DAYS_PER_YEAR, rel=1e-5)


def test_a_repeat_does_not_make_the_others_look_better() -> None:
    days = correlated(5, 10, 0.0)
    once = family_of(trials_of(days))
    often = family_of([*trials_of(days), *(trial(days[0], n=100 + k) for k in range(50))])
    assert (often.n_effective, often.sharpe_variance) == (once.n_effective, once.sharpe_variance)
    assert often.n_trials == 60


def test_yardsticks_looks_and_failures_are_no_tries_and_flat_ones_are() -> None:
    days = correlated(6, 3, 0.0)
    beside = [
        trial(days[1], n=1, kind="yardstick"),
        trial(n=2, kind="hold-out"),
        trial(n=3, status="failed"),
    ]
    assert family_of([trial(days[0]), *beside]) == ALONE
    flat = trial(np.zeros(700), n=4)
    family = family_of([trial(days[0]), flat, trial(days[2], n=5, status="pruned")])
    assert (family.n_trials, family.n_distinct) == (3, 3)
    assert np.isfinite(family.sharpe_variance)


def test_none_at_all_are_worth_one() -> None:
    assert family_of([]) == Family(0, 0, 0.0, 1.0, 0.0)


@given(
    seed=st.integers(0, 10_000),
    n_trials=st.integers(1, 12),
    n_days=st.integers(2, 40),
    with_returns=st.booleans(),
)
def test_the_worth_lies_between_one_and_the_number(
    seed: int, n_trials: int, n_days: int, with_returns: bool
) -> None:
    runs = trials_of(correlated(seed, n_trials, 0.5, n_days=n_days))
    family = family_of(runs if with_returns else [replace(t, daily_returns=None) for t in runs])
    assert 1.0 <= family.n_effective <= family.n_distinct <= family.n_trials
    assert family.sharpe_variance >= 0.0
