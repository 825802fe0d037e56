"""What a walk through the past teaches is what a report of the same days says."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning.ensemble_seed import EnsembleSeed
from levibot.learning.market_days import market_days
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.training import SIGNAL, TrainingParameters
from levibot.learning.walk_forward import walk_forward
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import Panel, to_datetime64
from levibot.market.simulator import SimulatedSource
from levibot.trading.allocation import allocate
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import Costs
from levibot.trading.ensemble_walk import walk_ensemble
from levibot.trading.metrics import daily_returns, days_of

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
START = datetime(2020, 1, 1, tzinfo=UTC)
TEST_START = datetime(2020, 7, 10, tzinfo=UTC)
QUICK = TrainingParameters(booster=LightGBMParameters(trees=10), n_folds=2, n_models=1)


def test_a_walk_ends_with_the_weights_of_a_report_and_leaves_out_the_day_that_is_not_over() -> None:
    end = datetime(2020, 8, 20, 9, tzinfo=UTC)
    source = SimulatedSource(SYMBOLS, timedelta(hours=1), seed=11, edge=0.05)
    panel = Panel.align({symbol: source.bars(symbol, START, end) for symbol in SYMBOLS})
    past = ComputedPast(panel, CORE, SIGNAL.horizons_bars)
    splits = walk_forward(START, TEST_START, end)
    seed = walk_ensemble(past, splits, seed=2, costs=Costs(), training=QUICK)
    assert seed.weights.as_of == date(2020, 8, 19)
    opinions = walk_forward_opinions(past, splits, seed=2, training=QUICK)
    first = int(np.searchsorted(panel.ts, to_datetime64(TEST_START)))
    test = panel.rows(slice(first, len(panel)))
    earned = []
    for member in opinions.members:
        ordered = decided_at_close(opinions.alone(member))[first:]
        account = simulate(ordered, test.open, test.close, Costs(), no_trade_band=SIGNAL.no_trade_band)
        earned.append(daily_returns(test.closes_at, account.equity, account.start_equity))
    allocation = allocate(
        opinions.members,
        days_of(test.closes_at),
        np.column_stack(earned),
        market_days(panel),
        [split.fit_at for split in splits],
        seed=2,
    )
    # The last row of a report is held on the day that is not over.
    np.testing.assert_allclose(seed.weights.weights, allocation.ensemble[-1], rtol=0.0, atol=1e-12)
    # Forty days are too few to be heard.
    assert seed.router.abstains
    again = EnsembleSeed.from_files(seed.to_files())
    assert again.weights.to_json() == seed.weights.to_json()
    with pytest.raises(DataError, match="without a finished day"):
        walk_ensemble(past, walk_forward(START, end, end + timedelta(days=9)), seed=2, costs=Costs())
