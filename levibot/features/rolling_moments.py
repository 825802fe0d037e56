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
def power_sums(x: FloatArray, start: int, window: int, rest: FloatArray, head: FloatArray) -> None:
    """Sums of powers about x[start], one row of `rest` and `head` a power.

    head[:, k]: of rows start … start + k. rest[:, j]: of rows start − window + j … start − 1; NaN before
    row 0.
    """
    origin = x[start]
    powers = len(rest)
    if start:
        sum1 = sum2 = sum3 = sum4 = 0.0
        for j in range(window - 1, -1, -1):
            d = x[start - window + j] - origin
            d2 = d * d
            sum1 += d
            sum2 += d2
            rest[0, j], rest[1, j] = sum1, sum2
            if powers > 2:
                sum3 += d2 * d
                sum4 += d2 * d2
                rest[2, j], rest[3, j] = sum3, sum4
    else:
        rest[:, :window] = np.nan
    sum1 = sum2 = sum3 = sum4 = 0.0
    for k in range(min(window, len(x) - start)):
        d = x[start + k] - origin
        d2 = d * d
        sum1 += d
        sum2 += d2
        head[0, k], head[1, k] = sum1, sum2
        if powers > 2:
            sum3 += d2 * d
            sum4 += d2 * d2
            head[2, k], head[3, k] = sum3, sum4


@compiled
def _spread(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest, head = np.zeros((2, window + 1)), np.empty((2, window))
    per_row = 1.0 / window
    for s in range(n_symbols):
        for start in range(0, n_rows, window):
            power_sums(x[s], start, window, rest, head)
            origin = x[s, start]
            rows = min(window, n_rows - start)
            mean, deviation = out[0, s, start : start + rows], out[1, s, start : start + rows]
            # A loop of its own, in which no row waits for the one before: several are taken at once.
            for k in range(rows):
                m1 = (head[0, k] + rest[0, k + 1]) * per_row
                variance = (head[1, k] + rest[1, k + 1]) * per_row - m1 * m1
                mean[k] = origin + m1
                deviation[k] = np.sqrt(variance if variance > 0.0 else 0.0 * variance)


@compiled
def _shape(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest, head = np.zeros((4, window + 1)), np.empty((4, window))
    per_row = 1.0 / window
    for s in range(n_symbols):
        for start in range(0, n_rows, window):
            power_sums(x[s], start, window, rest, head)
            rows = min(window, n_rows - start)
            skewness, kurtosis = out[0, s, start : start + rows], out[1, s, start : start + rows]
            for k in range(rows):
                m1 = (head[0, k] + rest[0, k + 1]) * per_row
                m2 = (head[1, k] + rest[1, k + 1]) * per_row
                m3 = (head[2, k] + rest[2, k + 1]) * per_row
                m4 = (head[3, k] + rest[3, k + 1]) * per_row
                squared = m1 * m1
                left = m2 - squared
                variance = left if left > ROUNDING * m2 else np.nan
                third = m3 - 3.0 * m1 * m2 + 2.0 * m1 * squared
                fourth = m4 - 4.0 * m1 * m3 + 6.0 * squared * m2 - 3.0 * squared * squared
                skewness[k] = third / (variance * np.sqrt(variance))
                kurtosis[k] = fourth / (variance * variance) - 3.0


@compiled
def _line(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest, head = np.zeros((2, window + 1)), np.empty((2, window))
    # Sums of d times the rows since the block's first one.
    rest_t, head_t = np.zeros(window + 1), np.empty(window)
    per_row = 1.0 / window
    half = (window - 1) / 2.0
    time_variance = (window * window - 1) / 12.0
    for s in range(n_symbols):
        for start in range(0, n_rows, window):
            power_sums(x[s], start, window, rest, head)
            origin = x[s, start]
            sum_t = 0.0 if start else np.nan
            for j in range(window - 1, -1, -1):
                if start:
                    sum_t += (j - window) * (x[s, start - window + j] - origin)
                rest_t[j] = sum_t
            sum_t = 0.0
            rows = min(window, n_rows - start)
            for k in range(rows):
                sum_t += k * (x[s, start + k] - origin)
                head_t[k] = sum_t
            slopes, fits = out[0, s, start : start + rows], out[1, s, start : start + rows]
            gaps, scores = out[2, s, start : start + rows], out[3, s, start : start + rows]
            deviations = out[4, s, start : start + rows]
            for k in range(rows):
                mean = (head[0, k] + rest[0, k + 1]) * per_row
                left = (head[1, k] + rest[1, k + 1]) * per_row - mean * mean
                slope = ((head_t[k] + rest_t[k + 1]) * per_row - (k - half) * mean) / time_variance
                above = x[s, start + k] - origin - mean
                variance = left if left > 0.0 else np.nan
                slopes[k] = slope
                fits[k] = min(slope * slope * time_variance / variance, 1.0)
                gaps[k] = above - half * slope
                scores[k] = above / np.sqrt(variance)
                deviations[k] = np.sqrt(left if left > 0.0 else 0.0 * left)
