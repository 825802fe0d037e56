"""Markets to play on: a simulated one with features, and any prices that a test writes down."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from levibot.features.views import CORE
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.market.simulator import SimulatedSource
from rl.traded_market import TradedMarket

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
# A few of the view's: what is tested here does not depend on which.
FEATURES = ("return_1", "return_24", "trend_168", "rsi_14", "vol_24", "volume_ratio_4_168", "hour_sin")

MakeMarket = Callable[..., TradedMarket]


@pytest.fixture(scope="session")
def source() -> SimulatedSource:
    return SimulatedSource(SYMBOLS, HOUR, 2, 0.05)


@pytest.fixture(scope="session")
def market(source: SimulatedSource) -> TradedMarket:
    """Two symbols over a month; they have not the same number of rows."""
    return TradedMarket.load(source, SYMBOLS, "2020-06-01", "2020-07-05", features=FEATURES)


def _market_of(
    close: FloatArray, *, opened: FloatArray | None = None, funding_rate: FloatArray | None = None
) -> TradedMarket:
    """One symbol with these closes (T,); opens at the close before, unless `opened` says otherwise."""
    opened = np.concatenate((close[:1], close[:-1])) if opened is None else opened
    ts = np.datetime64("2021-01-01", "us") + np.arange(len(close)) * np.timedelta64(HOUR)
    high, low = np.maximum(opened, close), np.minimum(opened, close)
    volume = np.linspace(1e4, 2e4, len(close))
    panel = Panel(("BTCUSDT",), HOUR, ts, *(of[:, None] for of in (opened, high, low, close, volume)))
    features = np.random.default_rng(1).normal(size=(len(close), 1, 2))
    return TradedMarket.of_panel(
        panel,
        features,
        ("BTCUSDT",),
        to_datetime(ts[0]),
        to_datetime(ts[-1]) + HOUR,
        view=CORE,
        names=FEATURES[:2],
        scaling=None,
        funding={} if funding_rate is None else {"BTCUSDT": funding_rate},
    )


@pytest.fixture(scope="session")
def make_market() -> MakeMarket:
    return _market_of
