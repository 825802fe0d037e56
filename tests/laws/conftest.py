"""Markets for the laws about features: made from a seed, with the damage that real bars have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from levibot.market.bars import FIELDS, Panel, TimeArray
from levibot.market.side_series import (
    DEX_SPREAD,
    FUNDING_RATE,
    NEWS_SENTIMENT,
    NFT_FLOOR,
    SideSeries,
    with_side_series,
)

SYMBOLS = ("ETHUSDT", "BTCUSDT", "SOLUSDT", "ADAUSDT")
FIRST_CLOSES = np.array([3000.0, 60000.0, 20.0, 0.4])
LATE_SYMBOL = 2

# Longer than the warm-up of every view, with room for cuts behind it.
ROWS = 4200

# (symbol, rows before the end at which it begins, rows): the laws look at the end.
Stretch = tuple[int, int, int]
MakeMarket = Callable[..., Panel]


def _make_market(
    *,
    seed: int = 0,
    listed_rows: int = ROWS,
    holes: list[Stretch] | None = None,
    still: list[Stretch] | None = None,
) -> Panel:
    """Hourly bars of four symbols with jumps and changing volatility.

    listed_rows: how long ago the late symbol was listed. holes: stretches without bars. still: stretches in
    which nothing is traded and the price stands.
    """
    rng = np.random.default_rng(seed)
    shape = (ROWS, len(SYMBOLS))
    sigma = 0.008 * np.exp(0.5 * np.sin(np.arange(ROWS) / 300.0))[:, None]
    steps = sigma * (0.6 * rng.standard_t(4, (ROWS, 1)) + 0.8 * rng.standard_t(4, shape))
    volume = np.exp(rng.normal(5.0, 1.0, shape))
    for symbol, before_end, length in still or []:
        standing = slice(ROWS - before_end, ROWS - before_end + length)
        steps[standing, symbol] = 0.0
        volume[standing, symbol] = 0.0
    close = FIRST_CLOSES * np.exp(np.cumsum(np.clip(steps, -0.5, 0.5), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    traded = volume > 0.0
    high = np.maximum(opened, close) * np.where(traded, 1.0 + 0.004 * rng.random(shape), 1.0)
    low = np.minimum(opened, close) * np.where(traded, 1.0 - 0.004 * rng.random(shape), 1.0)

    missing = np.zeros(shape, dtype=bool)
    missing[: ROWS - listed_rows, LATE_SYMBOL] = True
    for symbol, before_end, length in holes or []:
        missing[ROWS - before_end : ROWS - before_end + length, symbol] = True
    # A row exists because a symbol has a bar in it: a market-wide outage is no row.
    present = ~missing.all(axis=1)
    fields = dict(zip(FIELDS, (opened, high, low, close, volume), strict=True))
    ts = np.datetime64("2024-01-01T00:00:00", "us") + np.arange(ROWS) * np.timedelta64(1, "h")
    damaged = {name: np.where(missing, np.nan, field)[present] for name, field in fields.items()}
    panel = Panel(SYMBOLS, timedelta(hours=1), ts[present], **damaged)
    return with_side_series(panel, _side_series(rng, ts))


def _side_series(rng: np.random.Generator, ts: TimeArray) -> list[SideSeries]:
    """A rate every eight hours, a quote, a floor and a tone every hour, at any minute; some are missing."""
    series = []
    for symbol in SYMBOLS:
        for name, hours, scale in ((FUNDING_RATE, 8, 1e-4), (DEX_SPREAD, 1, 1e-3), (NEWS_SENTIMENT, 1, 0.3)):
            at = ts[::hours] + rng.integers(0, 3600, len(ts[::hours])) * np.timedelta64(1, "s")
            values = np.clip(rng.normal(scale, scale, len(at)), -1.0, 1.0)
            series.append(SideSeries(name, symbol, at, values))
    floor = np.exp(np.cumsum(rng.normal(0.0, 0.01, len(ts))))
    series.append(SideSeries(NFT_FLOOR, None, ts + np.timedelta64(10, "m"), floor))
    return series


@pytest.fixture(scope="session")
def make_market() -> MakeMarket:
    return _make_market
