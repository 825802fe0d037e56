"""The bars that the feature benchmarks compute on."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from levibot.market.bars import Panel


def random_market(n_rows: int, n_symbols: int, seed: int = 0) -> Panel:
    """Hourly bars of a random walk with changing volatility, without holes."""
    rng = np.random.default_rng(seed)
    shape = (n_rows, n_symbols)
    sigma = 0.008 * np.exp(0.5 * np.sin(np.arange(n_rows) / 300.0))[:, None]
    close = 100.0 * np.exp(np.cumsum(sigma * rng.standard_normal(shape), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    high = np.maximum(opened, close) * (1.0 + 0.004 * rng.random(shape))
    low = np.minimum(opened, close) * (1.0 - 0.004 * rng.random(shape))
    symbols = ("BTCUSDT", *(f"COIN{number}USDT" for number in range(1, n_symbols)))
    ts = np.datetime64("2018-01-01T00:00:00", "us") + np.arange(n_rows) * np.timedelta64(1, "h")
    volume = np.exp(rng.normal(4.0, 1.0, shape))
    return Panel(symbols, timedelta(hours=1), ts, opened, high, low, close, volume)
