"""Where in a window the extremes lie, the deepest fall, ranks and standstills: compiled.

As in `rolling.py`: row t reads rows t - window + 1 … t and nothing else, a NaN in the window makes the result
NaN, and so does a window that begins before row 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from levibot.features.compiled import compiled
from levibot.features.rolling_moments import by_symbol
from levibot.market.bars import FloatArray


def bars_since_max(x: FloatArray, window_bars: int) -> FloatArray:
    """Rows since the largest of the last `window_bars` rows, 0 to window_bars − 1; the newest of equals."""
    rows = by_symbol(x)
    out = np.empty(rows.shape)
    _since_max(rows, window_bars, out)
    return out.T


def bars_since_min(x: FloatArray, window_bars: int) -> FloatArray:
    """Rows since the smallest of the last `window_bars` rows; the newest of equals."""
    return bars_since_max(-x, window_bars)


def rolling_drawdown(x: FloatArray, window_bars: int) -> FloatArray:
    """Deepest fall of the window: the largest x[i] − x[j] over rows i ≤ j of it, ≥ 0."""
    rows = by_symbol(x)
    out = np.empty(rows.shape)
    _drawdown(rows, window_bars, out)
    return out.T


def rolling_rank(x: FloatArray, values: int, stride: int) -> FloatArray:
    """Share of the `values` rows that are `stride`, 2 · `stride`, … rows older which lie below the newest.

    An equal one counts half. It reads values · stride + 1 rows. NaN where one of the values it compares is.
    """
    rows = by_symbol(x)
    out = np.empty(rows.shape)
    _rank(rows, values, stride, out)
    return out.T


def stands(x: FloatArray, bars: int) -> npt.NDArray[np.bool_]:
    """Whether the value is that of each of the `bars` rows before; False where one of these is not known."""
    rows = by_symbol(x)
    out = np.empty(rows.shape, dtype=np.bool_)
    _stands(rows, bars, out)
    return out.T


def are_flat(high: FloatArray, low: FloatArray, bars: int) -> npt.NDArray[np.bool_]:
    """Whether the last `bars` rows are all one value, high and low alike; False where one is not known."""
    tops, bottoms = by_symbol(high), by_symbol(low)
    out = np.empty(tops.shape, dtype=np.bool_)
    _flat(tops, bottoms, bars, out)
    return out.T


@compiled
def _since_max(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    best, at = np.empty(window + 1), np.zeros(window + 1, dtype=np.int64)
    for s in range(n_symbols):
        best[:window] = np.nan
        best[window] = -np.inf
        for start in range(0, n_rows, window):
            if start:
                top, top_row = -np.inf, start - 1
                for j in range(window - 1, -1, -1):
                    value = x[s, start - window + j]
                    if np.isnan(value) or np.isnan(top):
                        top = np.nan
                    elif value > top:
                        top, top_row = value, start - window + j
                    best[j], at[j] = top, top_row
            top, top_row = -np.inf, start
            for row in range(start, min(start + window, n_rows)):
                value = x[s, row]
                if np.isnan(value) or np.isnan(top):
                    top = np.nan
                elif value >= top:
                    top, top_row = value, row
                j = row - start + 1
                if np.isnan(top) or np.isnan(best[j]):
                    out[s, row] = np.nan
                else:
                    out[s, row] = row - (at[j] if best[j] > top else top_row)


@compiled
def _drawdown(x: FloatArray, window: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    fall, peak = np.zeros(window + 1), np.zeros(window + 1)
    for s in range(n_symbols):
        fall[:window] = np.nan
        peak[:window] = np.nan
        fall[window], peak[window] = 0.0, -np.inf
        for start in range(0, n_rows, window):
            if start:
                # From the newest row backwards: the lowest price still to come decides each fall.
                low, top, deepest = np.inf, -np.inf, 0.0
                for j in range(window - 1, -1, -1):
                    value = x[s, start - window + j]
                    low = value if not value >= low else low
                    top = value if not value <= top else top
                    deepest = value - low if not value - low <= deepest else deepest
                    if np.isnan(value):
                        low = top = deepest = np.nan
                    fall[j], peak[j] = deepest, top
                    if np.isnan(deepest):
                        fall[:j] = np.nan
                        peak[:j] = np.nan
                        break
            low, top, deepest = np.inf, -np.inf, 0.0
            for row in range(start, min(start + window, n_rows)):
                value = x[s, row]
                if np.isnan(value) or np.isnan(deepest):
                    deepest = np.nan
                else:
                    low = min(low, value)
                    top = max(top, value)
                    deepest = max(deepest, top - value)
                j = row - start + 1
                if np.isnan(deepest) or np.isnan(fall[j]):
                    out[s, row] = np.nan
                else:
                    out[s, row] = max(deepest, fall[j], peak[j] - low)


@compiled
def _rank(x: FloatArray, values: int, stride: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    reach = values * stride
    for s in range(n_symbols):
        out[s, : min(reach, n_rows)] = np.nan
        # Some rows at a time stay in the cache while each of the older values is compared with all of them.
        for first in range(reach, n_rows, 1024):
            last = min(first + 1024, n_rows)
            newest, share = x[s, first:last], out[s, first:last]
            share[:] = 0.0
            for i in range(1, values + 1):
                older = x[s, first - i * stride : last - i * stride]
                for row in range(len(share)):
                    # 2 for below, 1 for equal; a NaN on either side stays one.
                    below = 1.0 if older[row] < newest[row] else 0.0
                    share[row] += below + (1.0 if older[row] <= newest[row] else 0.0)
                    share[row] += 0.0 * (older[row] - newest[row])
            for row in range(len(share)):
                share[row] = 0.5 * share[row] / values


@compiled
def _stands(x: FloatArray, bars: int, out: npt.NDArray[np.bool_]) -> None:
    n_symbols, n_rows = x.shape
    for s in range(n_symbols):
        same = 0
        for row in range(n_rows):
            same = min(same + 1, bars) if row and x[s, row] == x[s, row - 1] else 0
            out[s, row] = same >= bars


@compiled
def _flat(high: FloatArray, low: FloatArray, bars: int, out: npt.NDArray[np.bool_]) -> None:
    n_symbols, n_rows = high.shape
    for s in range(n_symbols):
        tops, bottoms, result = high[s], low[s], out[s]
        same = 0
        for row in range(n_rows):
            goes_on = row > 0 and tops[row] == tops[row - 1]
            same = (same if goes_on else 0) + 1 if tops[row] == bottoms[row] else 0
            result[row] = same >= bars
