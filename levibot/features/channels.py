"""Channels and directional movement: where highs and lows are made, and which of them."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.bar_series import (
    bars_are_flat,
    highest,
    log_high,
    log_low,
    lowest,
    per_sigma,
    true_range,
)
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import lag, log, log_ratio, rolling_sum
from levibot.features.rolling_pairs import rolling_ratio
from levibot.features.talib_series import (
    STANDSTILL_LENGTHS,
    WILDER_CHAIN_LENGTHS,
    talib_series,
)
from levibot.features.windows import over
from levibot.market.bars import FloatArray


def channel_width(inputs: Inputs, bars: int) -> FloatArray:
    """log(highest high / lowest low) over sigma_slow · √bars."""
    return per_sigma(inputs, _log_width(inputs, bars), bars)


def choppiness(inputs: Inputs, bars: int) -> FloatArray:
    """log(sum of true ranges / range of the window) / log(bars): 0 for one straight move, 1 for none."""
    path = rolling_sum(true_range(inputs), bars)
    return log_ratio(path, _log_width(inputs, bars)) * (1.0 / math.log(bars))


def vortex(inputs: Inputs, bars: int) -> FloatArray:
    """Upward less downward vortex movement over the true ranges, all in logs."""

    def movement() -> FloatArray:
        upward = np.abs(log_high(inputs) - lag(log_low(inputs), 1))
        return upward - np.abs(log_low(inputs) - lag(log_high(inputs), 1))

    return rolling_ratio(inputs.shared("vortex", movement), true_range(inputs), bars)


def adx(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's average directional index, 0 to 100. NaN after a standstill of STANDSTILL_LENGTHS · bars."""
    return talib_series(
        "ADX",
        (inputs.high, inputs.low, inputs.close),
        WILDER_CHAIN_LENGTHS * bars,
        {"timeperiod": bars},
        unknown=bars_are_flat(inputs, STANDSTILL_LENGTHS * bars),
    )


def _log_width(inputs: Inputs, bars: int) -> FloatArray:
    return inputs.shared(("log_width", bars), lambda: log(highest(inputs, bars) / lowest(inputs, bars)))


CHANNELS = (
    *over(
        (24, 168),
        "trend",
        "channel_width",
        channel_width,
        unit="standard deviations",
        source="Donchian channel: its width",
        inputs=("high", "low", "close"),
        scaled=True,
    ),
    *over(
        (24, 168),
        "trend",
        "choppiness",
        choppiness,
        unit="0 to about 1",
        source="Dreiss 1993: choppiness index, in logs",
        inputs=("high", "low", "close"),
        more_bars=1,
    ),
    *over(
        (24, 72),
        "trend",
        "vortex",
        vortex,
        unit="share of the true range",
        source="Botes & Siepman 2010: vortex indicator, in logs",
        inputs=("high", "low", "close"),
        more_bars=1,
    ),
    *(
        Feature(
            name=f"adx_{bars}",
            family="trend",
            unit="percent",
            source="TA-Lib ADX (Wilder 1978)",
            inputs=("high", "low", "close"),
            window_bars=WILDER_CHAIN_LENGTHS * bars,
            formula=adx,
            parameters=(("bars", bars),),
        )
        for bars in (14,)
    ),
)
