"""Volatility from whole bars: range estimators, and how they compare with closes."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.bar_series import (
    bars_are_flat,
    log_body,
    log_gap,
    log_high,
    log_low,
    log_open,
    log_range,
    mean_square,
)
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import log_ratio, ratio, rolling_mean
from levibot.features.rolling_moments import rolling_spread
from levibot.features.talib_series import STANDSTILL_LENGTHS, WILDER_LENGTHS, talib_series
from levibot.features.volatility import parkinson
from levibot.features.windows import over
from levibot.market.bars import FloatArray

ALL_PRICES = ("open", "high", "low", "close")


def garman_klass(inputs: Inputs, bars: int) -> FloatArray:
    """Volatility from ranges and bodies, annualised: √ mean(½ log(H/L)² − (2 log 2 − 1) log(C/O)²)."""
    return np.sqrt(_garman_klass(inputs, bars) * inputs.bars_per_year)


def garman_klass_ratio(inputs: Inputs, bars: int) -> FloatArray:
    """log of Garman and Klass's volatility over that of the closes. NaN where either did not move."""
    return 0.5 * log_ratio(_garman_klass(inputs, bars), mean_square(inputs, bars))


def rogers_satchell(inputs: Inputs, bars: int) -> FloatArray:
    """Volatility that a drift does not raise, annualised: √ mean(h(h − c) + l(l − c)), logs over the open."""
    return np.sqrt(rolling_mean(_rogers_satchell(inputs), bars) * inputs.bars_per_year)


def yang_zhang(inputs: Inputs, bars: int) -> FloatArray:
    """Volatility of opening jumps, bodies and ranges, annualised; drift-free and with the least variance.

    √(V(log O/C[-1]) + k V(log C/O) + (1 − k) V_RS), k = 0.34 / (1.34 + (bars + 1) / (bars − 1)).
    """
    k = 0.34 / (1.34 + (bars + 1) / (bars - 1))
    # Sample variances: the paper divides by bars − 1.
    unbiased = bars / (bars - 1)
    jumps = np.square(rolling_spread(log_gap(inputs), bars).deviation) * unbiased
    bodies = np.square(rolling_spread(log_body(inputs), bars).deviation) * unbiased
    within = rolling_mean(_rogers_satchell(inputs), bars)
    return np.sqrt((jumps + k * bodies + (1.0 - k) * within) * inputs.bars_per_year)


def true_range_share(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's NATR: Wilder's average true range in percent of the close.

    NaN after a standstill of STANDSTILL_LENGTHS · bars.
    """
    fields = (inputs.high, inputs.low, inputs.close)
    still = bars_are_flat(inputs, STANDSTILL_LENGTHS * bars)
    return talib_series("NATR", fields, WILDER_LENGTHS * bars, {"timeperiod": bars}, unknown=still)


def range_expansion(inputs: Inputs, bars: int) -> FloatArray:
    """The bar's log range over the mean one of the window. NaN where the window has no range."""
    return ratio(log_range(inputs), rolling_mean(log_range(inputs), bars))


def _garman_klass(inputs: Inputs, bars: int) -> FloatArray:
    def per_bar() -> FloatArray:
        bodies = (2.0 * math.log(2.0) - 1.0) * np.square(log_body(inputs))
        # Never negative but for rounding, and a root will be taken.
        return np.maximum(0.5 * np.square(log_range(inputs)) - bodies, 0.0)

    def compute() -> FloatArray:
        return rolling_mean(inputs.shared("garman_klass", per_bar), bars)

    return inputs.shared(("garman_klass", bars), compute)


def _rogers_satchell(inputs: Inputs) -> FloatArray:
    def compute() -> FloatArray:
        opened = log_open(inputs)
        up, down, close = log_high(inputs) - opened, log_low(inputs) - opened, log_body(inputs)
        # Never negative but for rounding, and a root will be taken.
        return np.maximum(up * (up - close) + down * (down - close), 0.0)

    return inputs.shared("rogers_satchell", compute)


RANGES = (
    *over(
        (168,),
        "volatility",
        "parkinson",
        parkinson,
        unit="annualised volatility",
        source="Parkinson 1980",
        inputs=("high", "low", "close"),
    ),
    *over(
        (24, 168),
        "volatility",
        "garman_klass",
        garman_klass,
        unit="annualised volatility",
        source="Garman & Klass 1980",
        inputs=ALL_PRICES,
    ),
    *over(
        (24, 168),
        "volatility",
        "garman_klass_ratio",
        garman_klass_ratio,
        unit="log ratio",
        source="Garman & Klass 1980 against realised volatility (Andersen & Bollerslev 1998)",
        inputs=ALL_PRICES,
        more_bars=1,
    ),
    *over(
        (24, 168),
        "volatility",
        "rogers_satchell",
        rogers_satchell,
        unit="annualised volatility",
        source="Rogers & Satchell 1991",
        inputs=ALL_PRICES,
    ),
    *over(
        (24,),
        "volatility",
        "yang_zhang",
        yang_zhang,
        unit="annualised volatility",
        source="Yang & Zhang 2000",
        inputs=ALL_PRICES,
        more_bars=1,
    ),
    *(
        Feature(
            name=f"true_range_share_{bars}",
            family="volatility",
            unit="percent of the close",
            source="TA-Lib NATR (Wilder 1978)",
            inputs=("high", "low", "close"),
            window_bars=WILDER_LENGTHS * bars,
            formula=true_range_share,
            parameters=(("bars", bars),),
        )
        for bars in (14,)
    ),
    *over(
        (24, 168),
        "volatility",
        "range_expansion",
        range_expansion,
        unit="multiple of the mean range",
        source="Crabel 1990: narrow and wide ranges",
        inputs=("high", "low", "close"),
    ),
)
