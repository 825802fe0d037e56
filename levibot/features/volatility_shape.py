"""How volatility itself moves: its changes, its sides, its jumps, its own volatility."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.bar_series import absolute_return, mean_square, per_sigma, price_line
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import decayed_sum, lag, log_ratio, rolling_max, rolling_mean
from levibot.features.rolling_moments import rolling_spread
from levibot.features.rolling_pairs import rolling_ratio, rolling_regression
from levibot.features.volatility import max_return, min_return, vol, vol_ratio
from levibot.features.windows import over, over_pairs
from levibot.market.bars import FloatArray

# Weights below 2^-10 are dropped, and the others scaled to one.
EWMA_HALF_LIVES = 10
DAY_BARS = 24


def vol_change(inputs: Inputs, bars: int, past_bars: int) -> FloatArray:
    """log of the volatility of the last `bars` returns over that of `past_bars`. NaN where nothing moved."""
    return 0.5 * log_ratio(mean_square(inputs, bars), mean_square(inputs, past_bars))


def ewma_ratio(inputs: Inputs, bars: int) -> FloatArray:
    """log of the exponentially weighted volatility over sigma_slow; `bars` is the half-life."""
    decay, window = 0.5 ** (1.0 / bars), EWMA_HALF_LIVES * bars
    weight = (1.0 - decay**window) / (1.0 - decay)
    mean = decayed_sum(inputs.squared_return, decay, window) / weight
    return 0.5 * log_ratio(mean, np.square(inputs.sigma_slow))


def vol_of_vol(inputs: Inputs, bars: int) -> FloatArray:
    """Standard deviation, over the window, of the log volatility of DAY_BARS returns."""

    def log_vol() -> FloatArray:
        squares = mean_square(inputs, DAY_BARS)
        return 0.5 * log_ratio(squares, np.ones_like(squares))

    return rolling_spread(inputs.shared("log_vol", log_vol), bars).deviation


def downside_share(inputs: Inputs, bars: int) -> FloatArray:
    """Part of the squared returns that falls made, 0 to 1. NaN where nothing moved."""

    def falls() -> FloatArray:
        return np.square(np.minimum(inputs.log_return, 0.0))

    return rolling_ratio(inputs.shared("squared_falls", falls), inputs.squared_return, bars)


def jump_share(inputs: Inputs, bars: int) -> FloatArray:
    """1 − bipower over realised variance: about 0 without jumps, towards 1 with them; below 0 by chance."""

    def products() -> FloatArray:
        moved = absolute_return(inputs)
        return moved * lag(moved, 1)

    bipower = rolling_ratio(inputs.shared("bipower", products), inputs.squared_return, bars)
    return 1.0 - 0.5 * math.pi * bipower


def bollinger_width(inputs: Inputs, bars: int) -> FloatArray:
    """log of the log closes' standard deviation over sigma_slow · √bars. NaN where nothing moved."""
    return log_ratio(price_line(inputs, bars).deviation, inputs.sigma_slow * math.sqrt(bars))


def ulcer(inputs: Inputs, bars: int) -> FloatArray:
    """Root mean square of the falls below the highest close of `bars`, over sigma_slow · √bars."""
    falls = rolling_max(inputs.log_close, bars) - inputs.log_close
    return per_sigma(inputs, np.sqrt(rolling_mean(np.square(falls), bars)), bars)


def leverage(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of each return with the next squared one: negative where falls raise volatility."""
    return rolling_regression(lag(inputs.log_return, 1), inputs.squared_return, bars).correlation


def vol_clustering(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of each absolute return with the next one."""
    moved = absolute_return(inputs)
    return rolling_regression(lag(moved, 1), moved, bars).correlation


VOLATILITY_SHAPE = (
    *over(
        (8, 672),
        "volatility",
        "vol",
        vol,
        unit="annualised volatility",
        source="Andersen & Bollerslev 1998: realised volatility",
        more_bars=1,
    ),
    *over(
        (8, 672),
        "volatility",
        "vol_ratio",
        vol_ratio,
        unit="log ratio",
        source="realised volatility (Andersen & Bollerslev 1998) against the slow one (RiskMetrics 1996)",
        more_bars=1,
        scaled=True,
    ),
    *over_pairs(
        ((8, 72), (24, 168), (168, 672)),
        "volatility",
        "vol_change",
        vol_change,
        parameters=("bars", "past_bars"),
        rows=lambda _, past_bars: past_bars + 1,
        unit="log ratio",
        source="Corsi 2009: volatilities of several horizons against each other",
    ),
    *(
        Feature(
            name=f"ewma_ratio_{bars}",
            family="volatility",
            unit="log ratio",
            source="RiskMetrics 1996, with a finite window, fast against slow",
            inputs=("close",),
            window_bars=EWMA_HALF_LIVES * bars + 1,
            formula=ewma_ratio,
            parameters=(("bars", bars),),
            scaled=True,
        )
        for bars in (11,)
    ),
    *over(
        (168,),
        "volatility",
        "vol_of_vol",
        vol_of_vol,
        unit="log volatility",
        source="Corsi, Mittnik, Pigorsch & Pigorsch 2008: volatility of realised volatility",
        more_bars=DAY_BARS,
    ),
    *over(
        (24, 168),
        "volatility",
        "downside_share",
        downside_share,
        unit="share of the variance",
        source="Barndorff-Nielsen, Kinnebrock & Shephard 2010: realised semivariance",
        more_bars=1,
    ),
    *over(
        (24, 168),
        "volatility",
        "jump_share",
        jump_share,
        unit="share of the variance",
        source="Barndorff-Nielsen & Shephard 2004: bipower variation",
        more_bars=2,
    ),
    *over(
        (24, 168),
        "volatility",
        "bollinger_width",
        bollinger_width,
        unit="log ratio",
        source="Bollinger 2001: band width, on log prices",
        scaled=True,
    ),
    *over(
        (168,),
        "volatility",
        "max_return",
        max_return,
        unit="standard deviations",
        source="Bali, Cakici & Whitelaw 2011: MAX",
        more_bars=1,
        scaled=True,
    ),
    *over(
        (168,),
        "volatility",
        "min_return",
        min_return,
        unit="standard deviations",
        source="Bali, Cakici & Whitelaw 2011: MIN",
        more_bars=1,
        scaled=True,
    ),
    Feature(
        name="ulcer_168",
        family="volatility",
        unit="standard deviations",
        source="Martin & McCann 1989: ulcer index, in logs",
        inputs=("close",),
        window_bars=2 * 168 - 1,
        formula=ulcer,
        parameters=(("bars", 168),),
        scaled=True,
    ),
    *over(
        (168,),
        "volatility",
        "leverage",
        leverage,
        unit="correlation",
        source="Black 1976: leverage effect",
        more_bars=2,
    ),
    *over(
        (168,),
        "volatility",
        "vol_clustering",
        vol_clustering,
        unit="correlation",
        source="Ding, Granger & Engle 1993: absolute returns remember",
        more_bars=2,
    ),
)
