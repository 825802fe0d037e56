"""Two series in one window: ratio of sums, covariance, regression. Compiled, O(1) a row.

As in `rolling_moments.py`: row t reads its window and nothing else, about the first row of the newer block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from levibot.features.compiled import compiled
from levibot.features.rolling import SMALLEST_DENOMINATOR
from levibot.features.rolling_moments import by_symbol
from levibot.market.bars import FloatArray


class Regression(NamedTuple):
    """Least squares of y on x and a constant over the window. (T, S).

    slope: NaN where x does not change. correlation: NaN where either does not. residual: standard deviation
    of y about the line, divisor n; NaN where x does not change.
    """

    slope: FloatArray
    correlation: FloatArray
    residual: FloatArray


def rolling_ratio(numerator: FloatArray, denominator: FloatArray, window_bars: int) -> FloatArray:
    """Sum of the numerator over sum of the denominator; NaN where the latter is not positive."""
    top, bottom = by_symbol(numerator), by_symbol(denominator)
    out = np.empty(top.shape)
    _ratio(top, bottom, window_bars, SMALLEST_DENOMINATOR, out)
    return out.T


def over_scale(x: FloatArray, scale: FloatArray, factor: float) -> FloatArray:
    """x / (scale · factor), row by row; NaN where the scale is not positive."""
    rows, scales = by_symbol(x), by_symbol(scale)
    out = np.empty(rows.shape)
    _over_scale(rows, scales, factor, SMALLEST_DENOMINATOR, out)
    return out.T


def rolling_regression(x: FloatArray, y: FloatArray, window_bars: int) -> Regression:
    """y explained by x over the last `window_bars` rows."""
    explaining, explained = by_symbol(x), by_symbol(y)
    out = np.empty((3, *explained.shape))
    _regression(explaining, explained, window_bars, SMALLEST_DENOMINATOR, out)
    return Regression(out[0].T, out[1].T, out[2].T)


@compiled
def _over_scale(x: FloatArray, scale: FloatArray, factor: float, smallest: float, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    for s in range(n_symbols):
        for row in range(n_rows):
            out[s, row] = x[s, row] / (scale[s, row] * factor) if scale[s, row] > smallest else np.nan


@compiled
def _ratio(x: FloatArray, y: FloatArray, window: int, smallest: float, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest_x, rest_y = np.zeros(window + 1), np.zeros(window + 1)
    for s in range(n_symbols):
        rest_x[:window] = np.nan
        rest_y[:window] = np.nan
        for start in range(0, n_rows, window):
            if start:
                sum_x = sum_y = 0.0
                for j in range(window - 1, -1, -1):
                    sum_x += x[s, start - window + j]
                    sum_y += y[s, start - window + j]
                    rest_x[j], rest_y[j] = sum_x, sum_y
            sum_x = sum_y = 0.0
            for row in range(start, min(start + window, n_rows)):
                sum_x += x[s, row]
                sum_y += y[s, row]
                j = row - start + 1
                bottom = sum_y + rest_y[j]
                out[s, row] = (sum_x + rest_x[j]) / bottom if bottom > smallest else np.nan


@compiled
def _regression(x: FloatArray, y: FloatArray, window: int, smallest: float, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    rest, head = np.zeros((5, window + 1)), np.empty((5, window))
    per_row = 1.0 / window
    for s in range(n_symbols):
        for start in range(0, n_rows, window):
            x0, y0 = x[s, start], y[s, start]
            rest[:, :window] = np.nan
            if start:
                sx = sy = sxx = sxy = syy = 0.0
                for j in range(window - 1, -1, -1):
                    dx, dy = x[s, start - window + j] - x0, y[s, start - window + j] - y0
                    sx += dx
                    sy += dy
                    sxx += dx * dx
                    sxy += dx * dy
                    syy += dy * dy
                    rest[0, j], rest[1, j], rest[2, j], rest[3, j], rest[4, j] = sx, sy, sxx, sxy, syy
            rows = min(window, n_rows - start)
            sx = sy = sxx = sxy = syy = 0.0
            for k in range(rows):
                dx, dy = x[s, start + k] - x0, y[s, start + k] - y0
                sx += dx
                sy += dy
                sxx += dx * dx
                sxy += dx * dy
                syy += dy * dy
                head[0, k], head[1, k], head[2, k], head[3, k], head[4, k] = sx, sy, sxx, sxy, syy
            slopes, correlations = out[0, s, start : start + rows], out[1, s, start : start + rows]
            residuals = out[2, s, start : start + rows]
            # A loop of its own, in which no row waits for the one before: several are taken at once.
            for k in range(rows):
                mean_x, mean_y = (
                    (head[0, k] + rest[0, k + 1]) * per_row,
                    (head[1, k] + rest[1, k + 1]) * per_row,
                )
                left_x = (head[2, k] + rest[2, k + 1]) * per_row - mean_x * mean_x
                cov = (head[3, k] + rest[3, k + 1]) * per_row - mean_x * mean_y
                left_y = (head[4, k] + rest[4, k + 1]) * per_row - mean_y * mean_y
                var_x = left_x if left_x > smallest else np.nan
                var_y = left_y if left_y > smallest else np.nan
                slope = cov / var_x
                # In this order a series explains itself with a slope of 1 and nothing left, exactly.
                left = left_y - slope * cov
                slopes[k] = slope
                bounded = slope * np.sqrt(var_x / var_y)
                bounded = 1.0 if bounded > 1.0 else bounded
                correlations[k] = -1.0 if bounded < -1.0 else bounded
                residuals[k] = np.sqrt(left if left > 0.0 else 0.0 * left)
