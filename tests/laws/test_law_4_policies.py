"""Law 4 for the environment: a policy earns from an edge, and nothing once the order of the bars is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.market.bars import FloatArray, Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.trading.alpha import alpha_z
from levibot.trading.control_markets import block_permuted
from levibot.trading.costs import NO_COSTS
from rl.game import Game
from rl.traded_market import TradedMarket, as_instant
from rl.vector_env import TradingVectorEnv

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
FEATURES = ("return_12", "return_24", "return_48")
VIEW = FeatureView("core", tuple(CORE.features[CORE.index(name)] for name in FEATURES))
START, END = as_instant("2020-03-01"), as_instant("2020-12-01")
SIGNIFICANT = 2.33

Policy = Callable[[TradedMarket, FloatArray], FloatArray]


def follow(market: TradedMarket, seen: FloatArray) -> FloatArray:
    """Long what has risen: the edge that the simulated market has planted."""
    return np.clip(seen[:, : len(FEATURES)].mean(axis=1, keepdims=True) / 2.0, -1.0, 1.0)


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, 11, 0.1)
    return Panel.align({symbol: source.bars(symbol, MARKET_START, END) for symbol in SYMBOLS})


def pooled_z(panel: Panel, policy: Policy) -> float:
    """z of the alpha of bar returns without costs, over all symbols, each scaled to one volatility."""
    market = TradedMarket.of_panel(
        panel,
        compute(VIEW, panel),
        SYMBOLS,
        START,
        END,
        view=CORE,
        names=FEATURES,
        scaling=None,
        funding={},
    )
    envs = TradingVectorEnv.over(market, len(SYMBOLS), Game("continuous", costs=NO_COSTS, no_trade_band=0.0))
    seen, _ = envs.reset(seed=0)
    rewards, ended = [], np.zeros(len(SYMBOLS), dtype=bool)
    while not ended.any():
        seen, reward, bankrupt, at_end, _ = envs.step(policy(market, seen).astype(np.float32))
        rewards.append(reward)
        ended = bankrupt | at_end
    earned = np.array(rewards)
    moved = np.column_stack(
        [np.diff(np.log(market.mark[first:]))[: len(earned)] for first in market.begins[:-1]]
    )
    return alpha_z((earned / earned.std(axis=0)).reshape(-1), (moved / moved.std(axis=0)).reshape(-1))


def test_a_planted_edge_is_earned(panel: Panel) -> None:
    assert pooled_z(panel, follow) > 2.0 * SIGNIFICANT


def test_permuted_bars_leave_no_edge(panel: Panel) -> None:
    for seed in range(2):
        assert abs(pooled_z(block_permuted(panel, 1, np.random.default_rng(seed)), follow)) < SIGNIFICANT


def test_a_policy_that_knows_the_next_bar_would_be_seen(panel: Panel) -> None:
    row = -1

    def peek(market: TradedMarket, seen: FloatArray) -> FloatArray:
        nonlocal row
        row += 1
        ahead = market.begins[:-1] + row + 1
        return np.sign(market.mark[ahead] / market.mark[ahead - 1] - 1.0)[:, None] * 0.1

    assert pooled_z(block_permuted(panel, 1, np.random.default_rng(0)), peek) > 2.0 * SIGNIFICANT
