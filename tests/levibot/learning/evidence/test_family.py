"""How many trials there are, and how many independent ones they are worth."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.learning.evidence.family import ALONE, Family, family_of, independent_ways
from levibot.learning.evidence.trial import Trial
from levibot.learning.evidence.verdict import judge
from levibot.market.bars import FloatArray
from levibot.trading.metrics import DAYS_PER_YEAR, sharpe
from tests.trial_books import START, trial


def correlated(seed: int, n_trials: int, correlation: float, n_days: int = 700) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(0.0, 0.01, n_days), rng.normal(0.0, 0.01, (n_trials, n_days))
    return list(np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own)


def trials_of(returns: list[FloatArray]) -> list[Trial]:
    return [trial(run, n=k) for k, run in enumerate(returns)]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_what_all_share_makes_them_no_fewer(correlation: float) -> None:
    """The ratios spread less by what is shared; the best stands above the rest as their number says."""
    family = family_of(trials_of(correlated(1, 40, correlation)))
    assert (family.n_trials, family.n_distinct) == (40, 40)
    assert family.n_effective == pytest.approx(40.0, abs=2.0)
    expected = (1.0 - correlation) / 700
    assert family.sharpe_variance == pytest.approx(expected, rel=0.6)


@pytest.mark.parametrize("n_groups", [2, 5, 10])
def test_groups_of_nearly_equal_trials_are_worth_their_number(n_groups: int) -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(rng.normal(0.0, 0.01, (n_groups, 700)), 12, axis=0)
    nearly = groups + rng.normal(0.0, 0.0005, groups.shape)
    assert family_of(trials_of(list(nearly))).n_effective == pytest.approx(n_groups, rel=0.05)


def test_more_trials_than_one_block_are_weighed_as_by_hand() -> None:
    """The definition on the whole matrix; one block of rows does not see all of 300."""
    returns = np.array(correlated(3, 300, 0.2, n_days=60))
    z = (returns - returns.mean(axis=1, keepdims=True)) / returns.std(axis=1, keepdims=True)
    own = z - z.mean(axis=0)
    covariance = own @ own.T / 60
    d = np.diag(covariance)
    squares = (covariance**2).sum() - (np.outer(d, d).sum() - (d**2).sum()) / 60
    known = np.clip(1.0 + d.sum() ** 2 / squares, 1.0, 300.0)
    assert independent_ways(trials_of(list(returns))) == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize(("correlation", "n_trials"), [(0.0, 40), (0.8, 40)])
def test_the_best_of_a_family_without_edge_is_not_called_good(correlation: float, n_trials: int) -> None:
    """From the daily returns in the ledger to the probability, no oftener than one in twenty."""
    deflated = []
    for seed in range(80):
        runs = correlated(seed, n_trials, correlation, n_days=300)
        family = family_of(trials_of(runs))
        best = max(runs, key=sharpe)
        deflated.append(judge(best, family).deflated)
    assert np.mean(np.array(deflated) > 0.95) <= 0.075
    assert np.median(deflated) == pytest.approx(0.5, abs=0.12)


def test_trials_of_which_only_the_ratio_is_kept_count_one_each() -> None:
    ratios = np.linspace(-3.0, 3.0, 25)
    kept = [trial(n=100 + k, net_sharpe=float(ratio), n_days=365) for k, ratio in enumerate(ratios)]
    family = family_of(kept)
    assert family.n_effective == 25.0
    assert family.sharpe_variance == pytest.approx(np.var(ratios, ddof=1) / DAYS_PER_YEAR)
    both = family_of([*kept, *trials_of(correlated(4, 2, 0.0))])
    assert both.n_effective == pytest.approx(27.0, abs=0.1)


def test_only_shared_days_tell_what_trials_have_in_common() -> None:
    rng = np.random.default_rng(5)
    days = rng.normal(0.0, 0.01, (2, 600))
    # The second begins later and copies the first; the third has nothing to do with them.
    copied = [
        trial(days[0], n=0),
        trial(days[0, 300:], n=1, start=START + timedelta(days=300)),
        trial(days[1], n=2),
    ]
    assert independent_ways(copied) < 2.3
    apart = [trial(days[0, :300], n=0), trial(days[0, :300], n=1, start=START + timedelta(days=290))]
    assert independent_ways(apart) == 2.0


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
    assert family_of([]) == Family(0, 0, 1.0, 0.0)


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
