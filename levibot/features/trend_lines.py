"""Straight lines and averages through the price: slope, fit, distance, crossings."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.bar_series import mean_close, per_sigma, price_line
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import log_ratio, ratio
from levibot.features.talib_series import EMA_CHAIN_SPANS, ema_rows, talib_series
from levibot.features.windows import over, over_pairs
from levibot.market.bars import FloatArray


def slope(inputs: Inputs, bars: int) -> FloatArray:
    """Slope of the least-squares line through the log closes, over the window, in sigma_slow · √bars."""
    return per_sigma(inputs, price_line(inputs, bars).slope * bars, bars)


def line_fit(inputs: Inputs, bars: int) -> FloatArray:
    """Share of the variance of log closes that their line explains, with the sign of its slope."""
    line = price_line(inputs, bars)
    return np.copysign(line.r_squared, line.slope)


def line_gap(inputs: Inputs, bars: int) -> FloatArray:
    """Log close less the line through the window, over sigma_slow · √bars."""
    return per_sigma(inputs, price_line(inputs, bars).gap, bars)


def price_score(inputs: Inputs, bars: int) -> FloatArray:
    """Log close less its mean of the window, in the window's standard deviations."""
    return price_line(inputs, bars).score


def average_cross(inputs: Inputs, bars: int, slow_bars: int) -> FloatArray:
    """log(mean of the last `bars` closes / mean of `slow_bars`) over sigma_slow · √slow_bars."""
    return per_sigma(inputs, log_ratio(mean_close(inputs, bars), mean_close(inputs, slow_bars)), slow_bars)


def ema_gap(inputs: Inputs, bars: int) -> FloatArray:
    """log(C / TA-Lib's EMA of that span) over sigma_slow · √bars."""
    average = talib_series("EMA", (inputs.close,), ema_rows(bars), {"timeperiod": bars})
    return per_sigma(inputs, log_ratio(inputs.close, average), bars)


def macd(inputs: Inputs, bars: int, slow_bars: int) -> FloatArray:
    """TA-Lib's MACD line over close · sigma_slow · √slow_bars."""
    return _scaled_macd(inputs, bars, slow_bars, output=0)


def macd_histogram(inputs: Inputs, bars: int, slow_bars: int) -> FloatArray:
    """TA-Lib's MACD line less its signal line, over close · sigma_slow · √slow_bars."""
    return _scaled_macd(inputs, bars, slow_bars, output=2)


def _scaled_macd(inputs: Inputs, bars: int, slow_bars: int, *, output: int) -> FloatArray:
    line = talib_series(
        "MACD",
        (inputs.close,),
        _macd_rows(bars, slow_bars),
        # Appel's proportions: 12, 26, 9.
        {"fastperiod": bars, "slowperiod": slow_bars, "signalperiod": 3 * bars // 4},
        output=output,
    )
    return ratio(line, inputs.close * inputs.sigma_slow) * (1.0 / math.sqrt(slow_bars))


def _macd_rows(_: int, slow_bars: int) -> int:
    return ema_rows(slow_bars, EMA_CHAIN_SPANS)


TREND_LINES = (
    *over(
        (24, 168, 672),
        "trend",
        "slope",
        slope,
        unit="standard deviations",
        source="least-squares line through log prices",
        scaled=True,
    ),
    *over(
        (24, 168, 672),
        "trend",
        "line_fit",
        line_fit,
        unit="share of the variance, signed",
        source="least-squares line through log prices: R²",
    ),
    *over(
        (24, 168),
        "trend",
        "line_gap",
        line_gap,
        unit="standard deviations",
        source="least-squares line through log prices: the newest residual",
        scaled=True,
    ),
    *over(
        (24, 168, 672),
        "trend",
        "price_score",
        price_score,
        unit="standard deviations of the window",
        source="Bollinger 2001: place between the bands, on log prices",
    ),
    *over_pairs(
        ((8, 24), (24, 168), (168, 672)),
        "trend",
        "average_cross",
        average_cross,
        parameters=("bars", "slow_bars"),
        rows=max,
        unit="standard deviations",
        source="Brock, Lakonishok & LeBaron 1992: two moving averages, as a distance",
        scaled=True,
    ),
    *(
        Feature(
            name=f"ema_gap_{bars}",
            family="trend",
            unit="standard deviations",
            source="TA-Lib EMA",
            inputs=("close",),
            window_bars=ema_rows(bars),
            formula=ema_gap,
            parameters=(("bars", bars),),
            scaled=True,
        )
        for bars in (50,)
    ),
    *(
        feature
        for name, formula in (("macd", macd), ("macd_histogram", macd_histogram))
        for feature in over_pairs(
            ((12, 26),),
            "trend",
            name,
            formula,
            parameters=("bars", "slow_bars"),
            rows=_macd_rows,
            unit="standard deviations",
            source="TA-Lib MACD (Appel 1979)",
            scaled=True,
        )
    ),
)
