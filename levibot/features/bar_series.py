"""Series of a panel that several features read, each computed once. All (T, S).

In a row without a bar that is bridged (see Inputs), open, high and low are the last close and volume is zero.
"""

from __future__ import annotations

import math

import numpy as np

from levibot.features.inputs import Inputs
from levibot.features.rolling import (
    BoolArray,
    lag,
    log,
    rolling_max,
    rolling_mean,
    rolling_min,
    rolling_sum,
)
from levibot.features.rolling_extremes import are_flat, stands
from levibot.features.rolling_moments import Line, Shape, Spread, rolling_line, rolling_shape, rolling_spread
from levibot.features.rolling_pairs import over_scale
from levibot.market.bars import FloatArray


def per_sigma(inputs: Inputs, x: FloatArray, bars: int) -> FloatArray:
    """x / (sigma_slow · √bars): a log change over `bars` rows in its own standard deviations."""
    return over_scale(x, inputs.sigma_slow, math.sqrt(bars))


def log_open(inputs: Inputs) -> FloatArray:
    """log of the open."""
    return inputs.shared("log_open", lambda: log(np.where(inputs.has_bar, inputs.panel.open, inputs.close)))


def log_high(inputs: Inputs) -> FloatArray:
    """log of the high."""
    return inputs.shared("log_high", lambda: log(inputs.high))


def log_low(inputs: Inputs) -> FloatArray:
    """log of the low."""
    return inputs.shared("log_low", lambda: log(inputs.low))


def log_range(inputs: Inputs) -> FloatArray:
    """log(H / L), ≥ 0."""
    return inputs.shared("log_range", lambda: log_high(inputs) - log_low(inputs))


def log_body(inputs: Inputs) -> FloatArray:
    """log(C / O)."""
    return inputs.shared("log_body", lambda: inputs.log_close - log_open(inputs))


def log_gap(inputs: Inputs) -> FloatArray:
    """log(O / C[-1])."""
    return inputs.shared("log_gap", lambda: log_open(inputs) - lag(inputs.log_close, 1))


def true_range(inputs: Inputs) -> FloatArray:
    """log of the higher of high and last close over the lower of low and last close (Wilder 1978)."""

    def compute() -> FloatArray:
        before = lag(inputs.log_close, 1)
        return np.maximum(log_high(inputs), before) - np.minimum(log_low(inputs), before)

    return inputs.shared("true_range", compute)


def volume(inputs: Inputs) -> FloatArray:
    """Volume in base currency, zero in a bridged row, NaN beyond."""

    def compute() -> FloatArray:
        traded = np.where(inputs.has_bar, inputs.panel.volume, 0.0)
        return np.asfortranarray(np.where(np.isnan(inputs.close), np.nan, traded))

    return inputs.shared("volume", compute)


def absolute_return(inputs: Inputs) -> FloatArray:
    """|log return|."""
    return inputs.shared("absolute_return", lambda: np.abs(inputs.log_return))


def return_sign(inputs: Inputs) -> FloatArray:
    """−1, 0 or 1: the side of the row's return."""
    return inputs.shared("return_sign", lambda: np.sign(inputs.log_return))


def signed_volume_series(inputs: Inputs) -> FloatArray:
    """Dollar volume with the sign of the row's return."""
    return inputs.shared("signed_volume", lambda: inputs.dollar_volume * return_sign(inputs))


def path_length(inputs: Inputs, bars: int) -> FloatArray:
    """Sum of the last absolute log returns."""
    return inputs.shared(("path_length", bars), lambda: rolling_sum(absolute_return(inputs), bars))


def mean_square(inputs: Inputs, bars: int) -> FloatArray:
    """Mean of the last squared log returns."""
    return inputs.shared(("mean_square", bars), lambda: rolling_mean(inputs.squared_return, bars))


def mean_squared_range(inputs: Inputs, bars: int) -> FloatArray:
    """Mean of the last squared log ranges."""
    squares = inputs.shared("squared_range", lambda: np.square(log_range(inputs)))
    return inputs.shared(("mean_squared_range", bars), lambda: rolling_mean(squares, bars))


def mean_close(inputs: Inputs, bars: int) -> FloatArray:
    """Mean of the last closes."""
    return inputs.shared(("mean_close", bars), lambda: rolling_mean(inputs.close, bars))


def mean_dollars(inputs: Inputs, bars: int) -> FloatArray:
    """Mean of the last dollar volumes."""
    return inputs.shared(("mean_dollars", bars), lambda: rolling_mean(inputs.dollar_volume, bars))


def highest(inputs: Inputs, bars: int) -> FloatArray:
    """Highest of the last highs."""
    return inputs.shared(("highest", bars), lambda: rolling_max(inputs.high, bars))


def lowest(inputs: Inputs, bars: int) -> FloatArray:
    """Lowest of the last lows."""
    return inputs.shared(("lowest", bars), lambda: rolling_min(inputs.low, bars))


def price_line(inputs: Inputs, bars: int) -> Line:
    """The line through the last log closes."""
    return inputs.shared(("price_line", bars), lambda: rolling_line(inputs.log_close, bars))


def return_spread(inputs: Inputs, bars: int) -> Spread:
    """Mean and standard deviation of the last log returns."""
    return inputs.shared(("return_spread", bars), lambda: rolling_spread(inputs.log_return, bars))


def return_shape(inputs: Inputs, bars: int) -> Shape:
    """Skewness and kurtosis of the last log returns."""
    return inputs.shared(("return_shape", bars), lambda: rolling_shape(inputs.log_return, bars))


def dollar_spread(inputs: Inputs, bars: int) -> Spread:
    """Mean and standard deviation of the last dollar volumes."""
    return inputs.shared(("dollar_spread", bars), lambda: rolling_spread(inputs.dollar_volume, bars))


def close_stands(inputs: Inputs, bars: int) -> BoolArray:
    """Whether the last `bars` rows brought no change of the close."""
    return inputs.shared(("close_stands", bars), lambda: stands(inputs.close, bars))


def bars_are_flat(inputs: Inputs, bars: int) -> BoolArray:
    """Whether the last `bars` rows are all one price: nothing was traded, or always at the same."""
    return inputs.shared(("bars_are_flat", bars), lambda: are_flat(inputs.high, inputs.low, bars))
