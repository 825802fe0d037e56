"""Mean, variance, skewness, kurtosis and the straight line of a window: compiled, O(1) a row.

Row t reads rows t - window + 1 … t and nothing else, by the two blocks of `rolling.py`. Every sum is taken
about the first row of the window's newer block, which lies in the window: a level that is large beside its
changes, like a log price, loses no digits, and a window without change has a variance of exactly zero.

A NaN in a window makes the result NaN, and so does a window that begins before row 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from levibot.features.compiled import compiled
from levibot.market.bars import FloatArray

# A residual below this share of the variance is what rounding leaves of an exact line.
ROUNDING = 1e-13


class Spread(NamedTuple):
    """mean: of the window. deviation: standard deviation with divisor n, 0 where nothing changes. (T, S)."""

    mean: FloatArray
    deviation: FloatArray


class Shape(NamedTuple):
    """skewness and excess kurtosis of the window, NaN where nothing changes. (T, S)."""

    skewness: FloatArray
    kurtosis: FloatArray


class Line(NamedTuple):
    """The least-squares line of the window over its rows. (T, S).

    slope: change a row. r_squared: share of the variance that the line explains. gap: newest value less the
    line there. score: newest value less the mean, in standard deviations (divisor n). deviation: these. Where
    nothing changes slope, gap and deviation are 0, and r_squared and score NaN.
    """

    slope: FloatArray
    r_squared: FloatArray
    gap: FloatArray
    score: FloatArray
    deviation: FloatArray


def rolling_spread(x: FloatArray, window_bars: int) -> Spread:
    """Mean and standard deviation of the last `window_bars` rows."""
    rows = by_symbol(x)
    out = _empty(rows, 2)
    _spread(rows, window_bars, out)
    return Spread(out[0].T, out[1].T)


def rolling_shape(x: FloatArray, window_bars: int) -> Shape:
    """Skewness and excess kurtosis of the last `window_bars` rows, as of a whole population."""
    rows = by_symbol(x)
    out = _empty(rows, 2)
    _shape(rows, window_bars, out)
    return Shape(out[0].T, out[1].T)


def rolling_line(x: FloatArray, window_bars: int) -> Line:
    """The line through the last `window_bars` rows; at least 3."""
    rows = by_symbol(x)
    out = _empty(rows, 5)
    _line(rows, window_bars, out)
    return Line(out[0].T, out[1].T, out[2].T, out[3].T, out[4].T)


def by_symbol(x: FloatArray) -> FloatArray:
    """(S, T) with each symbol's rows side by side in memory, as the compiled loops read them."""
    return np.ascontiguousarray(x.T)


def _empty(rows: FloatArray, results: int) -> FloatArray:
    return np.empty((results, *rows.shape))


@compiled
def _spread(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest1, rest2 = np.full(window + 1, np.nan), np.full(window + 1, np.nan)
    rest1[window] = rest2[window] = 0.0
    for s in range(n_symbols):
        rest1[:window] = np.nan
        rest2[:window] = np.nan
        for start in range(0, n_rows, window):
            origin = x[s, start]
            if start:
                sum1 = sum2 = 0.0
                for j in range(window - 1, -1, -1):
                    d = x[s, start - window + j] - origin
                    sum1 += d
                    sum2 += d * d
                    rest1[j], rest2[j] = sum1, sum2
            sum1 = sum2 = 0.0
            for row in range(start, min(start + window, n_rows)):
                d = x[s, row] - origin
                sum1 += d
                sum2 += d * d
                j = row - start + 1
                mean = (sum1 + rest1[j]) / window
                variance = (sum2 + rest2[j]) / window - mean * mean
                out[0, s, row] = origin + mean
                out[1, s, row] = np.sqrt(variance) if variance > 0.0 else 0.0 * variance


@compiled
def _shape(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest = np.zeros((4, window + 1))
    for s in range(n_symbols):
        rest[:, :window] = np.nan
        for start in range(0, n_rows, window):
            origin = x[s, start]
            if start:
                sum1 = sum2 = sum3 = sum4 = 0.0
                for j in range(window - 1, -1, -1):
                    d = x[s, start - window + j] - origin
                    d2 = d * d
                    sum1 += d
                    sum2 += d2
                    sum3 += d2 * d
                    sum4 += d2 * d2
                    rest[0, j], rest[1, j], rest[2, j], rest[3, j] = sum1, sum2, sum3, sum4
            sum1 = sum2 = sum3 = sum4 = 0.0
            for row in range(start, min(start + window, n_rows)):
                d = x[s, row] - origin
                d2 = d * d
                sum1 += d
                sum2 += d2
                sum3 += d2 * d
                sum4 += d2 * d2
                j = row - start + 1
                m1 = (sum1 + rest[0, j]) / window
                m2 = (sum2 + rest[1, j]) / window
                m3 = (sum3 + rest[2, j]) / window
                m4 = (sum4 + rest[3, j]) / window
                variance = m2 - m1 * m1
                if variance > ROUNDING * m2:
                    third = m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1
                    fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1 * m1 * m1 * m1
                    out[0, s, row] = third / (variance * np.sqrt(variance))
                    out[1, s, row] = fourth / (variance * variance) - 3.0
                else:
                    out[0, s, row] = np.nan
                    out[1, s, row] = np.nan


@compiled
def _line(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest = np.zeros((3, window + 1))
    half = (window - 1) / 2.0
    time_variance = (window * window - 1) / 12.0
    for s in range(n_symbols):
        rest[:, :window] = np.nan
        for start in range(0, n_rows, window):
            origin = x[s, start]
            if start:
                sum1 = sum2 = sum_t = 0.0
                for j in range(window - 1, -1, -1):
                    d = x[s, start - window + j] - origin
                    sum1 += d
                    sum2 += d * d
                    sum_t += (j - window) * d
                    rest[0, j], rest[1, j], rest[2, j] = sum1, sum2, sum_t
            sum1 = sum2 = sum_t = 0.0
            for row in range(start, min(start + window, n_rows)):
                d = x[s, row] - origin
                age = row - start
                sum1 += d
                sum2 += d * d
                sum_t += age * d
                j = age + 1
                mean = (sum1 + rest[0, j]) / window
                variance = (sum2 + rest[1, j]) / window - mean * mean
                slope = ((sum_t + rest[2, j]) / window - (age - half) * mean) / time_variance
                deviation = np.sqrt(variance) if variance > 0.0 else 0.0 * variance
                out[0, s, row] = slope
                out[2, s, row] = d - mean - half * slope
                out[4, s, row] = deviation
                if deviation > 0.0:
                    out[1, s, row] = min(slope * slope * time_variance / variance, 1.0)
                    out[3, s, row] = (d - mean) / deviation
                else:
                    out[1, s, row] = np.nan
                    out[3, s, row] = np.nan
