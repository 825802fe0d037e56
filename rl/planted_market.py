"""A market whose best policy is known: what training must find, and what it must not find."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from levibot.features.views import CORE
from levibot.market.bars import Panel, to_datetime
from rl.traded_market import TradedMarket

SYMBOL, HOUR = "BTCUSDT", timedelta(hours=1)
# Bars that a regime lasts on average; the deviation of a bar's log return; how many features say nothing.
REGIME_BARS, BAR_VOLATILITY, NOISE_FEATURES = 100, 0.01, 3


def planted_market(n_bars: int, drift: float, seed: int, *, keeps_unscaled: bool = False) -> TradedMarket:
    """Hours in which the price drifts up or down by regimes, and the first feature says which one rules.

    drift: expected log return of a bar in the direction of the regime; 0 is a martingale whatever is seen.
    The sign of the first feature at a close is the regime of the next bars. A regime ends at any bar with
    one chance in REGIME_BARS. Where drift * REGIME_BARS is far above what turning a position costs, holding
    the regime's sign is the best policy there is; without a drift, staying flat is.
    """
    rng = np.random.default_rng(seed)
    regime = np.where(np.cumsum(rng.random(n_bars) < 1.0 / REGIME_BARS) % 2, 1.0, -1.0)
    # What was seen at a close moves the bar after it, which opens at that close.
    moves = np.concatenate(([0.0], drift * regime[:-1])) + BAR_VOLATILITY * rng.normal(size=n_bars)
    close = 100.0 * np.exp(np.cumsum(moves - 0.5 * BAR_VOLATILITY**2))
    opened = np.concatenate((close[:1], close[:-1]))
    ts = np.datetime64("2021-01-01", "us") + np.arange(n_bars) * np.timedelta64(HOUR)
    high, low = np.maximum(opened, close), np.minimum(opened, close)
    volume = np.full(n_bars, 1e4)
    features = np.concatenate((regime[:, None], rng.normal(size=(n_bars, NOISE_FEATURES))), axis=1)
    return TradedMarket.of_panel(
        Panel(
            (SYMBOL,),
            HOUR,
            ts,
            opened[:, None],
            high[:, None],
            low[:, None],
            close[:, None],
            volume[:, None],
        ),
        features[:, None, :],
        (SYMBOL,),
        to_datetime(ts[0]),
        to_datetime(ts[-1]) + HOUR,
        view=CORE,
        names=CORE.names[: NOISE_FEATURES + 1],
        scaling=None,
        funding={},
        keeps_unscaled=keeps_unscaled,
    )
