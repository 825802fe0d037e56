"""The symbol against the others: market, leader, relative returns, breadth.

A mean over symbols counts those that have a bar in the row and a value.
"""

from __future__ import annotations

import numpy as np

from levibot.features.bar_series import mean_close
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.market.bars import FloatArray

# A price that has not moved equals its average only up to rounding; it is not above it.
ABOVE = 1.0 + 1e-9


def market_return(inputs: Inputs, bars: int) -> FloatArray:
    """Mean over the symbols of log(C / C[-bars]) / (sigma_slow · √bars)."""
    return inputs.across(inputs.scaled_change(bars))


def leader_return(inputs: Inputs, bars: int) -> FloatArray:
    """The scaled return of the leading symbol: BTCUSDT, or the first symbol of a panel without it."""
    change = inputs.scaled_change(bars)
    return np.broadcast_to(change[:, [inputs.leader]], change.shape)


def relative_return(inputs: Inputs, bars: int) -> FloatArray:
    """The symbol's scaled return less the market's."""
    own = inputs.scaled_change(bars)
    return own - inputs.across(own)


def breadth(inputs: Inputs, bars: int) -> FloatArray:
    """Share of the symbols whose close is above its mean of the last `bars` closes."""
    mean = mean_close(inputs, bars)
    above = np.where(np.isnan(mean), np.nan, inputs.close > mean * ABOVE)
    return inputs.across(above)


def _market_return(bars: int) -> Feature:
    return Feature(
        name=f"market_return_{bars}",
        family="cross_asset",
        unit="standard deviations",
        source="equal-weight market of volatility-scaled returns (Moskowitz, Ooi & Pedersen 2012)",
        inputs=("close",),
        window_bars=bars + 1,
        formula=market_return,
        parameters=(("bars", bars),),
        scaled=True,
        reads_others=True,
    )


def _leader_return(bars: int) -> Feature:
    return Feature(
        name=f"leader_return_{bars}",
        family="cross_asset",
        unit="standard deviations",
        source="Lo & MacKinlay 1990: large assets lead small ones",
        inputs=("close",),
        window_bars=bars + 1,
        formula=leader_return,
        parameters=(("bars", bars),),
        scaled=True,
        reads_others=True,
    )


def _relative_return(bars: int) -> Feature:
    return Feature(
        name=f"relative_return_{bars}",
        family="cross_asset",
        unit="standard deviations",
        source="Jegadeesh & Titman 1993: past return against the cross-section, here scaled by volatility",
        inputs=("close",),
        window_bars=bars + 1,
        formula=relative_return,
        parameters=(("bars", bars),),
        scaled=True,
        reads_others=True,
    )


CROSS_ASSET = (
    *(_market_return(bars) for bars in (8, 24, 168)),
    *(_leader_return(bars) for bars in (1, 8)),
    *(_relative_return(bars) for bars in (24, 72)),
    Feature(
        name="breadth_168",
        family="cross_asset",
        unit="share of symbols",
        source="Zaremba, Szyszka, Karathanasopoulos & Mikutowski 2021: market breadth",
        inputs=("close",),
        window_bars=168,
        formula=breadth,
        parameters=(("bars", 168),),
        reads_others=True,
    ),
)
