from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.voting import sharpe_weights, votes_over
from levibot.market.bars import FloatArray

MEMBERS = ("trend", "strength", "lightgbm")
PRIOR = np.array([0.5, 0.3, 0.2])


def returns(mean: list[float], n_days: int = 1_000, seed: int = 0) -> FloatArray:
    """Daily returns with a standard deviation of 1 %, and the means in per mille."""
    return 1e-3 * np.array(mean) + 0.01 * np.random.default_rng(seed).normal(size=(n_days, len(mean)))


def test_the_optimum_is_the_tangency_portfolio() -> None:
    vote = sharpe_weights(MEMBERS, returns([1.0, 2.0, 4.0], 200_000), PRIOR)
    np.testing.assert_allclose(vote.optimal, np.array([1.0, 2.0, 4.0]) / 7.0, atol=0.02)
    assert vote.share > 0.99


def test_no_other_weights_on_the_simplex_have_a_better_ratio() -> None:
    rows = returns([0.5, -0.5, 1.0], 4_000, seed=3) * np.array([1.0, 3.0, 0.2])
    optimal = sharpe_weights(MEMBERS, rows, PRIOR).optimal
    assert optimal[1] == 0.0
    blend = rows @ np.random.default_rng(1).dirichlet(np.ones(3), 2_000).T
    best = (blend.mean(axis=0) / blend.std(axis=0)).max()
    found = rows @ optimal
    assert found.mean() / found.std() > 0.995 * best


def test_members_that_do_not_differ_stay_near_the_prior() -> None:
    prior = np.full(3, 1.0 / 3.0)
    shares = [sharpe_weights(MEMBERS, returns([0.5] * 3, 700, seed), prior).share for seed in range(40)]
    assert np.mean(shares) < 0.3
    convinced = [sharpe_weights(MEMBERS, returns([3.0, 0, 0], 700, s), prior).share for s in range(10)]
    assert min(convinced) > 0.7


def test_constant_and_missing_members_keep_their_prior_weight() -> None:
    rows = np.column_stack([returns([0.0, 3.0]), np.zeros(1_000), np.full(1_000, np.nan)])
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    vote = sharpe_weights((*MEMBERS, "lstm"), rows, prior)
    np.testing.assert_allclose(vote.weights[2:], prior[2:])
    assert vote.weights[1] > 0.5
    assert vote.weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("mean", [[-1.0, -2.0, -1.0], [1.0, 1.0, 1.0]])
def test_too_few_days_or_no_gain_is_the_prior(mean: list[float]) -> None:
    n_days = 1_000 if mean[0] < 0.0 else 60
    vote = sharpe_weights(MEMBERS, returns(mean, n_days, seed=2), PRIOR)
    np.testing.assert_array_equal(vote.weights, PRIOR)
    assert vote.share == 0.0


def test_copies_of_a_member_are_one_member() -> None:
    rows = returns([1.0, 2.0], 5_000)
    vote = sharpe_weights(MEMBERS, rows[:, [0, 1, 1]], PRIOR)
    two = sharpe_weights(MEMBERS[:2], rows, np.array([0.5, 0.5]))
    assert vote.optimal[1] + vote.optimal[2] == pytest.approx(two.optimal[1], abs=0.03)


def test_the_order_of_the_members_does_not_matter() -> None:
    rows, order = returns([1.0, 2.0, 3.0]), [2, 0, 1]
    vote = sharpe_weights(MEMBERS, rows, PRIOR)
    other = sharpe_weights([MEMBERS[m] for m in order], rows[:, order], PRIOR[order])
    np.testing.assert_allclose(other.weights, vote.weights[order], atol=1e-9)


def test_a_vote_holds_only_what_was_over_when_it_was_taken() -> None:
    """The planted fault would be days of the stretch itself: garbage there must not move its weights."""
    rows = returns([1.0, 2.0, 4.0])
    day = np.datetime64("2020-01-01") + np.arange(len(rows))
    fits = [datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)]
    held, votes = votes_over(MEMBERS, day, rows, fits, PRIOR)
    second = day >= np.datetime64("2021-01-01")
    assert (held[~second] == PRIOR).all()
    assert votes[0].days == 0
    np.testing.assert_array_equal(held[second], np.tile(votes[1].weights, (second.sum(), 1)))
    assert votes[1].weights[2] > PRIOR[2]
    garbage = np.where(second[:, None], -rows, rows)
    np.testing.assert_array_equal(votes_over(MEMBERS, day, garbage, fits, PRIOR)[0], held)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="none infinite"):
        sharpe_weights(MEMBERS, np.full((100, 3), np.inf), PRIOR)
