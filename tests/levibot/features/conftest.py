"""A small market without holes, and everything that the core view says about it."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.views import CORE, FULL
from levibot.market.bars import FloatArray, Panel
from tests.levibot.features.one_symbol import OneSymbol, one_symbol

ROWS = 1700
LONG_ROWS = 2300


@pytest.fixture(scope="session")
def small_market() -> Panel:
    """Three symbols, 1,700 hours from a Monday on: enough for every feature's first value."""
    rng = np.random.default_rng(11)
    shape = (ROWS, 3)
    close = np.array([60000.0, 3000.0, 0.5]) * np.exp(np.cumsum(rng.normal(0.0, 0.01, shape), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    high = np.maximum(opened, close) * (1.0 + 0.005 * rng.random(shape))
    low = np.minimum(opened, close) * (1.0 - 0.005 * rng.random(shape))
    volume = np.exp(rng.normal(4.0, 1.0, shape))
    ts = np.datetime64("2024-01-01T00:00:00", "us") + np.arange(ROWS) * np.timedelta64(1, "h")
    symbols = ("BTCUSDT", "ETHUSDT", "ADAUSDT")
    return Panel(symbols, timedelta(hours=1), ts, opened, high, low, close, volume)


@pytest.fixture(scope="session")
def core_values(small_market: Panel) -> dict[str, FloatArray]:
    """Feature name to its (T, S) values on the small market."""
    values = compute(CORE, small_market)
    return {name: values[:, :, position] for position, name in enumerate(CORE.names)}


@pytest.fixture(scope="session")
def sigma(small_market: Panel) -> FloatArray:
    """(S,) the slow volatility per bar at the newest row, by the definition: half-life 45 days."""
    out = np.zeros(3)
    for symbol in range(3):
        close = small_market.close[:, symbol]
        weight_sum = total = 0.0
        for age in range(ROWS - 1):
            weight = 0.5 ** (age / 1080)
            weight_sum += weight
            total += weight * np.log(close[-1 - age] / close[-2 - age]) ** 2
        out[symbol] = np.sqrt(total / weight_sum)
    return out


@pytest.fixture(scope="session")
def long_market() -> Panel:
    """Three symbols, 2,300 hours, with side series: enough for the first value of every feature of `full`."""
    rng = np.random.default_rng(23)
    shape = (LONG_ROWS, 3)
    common = 0.6 * rng.standard_t(5, (LONG_ROWS, 1))
    steps = 0.006 * (common + rng.standard_t(5, shape))
    close = np.array([60000.0, 3000.0, 0.5]) * np.exp(np.cumsum(steps, axis=0))
    opened = np.vstack([close[:1], close[:-1]]) * np.exp(rng.normal(0.0, 0.0005, shape))
    high = np.maximum(opened, close) * (1.0 + 0.005 * rng.random(shape))
    low = np.minimum(opened, close) * (1.0 - 0.005 * rng.random(shape))
    volume = np.exp(rng.normal(4.0, 1.0, shape))
    ts = np.datetime64("2024-01-01T00:00:00", "us") + np.arange(LONG_ROWS) * np.timedelta64(1, "h")
    extra = {
        "funding_rate": rng.normal(1e-4, 1e-4, shape),
        "dex_spread": rng.normal(0.0, 1e-3, shape),
        "nft_floor": np.exp(np.cumsum(rng.normal(0.0, 0.01, shape), axis=0)),
        "news_sentiment": rng.uniform(-1.0, 1.0, shape),
    }
    symbols = ("BTCUSDT", "ETHUSDT", "ADAUSDT")
    return Panel(symbols, timedelta(hours=1), ts, opened, high, low, close, volume, extra=extra)


@pytest.fixture(scope="session")
def full_values(long_market: Panel) -> dict[str, FloatArray]:
    """Feature name of `full` to its (T, S) values on the long market."""
    values = compute(FULL, long_market)
    return {name: values[:, :, position] for position, name in enumerate(FULL.names)}


@pytest.fixture(scope="session")
def symbols(long_market: Panel) -> list[OneSymbol]:
    """The long market's symbols, each alone."""
    return [one_symbol(long_market, symbol) for symbol in range(3)]
