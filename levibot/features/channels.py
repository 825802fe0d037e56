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
from levibot.features.rolling import lag, log, log_ratio, ratio, rolling_sum
from levibot.features.rolling_pairs import rolling_ratio
from levibot.features.talib_series import (
    STANDSTILL_LENGTHS,
    WILDER_CHAIN_LENGTHS,
    WILDER_LENGTHS,
    talib_series,
)
from levibot.features.trend import donchian
from levibot.features.windows import over
from levibot.market.bars import FloatArray

# Hosoda's lengths; the cloud stands BASE bars ahead of what it is made from.
CONVERSION, BASE, SPAN = 9, 26, 52


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


def directional_balance(inputs: Inputs, bars: int) -> FloatArray:
    """(+DI − −DI) / (+DI + −DI) of TA-Lib: −1 to 1. NaN after a standstill of STANDSTILL_LENGTHS · bars."""
    fields = (inputs.high, inputs.low, inputs.close)
    still = bars_are_flat(inputs, STANDSTILL_LENGTHS * bars)
    rows = WILDER_LENGTHS * bars
    plus = talib_series("PLUS_DI", fields, rows, {"timeperiod": bars}, unknown=still)
    minus = talib_series("MINUS_DI", fields, rows, {"timeperiod": bars}, unknown=still)
    return ratio(plus - minus, plus + minus)


def aroon(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's Aroon oscillator, −100 to 100: how much newer the highest high is than the lowest low."""
    return talib_series("AROONOSC", (inputs.high, inputs.low), bars + 1, {"timeperiod": bars})


def ichimoku_cross(inputs: Inputs) -> FloatArray:
    """log(conversion line / base line) over sigma_slow · √BASE."""
    return per_sigma(inputs, log(_middle(inputs, CONVERSION) / _middle(inputs, BASE)), BASE)


def ichimoku_cloud_gap(inputs: Inputs) -> FloatArray:
    """log(C / middle of the cloud over the bar) over sigma_slow · √SPAN."""
    first, second = _cloud(inputs)
    return per_sigma(inputs, log(2.0 * inputs.close / (first + second)), SPAN)


def ichimoku_cloud_width(inputs: Inputs) -> FloatArray:
    """log(leading span A / leading span B) of the cloud over the bar, over sigma_slow · √SPAN."""
    first, second = _cloud(inputs)
    return per_sigma(inputs, log(first / second), SPAN)


def _log_width(inputs: Inputs, bars: int) -> FloatArray:
    return inputs.shared(("log_width", bars), lambda: log(highest(inputs, bars) / lowest(inputs, bars)))


def _middle(inputs: Inputs, bars: int) -> FloatArray:
    return inputs.shared(("middle", bars), lambda: 0.5 * (highest(inputs, bars) + lowest(inputs, bars)))


def _cloud(inputs: Inputs) -> tuple[FloatArray, FloatArray]:
    def compute() -> tuple[FloatArray, FloatArray]:
        first = 0.5 * (_middle(inputs, CONVERSION) + _middle(inputs, BASE))
        return lag(first, BASE), lag(_middle(inputs, SPAN), BASE)

    return inputs.shared("ichimoku_cloud", compute)


CHANNELS = (
    *over(
        (72, 1344),
        "trend",
        "donchian",
        donchian,
        unit="share of the channel",
        source="Donchian channel: the highest high and lowest low of the window",
        inputs=("high", "low", "close"),
    ),
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
        for bars in (14, 48)
    ),
    *(
        Feature(
            name=f"directional_balance_{bars}",
            family="trend",
            unit="share of the directional movement",
            source="TA-Lib PLUS_DI and MINUS_DI (Wilder 1978)",
            inputs=("high", "low", "close"),
            window_bars=WILDER_LENGTHS * bars,
            formula=directional_balance,
            parameters=(("bars", bars),),
        )
        for bars in (14, 48)
    ),
    *over(
        (24, 72),
        "trend",
        "aroon",
        aroon,
        unit="percent",
        source="TA-Lib AROONOSC (Chande 1995)",
        inputs=("high", "low"),
        more_bars=1,
    ),
    Feature(
        name="ichimoku_cross",
        family="trend",
        unit="standard deviations",
        source="Hosoda 1969: conversion and base line",
        inputs=("high", "low", "close"),
        window_bars=BASE,
        formula=ichimoku_cross,
        scaled=True,
    ),
    Feature(
        name="ichimoku_cloud_gap",
        family="trend",
        unit="standard deviations",
        source="Hosoda 1969: price against the cloud",
        inputs=("high", "low", "close"),
        window_bars=SPAN + BASE,
        formula=ichimoku_cloud_gap,
        scaled=True,
    ),
    Feature(
        name="ichimoku_cloud_width",
        family="trend",
        unit="standard deviations",
        source="Hosoda 1969: the two leading spans",
        inputs=("high", "low", "close"),
        window_bars=SPAN + BASE,
        formula=ichimoku_cloud_width,
        scaled=True,
    ),
)
