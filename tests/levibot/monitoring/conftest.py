"""A simulated market, which does not drift, its features, and the reference learned from its first part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.signal import SignalModel
from levibot.learning.training import SIGNAL, TrainingParameters, train
from levibot.market.bars import FloatArray, Panel
from levibot.market.simulator import SimulatedSource
from levibot.monitoring.reference import DriftReference

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
HOUR = timedelta(hours=1)
START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
LEARNED_ROWS = 20_000


@pytest.fixture(scope="session")
def still_market() -> Panel:
    """Four years of hours whose laws do not change."""
    source = SimulatedSource(SYMBOLS, HOUR, seed=5, edge=0.0)
    return Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})


@pytest.fixture(scope="session")
def still_features(still_market: Panel) -> FloatArray:
    return compute(CORE, still_market)


@pytest.fixture(scope="session")
def reference(still_features: FloatArray) -> DriftReference:
    return DriftReference.fit(still_features[:LEARNED_ROWS], CORE.names, 24)


@pytest.fixture(scope="session")
def later_days(still_features: FloatArray) -> list[FloatArray]:
    """Each day after the reference, with the day before it: (48, S, F)."""
    firsts = range(LEARNED_ROWS, len(still_features) - 48, 24)
    return [still_features[first : first + 48] for first in firsts]


@pytest.fixture(scope="session")
def model(still_market: Panel, still_features: FloatArray) -> SignalModel:
    past = ComputedPast(still_market, CORE, SIGNAL.horizons_bars, still_features)
    return train(
        past.at(datetime(2021, 1, 1, tzinfo=UTC)),
        seed=2,
        train_start=START,
        training=TrainingParameters(booster=LightGBMParameters(trees=20), n_folds=2),
    )
