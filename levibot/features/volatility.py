"""How much the price moves, and how: level, change, range, asymmetry, extremes."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.bar_series import mean_square, mean_squared_range
from levibot.features.feature import Feature
from levibot.features.inputs import FAST_HALF_LIFE_BARS, HALF_LIVES, Inputs
from levibot.features.rolling import log_ratio, ratio, rolling_max, rolling_min, rolling_sum
from levibot.market.bars import FloatArray

FAST_ROWS = HALF_LIVES * FAST_HALF_LIFE_BARS + 1


def vol_slow(inputs: Inputs) -> FloatArray:
    """Exponentially weighted volatility with a half-life of SLOW_HALF_LIFE_BARS, annualised."""
    return inputs.sigma_slow * math.sqrt(inputs.bars_per_year)


def vol_fast(inputs: Inputs) -> FloatArray:
    """Exponentially weighted volatility with a half-life of FAST_HALF_LIFE_BARS, annualised."""
    return inputs.sigma_fast * math.sqrt(inputs.bars_per_year)


def vol(inputs: Inputs, bars: int) -> FloatArray:
    """Root mean square of the last log returns, annualised."""
    return np.sqrt(mean_square(inputs, bars) * inputs.bars_per_year)


def vol_ratio(inputs: Inputs, bars: int) -> FloatArray:
    """log of the window's volatility over sigma_slow. NaN where nothing moved in the window."""
    return log_ratio(np.sqrt(mean_square(inputs, bars)), inputs.sigma_slow)


def vol_ratio_fast(inputs: Inputs) -> FloatArray:
    """log(sigma_fast / sigma_slow)."""
    return log_ratio(inputs.sigma_fast, inputs.sigma_slow)


def parkinson(inputs: Inputs, bars: int) -> FloatArray:
    """Volatility from the bars' ranges, annualised: √(mean log(H / L)² / (4 log 2))."""
    factor = inputs.bars_per_year / (4.0 * math.log(2.0))
    return np.sqrt(mean_squared_range(inputs, bars) * factor)


def parkinson_ratio(inputs: Inputs, bars: int) -> FloatArray:
    """log of the volatility from ranges over that from closes. High where moves within bars revert."""
    return log_ratio(parkinson(inputs, bars), vol(inputs, bars))


def skew(inputs: Inputs, bars: int) -> FloatArray:
    """Realised skewness: √n Σ r³ / (Σ r²)^1.5 over the window."""
    cubes = rolling_sum(inputs.squared_return * inputs.log_return, bars)
    squares = rolling_sum(inputs.squared_return, bars)
    return math.sqrt(bars) * ratio(cubes, squares * np.sqrt(squares))


def max_return(inputs: Inputs, bars: int) -> FloatArray:
    """Largest one-bar log return of the window over sigma_slow."""
    return ratio(rolling_max(inputs.log_return, bars), inputs.sigma_slow)


def min_return(inputs: Inputs, bars: int) -> FloatArray:
    """Smallest one-bar log return of the window over sigma_slow."""
    return ratio(rolling_min(inputs.log_return, bars), inputs.sigma_slow)


def _vol(bars: int) -> Feature:
    return Feature(
        name=f"vol_{bars}",
        family="volatility",
        unit="annualised volatility",
        source="Andersen & Bollerslev 1998: realised volatility",
        inputs=("close",),
        window_bars=bars + 1,
        formula=vol,
        parameters=(("bars", bars),),
    )


def _vol_ratio(bars: int) -> Feature:
    return Feature(
        name=f"vol_ratio_{bars}",
        family="volatility",
        unit="log ratio",
        source="realised volatility (Andersen & Bollerslev 1998) against the slow one (RiskMetrics 1996)",
        inputs=("close",),
        window_bars=bars + 1,
        formula=vol_ratio,
        parameters=(("bars", bars),),
        scaled=True,
    )


VOLATILITY = (
    Feature(
        name="vol_slow",
        family="volatility",
        unit="annualised volatility",
        source="RiskMetrics 1996, with a finite window",
        inputs=("close",),
        window_bars=1,
        formula=vol_slow,
        scaled=True,
    ),
    Feature(
        name="vol_fast",
        family="volatility",
        unit="annualised volatility",
        source="RiskMetrics 1996, with a finite window",
        inputs=("close",),
        window_bars=FAST_ROWS,
        formula=vol_fast,
    ),
    _vol(24),
    _vol(168),
    _vol_ratio(24),
    _vol_ratio(168),
    Feature(
        name="vol_ratio_fast",
        family="volatility",
        unit="log ratio",
        source="RiskMetrics 1996, fast against slow",
        inputs=("close",),
        window_bars=FAST_ROWS,
        formula=vol_ratio_fast,
        scaled=True,
    ),
    Feature(
        name="parkinson_24",
        family="volatility",
        unit="annualised volatility",
        source="Parkinson 1980",
        inputs=("high", "low", "close"),
        window_bars=24,
        formula=parkinson,
        parameters=(("bars", 24),),
    ),
    Feature(
        name="parkinson_ratio_24",
        family="volatility",
        unit="log ratio",
        source="Parkinson 1980 against realised volatility (Andersen & Bollerslev 1998)",
        inputs=("high", "low", "close"),
        window_bars=25,
        formula=parkinson_ratio,
        parameters=(("bars", 24),),
    ),
    Feature(
        name="skew_168",
        family="volatility",
        unit="skewness",
        source="Amaya, Christoffersen, Jacobs & Vasquez 2015: realised skewness",
        inputs=("close",),
        window_bars=169,
        formula=skew,
        parameters=(("bars", 168),),
    ),
    Feature(
        name="max_return_24",
        family="volatility",
        unit="standard deviations",
        source="Bali, Cakici & Whitelaw 2011: MAX",
        inputs=("close",),
        window_bars=25,
        formula=max_return,
        parameters=(("bars", 24),),
        scaled=True,
    ),
    Feature(
        name="min_return_24",
        family="volatility",
        unit="standard deviations",
        source="Bali, Cakici & Whitelaw 2011: MIN",
        inputs=("close",),
        window_bars=25,
        formula=min_return,
        parameters=(("bars", 24),),
        scaled=True,
    ),
)
