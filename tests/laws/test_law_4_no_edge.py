"""Law 4: a market with no edge yields no edge; one with a planted edge is found.

From raw bars to the reported Sharpe ratio, without costs, pooled over several simulated markets.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.training import TrainingParameters
from levibot.market.bars import FloatArray
from levibot.market.simulator import SimulatedSource
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.conditions import Conditions
from levibot.trading.costs import NO_COSTS
from levibot.trading.metrics import DAYS_PER_YEAR, sharpe
from levibot.trading.report import Report, run_backtest
from tests.trial_books import new_book

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
SEEDS = range(8)
TRAIN_START = datetime(2020, 1, 1, tzinfo=UTC)
TEST_START = datetime(2020, 10, 1, tzinfo=UTC)
TEST_END = datetime(2021, 7, 1, tzinfo=UTC)
# One chance in a hundred to fail on honest noise; the seeds are fixed, so it does not come and go.
SIGNIFICANT = 2.33
QUICK = TrainingParameters(booster=LightGBMParameters(trees=40, learning_rate=0.1), n_models=1, n_folds=2)


def backtest(seed: int, edge: float, view: FeatureView = CORE) -> Report:
    source = SimulatedSource(SYMBOLS, timedelta(hours=1), seed, edge)
    with tempfile.TemporaryDirectory() as folder:
        return run_backtest(
            source,
            SYMBOLS,
            train_start=TRAIN_START,
            test_start=TEST_START,
            test_end=TEST_END,
            seed=seed,
            trials=new_book(),
            histories=FrozenHistories(Path(folder), say=pytest.fail),
            conditions=Conditions(NO_COSTS),
            view=view,
            training=QUICK,
        )


def pooled_z(edge: float, view: FeatureView = CORE, seeds: range = SEEDS) -> float:
    """Sharpe ratio of all markets' days, each market scaled to one volatility, over its standard error."""
    days = [backtest(seed, edge, view).ensemble.daily_returns for seed in seeds]
    pooled = np.concatenate([returns / returns.std() for returns in days])
    return sharpe(pooled) * float(np.sqrt(len(pooled) / DAYS_PER_YEAR))


def test_no_edge_is_found_where_there_is_none() -> None:
    assert pooled_z(edge=0.0) < SIGNIFICANT


def test_a_planted_edge_is_found() -> None:
    assert pooled_z(edge=0.1, seeds=SEEDS[:3]) > SIGNIFICANT


def return_of_the_next_day(inputs: Inputs) -> FloatArray:
    """What no feature may know: the log return over the 24 bars to come."""
    out = np.full_like(inputs.log_close, np.nan)
    out[:-24] = inputs.log_close[24:] - inputs.log_close[:-24]
    return out


def test_a_feature_that_sees_the_future_would_be_caught() -> None:
    leak = Feature(
        name="return_of_the_next_day",
        family="returns",
        unit="log return",
        source="planted",
        inputs=("close",),
        window_bars=1,
        formula=return_of_the_next_day,
    )
    leaky = FeatureView("leaky", (*CORE.features, leak))
    assert pooled_z(edge=0.0, view=leaky, seeds=SEEDS[:2]) > SIGNIFICANT


def test_the_sharpe_ratio_of_a_run_is_that_of_its_days() -> None:
    report = backtest(0, 0.0)
    assert report.ensemble.sharpe_net == report.ensemble.sharpe_gross
    assert report.ensemble.sharpe_net == pytest.approx(sharpe(report.ensemble.daily_returns))
    assert report.to_json()["period"]["days"] == 273
