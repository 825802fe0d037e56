"""Causal window primitives: row t reads rows t - window + 1 … t and nothing else.

Every function takes (T, S) arrays, oldest row first, and returns (T, S). A NaN in a window makes the result
NaN (unless said otherwise), and so does a window that begins before row 0. All are O(T).

Results are in Fortran order, each symbol's series contiguous; what comes in another order is copied first.
Nothing outside the window enters the arithmetic (see `kernels`), so a short live panel gives what a long
history gives; a running cumulative sum would carry the rounding of all the past.
"""

from __future__ import annotations

import numpy as np

from levibot.features import kernels
from levibot.features.kernels import SMALLEST_DENOMINATOR as SMALLEST_DENOMINATOR
from levibot.market.bars import BoolArray as BoolArray
from levibot.market.bars import FloatArray


def lag(x: FloatArray, bars: int) -> FloatArray:
    """The value `bars` rows earlier; NaN in the first `bars` rows."""
    out = np.empty_like(x)
    out[:bars] = np.nan
    out[bars:] = x[: max(0, len(x) - bars)]
    return out


def change(x: FloatArray, bars: int) -> FloatArray:
    """x less its value `bars` rows earlier; NaN in the first `bars` rows."""
    out = np.empty_like(x)
    out[:bars] = np.nan
    if bars < len(x):
        np.subtract(x[bars:], x[: len(x) - bars], out=out[bars:])
    return out


def scaled_change(x: FloatArray, scale: FloatArray, factor: float, bars: int) -> FloatArray:
    """ratio(change(x, bars), scale · factor) in one pass; factor > 0."""
    series, scales = _series(x), _series(scale)
    out = np.empty_like(series)
    kernels.scaled_changes(series, scales, factor, bars, out)
    return out.T


def carry_forward(x: FloatArray, limit_rows: int) -> FloatArray:
    """Fill each NaN with the last value of its column, over at most `limit_rows` rows; beyond, NaN stays."""
    series = _series(x)
    out = np.empty_like(series)
    kernels.carried(series, limit_rows, out)
    return out.T


def rolling_sum(x: FloatArray, window_bars: int) -> FloatArray:
    """Sum of the last `window_bars` rows."""
    series = _series(x)
    out = np.empty_like(series)
    kernels.window_sums(series, window_bars, out)
    return out.T


def rolling_mean(x: FloatArray, window_bars: int) -> FloatArray:
    """Mean of the last `window_bars` rows."""
    mean = rolling_sum(x, window_bars)
    mean /= window_bars
    return mean


def decayed_sum(x: FloatArray, decay: float, window_bars: int) -> FloatArray:
    """Sum over the last `window_bars` rows of decay^age · x, age 0 being the row itself.

    decay: in (0, 1].
    """
    if decay == 1.0:
        return rolling_sum(x, window_bars)
    series = _series(x)
    out = np.empty_like(series)
    kernels.decayed_sums(series, float(decay), window_bars, out)
    return out.T


def rolling_max(x: FloatArray, window_bars: int) -> FloatArray:
    """Largest of the last `window_bars` rows."""
    series = _series(x)
    out = np.empty_like(series)
    kernels.window_extremes(series, window_bars, 1.0, out)
    return out.T


def rolling_min(x: FloatArray, window_bars: int) -> FloatArray:
    """Smallest of the last `window_bars` rows."""
    series = _series(x)
    out = np.empty_like(series)
    kernels.window_extremes(series, window_bars, -1.0, out)
    return out.T


def ewm_mean(x: FloatArray, half_life_bars: float, window_bars: int, min_bars: int) -> FloatArray:
    """Exponentially weighted mean of the last `window_bars` rows; older weights are dropped, not kept small.

    NaN rows have no weight, and the other weights are scaled to one. NaN while fewer than `min_bars` of the
    window's rows hold a value.
    """
    series = _series(x)
    out = np.empty_like(series)
    kernels.known_means(series, 0.5 ** (1.0 / half_life_bars), window_bars, min_bars, out)
    return out.T


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """numerator / denominator; NaN where the denominator is not positive."""
    if numerator.shape != denominator.shape:
        numerator, denominator = np.broadcast_arrays(numerator, denominator)
    above, below = _series(numerator), _series(denominator)
    out = np.empty_like(below)
    kernels.ratios(above, below, out)
    return out.T


def log_ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """log(numerator / denominator); NaN where either is not positive."""
    return log(ratio(numerator, denominator))


def log(x: FloatArray) -> FloatArray:
    """Natural logarithm, to within one unit in the last place; NaN where x is not positive, or infinite."""
    series = _series(x)
    out = np.empty_like(series)
    kernels.logarithms(series, SMALLEST_DENOMINATOR, out)
    return out.T


def cross_mean(x: FloatArray, counted: BoolArray) -> FloatArray:
    """Mean over the symbols of each row's values that are counted and not NaN; the same in every column.

    counted: (T, S). A row with no value to count is NaN.
    """
    out = np.empty((1, len(x)))
    kernels.means_across(_series(x), np.ascontiguousarray(counted.T), out)
    # What np.broadcast_to gives, without its checks: a live call makes dozens.
    means: FloatArray = np.ndarray(x.shape, np.float64, out, strides=(out.itemsize, 0))
    means.flags.writeable = False
    return means


def _series(x: FloatArray) -> FloatArray:
    """(T, S) as (S, T) in C order, float64 and writeable: the one kind of array that kernels know."""
    series = np.ascontiguousarray(x.T, dtype=np.float64)
    return series if series.flags.writeable else series.copy()
