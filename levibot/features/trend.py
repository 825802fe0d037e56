"""Where the price stands against its own past: trend, moving averages, channels."""

from __future__ import annotations

import math

from levibot.features.bar_series import highest, lowest, mean_close
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import log, ratio
from levibot.market.bars import FloatArray


def trend(inputs: Inputs, bars: int) -> FloatArray:
    """log(C / C[-bars]) / (sigma_slow · √bars), not clipped."""
    return inputs.scaled_change(bars)


def relative_trend(inputs: Inputs, bars: int) -> FloatArray:
    """`trend` minus its mean over the symbols that have a bar in the row and a trend."""
    own = inputs.scaled_change(bars)
    return own - inputs.across(own)


def sma_gap(inputs: Inputs, bars: int) -> FloatArray:
    """log(C / mean of the last closes) / (sigma_slow · √bars)."""
    gap = inputs.log_close - log(mean_close(inputs, bars))
    return ratio(gap, inputs.sigma_slow * math.sqrt(bars))


def donchian(inputs: Inputs, bars: int) -> FloatArray:
    """Place of the close between the lowest low (0) and the highest high (1) of the window."""
    bottom = lowest(inputs, bars)
    return ratio(inputs.close - bottom, highest(inputs, bars) - bottom)


def _trend(bars: int) -> Feature:
    return Feature(
        name=f"trend_{bars}",
        family="trend",
        unit="standard deviations",
        source="Moskowitz, Ooi & Pedersen 2012: past return over ex-ante volatility",
        inputs=("close",),
        window_bars=bars + 1,
        formula=trend,
        parameters=(("bars", bars),),
        scaled=True,
    )


def _relative_trend(bars: int) -> Feature:
    return Feature(
        name=f"relative_trend_{bars}",
        family="trend",
        unit="standard deviations",
        source="Jegadeesh & Titman 1993: past return against the cross-section, here scaled by volatility",
        inputs=("close",),
        window_bars=bars + 1,
        formula=relative_trend,
        parameters=(("bars", bars),),
        scaled=True,
        reads_others=True,
    )


def _sma_gap(bars: int) -> Feature:
    return Feature(
        name=f"sma_gap_{bars}",
        family="trend",
        unit="standard deviations",
        source="Brock, Lakonishok & LeBaron 1992: price against its moving average, as a distance",
        inputs=("close",),
        window_bars=bars,
        formula=sma_gap,
        parameters=(("bars", bars),),
        scaled=True,
    )


def _donchian(bars: int) -> Feature:
    return Feature(
        name=f"donchian_{bars}",
        family="trend",
        unit="share of the channel",
        source="Donchian channel: the highest high and lowest low of the window",
        inputs=("high", "low", "close"),
        window_bars=bars,
        formula=donchian,
        parameters=(("bars", bars),),
    )


TREND = (
    *(_trend(bars) for bars in (168, 336, 672, 1344)),
    *(_relative_trend(bars) for bars in (168, 336, 672, 1344)),
    *(_sma_gap(bars) for bars in (24, 168, 672)),
    *(_donchian(bars) for bars in (24, 168, 672)),
)
