"""Liquidity read from bars: price impact, spreads, order imbalance. Spreads are shares of the price."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf

from levibot.features.bar_series import (
    absolute_return,
    log_high,
    log_low,
    log_range,
    mean_dollars,
    mean_square,
    return_sign,
    signed_volume_series,
)
from levibot.features.inputs import Inputs
from levibot.features.rolling import lag, log_ratio, ratio, rolling_mean
from levibot.features.rolling_pairs import Regression, rolling_ratio, rolling_regression
from levibot.features.windows import over, over_pairs
from levibot.market.bars import FloatArray

WITH_VOLUME = ("close", "volume")
DAY_BARS = 24
RANGES = ("high", "low", "close")
# Corwin & Schultz 2012, eq. 14.
ALPHA_DIVISOR = 3.0 - 2.0 * math.sqrt(2.0)


def amihud_ratio(inputs: Inputs, bars: int, past_bars: int) -> FloatArray:
    """log of the mean |return| / dollar volume of the bars that traded, over the same of `past_bars`."""

    def impact() -> tuple[FloatArray, FloatArray]:
        traded = np.sign(inputs.dollar_volume) + 0.0 * inputs.log_return
        each = ratio(absolute_return(inputs), inputs.dollar_volume)
        return np.where(traded == 0.0, 0.0, each), traded

    each, traded = inputs.shared("amihud", impact)
    return log_ratio(rolling_ratio(each, traded, bars), rolling_ratio(each, traded, past_bars))


def roll_spread(inputs: Inputs, bars: int) -> FloatArray:
    """2 √−cov of returns that follow one another; 0 where the covariance is positive. Share of the price."""

    def products() -> FloatArray:
        return inputs.log_return * lag(inputs.log_return, 1)

    covariance = rolling_mean(inputs.shared(("return_products", 1), products), bars)
    return 2.0 * np.sqrt(np.maximum(-covariance, 0.0))


def corwin_schultz(inputs: Inputs, bars: int) -> FloatArray:
    """Spread from the ranges of one bar and of two, negative ones set to 0, averaged. Share of the price."""

    def spreads() -> FloatArray:
        squares = np.square(log_range(inputs))
        beta = squares + lag(squares, 1)
        high, low = log_high(inputs), log_low(inputs)
        both = np.maximum(high, lag(high, 1)) - np.minimum(low, lag(low, 1))
        alpha = (math.sqrt(2.0) - 1.0) * np.sqrt(beta) / ALPHA_DIVISOR - both / math.sqrt(ALPHA_DIVISOR)
        grown = np.expm1(np.maximum(alpha, 0.0))
        # 2 (e^α − 1) / (1 + e^α)
        return 2.0 * grown / (2.0 + grown)

    return rolling_mean(inputs.shared("corwin_schultz", spreads), bars)


def abdi_ranaldo(inputs: Inputs, bars: int) -> FloatArray:
    """Spread from closes against the middles of two bars' ranges, averaged over pairs. Share of the price."""

    def spreads() -> FloatArray:
        middle = 0.5 * (log_high(inputs) + log_low(inputs))
        before = lag(inputs.log_close, 1)
        squared = 4.0 * (before - lag(middle, 1)) * (before - middle)
        return np.sqrt(np.maximum(squared, 0.0))

    return rolling_mean(inputs.shared("abdi_ranaldo", spreads), bars)


def kyle_lambda(inputs: Inputs, bars: int) -> FloatArray:
    """Move, in sigma_slow, that signed volume of one mean bar brings: slope of returns on signed volume."""
    slope = _impact(inputs, bars).slope * mean_dollars(inputs, bars)
    return ratio(slope, inputs.sigma_slow)


