"""Rewards against their definitions, written another way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from rl.reward import Reward, reward_of


def rewards_along(equity: FloatArray, reward: Reward) -> FloatArray:
    peak, mean, mean_square, out = equity[0], 0.0, 0.0, []
    for before, after in pairwise(equity):
        one, peak, mean, mean_square = reward_of(before, after, peak, mean, mean_square, reward.rule)
        out.append(one)
    return np.array(out)


@pytest.fixture
def equity() -> FloatArray:
    return 100.0 * np.cumprod(1.0 + np.random.default_rng(2).normal(0.0005, 0.01, 400))


def test_log_returns_add_up(equity: FloatArray) -> None:
    assert rewards_along(equity, Reward()).sum() == pytest.approx(np.log(equity[-1] / equity[0]))


def test_the_differential_sharpe_ratio_is_the_slope_of_the_moving_one(equity: FloatArray) -> None:
    """Moody & Saffell: dS/d(adaptation) at adaptation 0, here as a difference over a small one."""
    adaptation, small = 0.02, 1e-6
    reward = Reward("differential_sharpe", adaptation=adaptation, least_volatility=1e-12)
    given = rewards_along(equity, reward)
    returns = equity[1:] / equity[:-1] - 1.0
    mean = mean_square = 0.0
    for t, earned in enumerate(returns):
        if t >= 2:
            before = mean / np.sqrt(mean_square - mean**2)
            nudged = mean + small * (earned - mean), mean_square + small * (earned**2 - mean_square)
            slope = (nudged[0] / np.sqrt(nudged[1] - nudged[0] ** 2) - before) / small
            assert given[t] == pytest.approx(slope, rel=1e-3, abs=1e-4)
        mean += adaptation * (earned - mean)
        mean_square += adaptation * (earned**2 - mean_square)


def test_a_move_after_a_flat_stretch_is_no_reward_without_bound() -> None:
    equity = np.concatenate((100.0 * np.cumprod([1.0, 1.001, 0.999]), np.full(3000, 99.9), [101.0]))
    bounded = rewards_along(equity, Reward("differential_sharpe"))
    unbounded = rewards_along(equity, Reward("differential_sharpe", least_volatility=1e-12))
    assert np.abs(bounded).max() < 10.0
    assert np.abs(unbounded).max() > 1e3


def test_penalties_add_up_to_the_falls_below_old_highs(equity: FloatArray) -> None:
    drawdown = 1.0 - equity / np.maximum.accumulate(equity)
    falls = np.maximum(np.diff(drawdown), 0.0)
    taken_off = rewards_along(equity, Reward()) - rewards_along(equity, Reward(drawdown_penalty=0.3))
    assert taken_off == pytest.approx(0.3 * falls, abs=1e-12)
    assert falls.sum() > drawdown.max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "profit"},
        {"drawdown_penalty": -0.1},
        {"adaptation": 0.0},
        {"adaptation": 1.1},
        {"least_volatility": 0.0},
    ],
)
def test_a_reward_outside_its_limits_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="must"):
        Reward(**wrong)
