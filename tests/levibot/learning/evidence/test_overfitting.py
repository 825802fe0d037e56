"""PBO against a reading of the definition, division by division, and on what is known of it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.evidence.overfitting import overfitting
from levibot.market.bars import FloatArray


def noise(seed: int, n_days: int = 240, n_strategies: int = 12) -> FloatArray:
    return np.random.default_rng(seed).normal(0.0, 0.01, (n_days, n_strategies))


def logits_by_hand(returns: FloatArray, n_blocks: int) -> list[float]:
    """The definition (2017, section 3), with loops and sorted lists."""
    blocks = np.split(returns, n_blocks)
    logits = []
    for inside in combinations(range(n_blocks), n_blocks // 2):
        first = np.concatenate([blocks[k] for k in inside])
        second = np.concatenate([blocks[k] for k in range(n_blocks) if k not in inside])
        before, after = ([c.mean() / c.std(ddof=1) for c in half.T] for half in (first, second))
        best = before.index(max(before))
        rank = sorted(after).index(after[best]) + 1
        omega = rank / (returns.shape[1] + 1)
        logits.append(float(np.log(omega / (1.0 - omega))))
    return logits


def test_every_division_is_the_definition() -> None:
    returns = noise(1, n_days=48, n_strategies=5)
    found = overfitting(returns, n_blocks=8)
    assert found.logits.tolist() == pytest.approx(logits_by_hand(returns, 8))
    assert len(found.logits) == 70
    assert found.probability == np.mean(np.array(logits_by_hand(returns, 8)) <= 0.0)


def test_without_edge_the_choice_is_a_coin() -> None:
    probabilities = [overfitting(noise(seed), n_blocks=10).probability for seed in range(60)]
    assert np.mean(probabilities) == pytest.approx(0.5, abs=0.08)


def test_a_real_edge_is_chosen_rightly() -> None:
    returns = noise(2, n_days=730)
    returns[:, 4] += 0.0025
    found = overfitting(returns, n_blocks=10)
    assert found.probability < 0.02
    assert found.probability_of_loss < 0.02
    assert np.mean(found.chosen == 4) > 0.95


def test_what_wins_in_one_half_must_lose_in_the_other_where_all_end_at_zero() -> None:
    """The authors' case of full overfitting: each strategy's mean over all days is 0."""
    returns = noise(3)
    found = overfitting(returns - returns.mean(axis=0), n_blocks=10)
    assert found.probability > 0.95
    assert found.probability_of_loss == 1.0


def test_order_and_scale_of_the_strategies_do_not_matter() -> None:
    returns = noise(4)
    scaled = returns[:, ::-1] * np.linspace(0.5, 2.0, returns.shape[1])
    assert overfitting(scaled, 8).probability == overfitting(returns, 8).probability


def test_a_strategy_that_does_nothing_scores_nothing_and_equal_ones_share_their_rank() -> None:
    returns = np.abs(noise(5)) * -1.0
    returns[:, 0] = 0.0
    assert overfitting(returns, 8).probability == 0.0
    same = np.repeat(noise(6, n_strategies=1), 4, axis=1)
    assert overfitting(same, 8).logits.tolist() == pytest.approx([0.0] * 70)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:, :1], "1 strategies cannot be cut"),
        (lambda r: r[:15], "cannot be cut into 8 blocks"),
        (lambda r: np.where(r == r[0, 0], np.nan, r), "not finite"),
        (lambda r: np.where(np.arange(12) == 3, 0.01, r), "do not vary"),
    ],
)
def test_what_cannot_be_divided_is_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        overfitting(change(noise(7)), 8)


@pytest.mark.parametrize("n_blocks", [0, 7])
def test_an_odd_number_of_blocks_has_no_halves(n_blocks: int) -> None:
    with pytest.raises(DataError, match="even number of blocks"):
        overfitting(noise(8), n_blocks)