def impact_correlation(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of returns with signed dollar volume: how much of the move is volume's."""
    return _impact(inputs, bars).correlation


def flow_reversal(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of returns with the signed dollar volume of the bar before; negative where it reverts."""
    return rolling_regression(lag(signed_volume_series(inputs), 1), inputs.log_return, bars).correlation


def zero_returns(inputs: Inputs, bars: int) -> FloatArray:
    """Share of the bars that did not move the close."""
    return 1.0 - rolling_mean(np.abs(return_sign(inputs)), bars)


def vpin(inputs: Inputs, bars: int) -> FloatArray:
    """Volume-weighted |imbalance| of bulk-classified bars, 0 to 1. NaN where nothing was traded."""

    def unsigned() -> FloatArray:
        return np.abs(_bulk_flow(inputs))

    return rolling_ratio(inputs.shared("bulk_imbalance", unsigned), inputs.dollar_volume, bars)


def bulk_flow(inputs: Inputs, bars: int) -> FloatArray:
    """Bulk-classified buying less selling, as a share of volume. NaN where nothing was traded."""
    return rolling_ratio(_bulk_flow(inputs), inputs.dollar_volume, bars)


def _impact(inputs: Inputs, bars: int) -> Regression:
    return inputs.shared(
        ("impact", bars), lambda: rolling_regression(signed_volume_series(inputs), inputs.log_return, bars)
    )


def _bulk_flow(inputs: Inputs) -> FloatArray:
    """Dollar volume · (2 Φ(return / volatility of DAY_BARS returns) − 1); 0 for a bar that did not move."""

    def compute() -> FloatArray:
        score = ratio(inputs.log_return, np.sqrt(2.0 * mean_square(inputs, DAY_BARS)))
        side = erf(np.where(return_sign(inputs) == 0.0, 0.0 * mean_square(inputs, DAY_BARS), score))
        flow: FloatArray = inputs.dollar_volume * side
        return flow

    return inputs.shared("bulk_flow", compute)


MICROSTRUCTURE = (
    *over_pairs(
        ((24, 168),),
        "microstructure",
        "amihud_ratio",
        amihud_ratio,
        parameters=("bars", "past_bars"),
        rows=lambda _, past_bars: past_bars + 1,
        unit="log ratio",
        source="Amihud 2002: absolute return over dollar volume, bars averaged",
        inputs=WITH_VOLUME,
    ),
    *over(
        (24, 168),
        "microstructure",
        "roll_spread",
        roll_spread,
        unit="share of the price",
        source="Roll 1984: effective spread from the serial covariance",
        more_bars=2,
    ),
    *over(
        (24, 168),
        "microstructure",
        "corwin_schultz",
        corwin_schultz,
        unit="share of the price",
        source="Corwin & Schultz 2012, eqs. 14 and 18: spread from highs and lows",
        inputs=RANGES,
        more_bars=1,
    ),
    *over(
        (24, 168),
        "microstructure",
        "abdi_ranaldo",
        abdi_ranaldo,
        unit="share of the price",
        source="Abdi & Ranaldo 2017: spread from close, high and low, two-bar corrected",
        inputs=RANGES,
        more_bars=1,
    ),
    *over(
        (168,),
        "microstructure",
        "kyle_lambda",
        kyle_lambda,
        unit="standard deviations a mean bar's volume",
        source="Kyle 1985: price impact, by regression on signed volume",
        inputs=WITH_VOLUME,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (168,),
        "microstructure",
        "impact_correlation",
        impact_correlation,
        unit="correlation",
        source="Kyle 1985: fit of the price impact",
        inputs=WITH_VOLUME,
        more_bars=1,
    ),
    *over(
        (168,),
        "microstructure",
        "flow_reversal",
        flow_reversal,
        unit="correlation",
        source="Pástor & Stambaugh 2003: reversal after signed volume",
        inputs=WITH_VOLUME,
        more_bars=2,
    ),
    *over(
        (168,),
        "microstructure",
        "zero_returns",
        zero_returns,
        unit="share of the bars",
        source="Lesmond, Ogden & Trzcinka 1999: zero returns",
        more_bars=1,
    ),
    *(
        feature
        for name, formula in (("vpin", vpin), ("bulk_flow", bulk_flow))
        for feature in over(
            (168,),
            "microstructure",
            name,
            formula,
            unit="share of volume",
            source="Easley, López de Prado & O'Hara 2012: bulk volume classification",
            inputs=WITH_VOLUME,
            more_bars=DAY_BARS,
        )
    ),
)
