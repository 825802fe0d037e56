"""Patterns of a window, counted: entropies and runs. Compiled, O(1) a row.

The counts are whole numbers, so a window that moves on loses and gains patterns without any rounding: row t
depends on its window and on nothing else. A NaN in the window makes the result NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from levibot.features.compiled import compiled
from levibot.features.rolling_moments import by_symbol
from levibot.market.bars import FloatArray

ORDINAL_PATTERNS = 6
SIGN_WORDS = 8
# An entropy of one, as a whole number: 2^48, fine enough for 14 digits.
UNITS = 2.0**48


def permutation_entropy(x: FloatArray, window_bars: int) -> FloatArray:
    """Entropy of the orders of three rows that follow one another, 0 to 1 (all six orders as frequent).

    It reads `window_bars` patterns, and so window_bars + 2 rows. Of equal values the older is the smaller.
    """
    return _entropy(_ordinal_codes, ORDINAL_PATTERNS, x, window_bars)


def sign_entropy(x: FloatArray, window_bars: int) -> FloatArray:
    """Entropy of words of three signs (above zero or not) that follow one another, 0 to 1.

    It reads `window_bars` words, and so window_bars + 2 rows.
    """
    return _entropy(_sign_codes, SIGN_WORDS, x, window_bars)


def run_length(x: FloatArray, longest: int) -> FloatArray:
    """Rows in a row, with its own, on the newest row's side of zero, signed; at most `longest` are counted.

    It reads `longest` rows. 0 where the newest value is zero. NaN while one of the rows is not known.
    """
    rows = by_symbol(x)
    out = np.empty(rows.shape)
    _runs(rows, longest, out)
    return out.T


def _entropy(
    codes_of: Callable[[FloatArray, npt.NDArray[np.int8]], None],
    n_codes: int,
    x: FloatArray,
    window_bars: int,
) -> FloatArray:
    rows = by_symbol(x)
    codes = np.empty(rows.shape, dtype=np.int8)
    codes_of(rows, codes)
    counts = np.arange(window_bars + 1, dtype=np.float64)
    share = np.maximum(counts, 1.0) / window_bars
    terms = -(counts / window_bars) * np.log(share) / math.log(n_codes)
    # Whole numbers add up without rounding, whatever came and went before.
    rounded = np.rint(terms * UNITS).astype(np.int64)
    out = np.empty(rows.shape)
    _count(codes, n_codes, window_bars, rounded, UNITS, out)
    return out.T


@compiled
def _ordinal_codes(x: FloatArray, codes: npt.NDArray[np.int8]) -> None:
    n_symbols, n_rows = x.shape
    for s in range(n_symbols):
        codes[s, : min(2, n_rows)] = -1
        for row in range(2, n_rows):
            a, b, c = x[s, row - 2], x[s, row - 1], x[s, row]
            if np.isnan(a) or np.isnan(b) or np.isnan(c):
                codes[s, row] = -1
            elif a <= b:
                codes[s, row] = 0 if b <= c else (1 if a <= c else 2)
            else:
                codes[s, row] = 3 if b > c else (4 if a > c else 5)


@compiled
def _sign_codes(x: FloatArray, codes: npt.NDArray[np.int8]) -> None:
    n_symbols, n_rows = x.shape
    for s in range(n_symbols):
        codes[s, : min(2, n_rows)] = -1
        for row in range(2, n_rows):
            a, b, c = x[s, row - 2], x[s, row - 1], x[s, row]
            if np.isnan(a) or np.isnan(b) or np.isnan(c):
                codes[s, row] = -1
            else:
                codes[s, row] = 4 * (a > 0.0) + 2 * (b > 0.0) + (c > 0.0)


@compiled
def _count(
    codes: npt.NDArray[np.int8],
    n_codes: int,
    window: int,
    terms: npt.NDArray[np.int64],
    units_of_one: float,
    out: FloatArray,
) -> None:
    n_symbols, n_rows = codes.shape
    count = np.zeros(n_codes, dtype=np.int64)
    for s in range(n_symbols):
        count[:] = 0
        known = 0
        total = 0
        for row in range(n_rows):
            gone = codes[s, row - window] if row >= window else -1
            if gone >= 0:
                total += terms[count[gone] - 1] - terms[count[gone]]
                count[gone] -= 1
                known -= 1
            code = codes[s, row]
            if code >= 0:
                total += terms[count[code] + 1] - terms[count[code]]
                count[code] += 1
                known += 1
            out[s, row] = total / units_of_one if known == window else np.nan


@compiled
def _runs(x: FloatArray, longest: int, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    for s in range(n_symbols):
        length = 0
        side = 0.0
        known = 0
        for row in range(n_rows):
            value = x[s, row]
            if np.isnan(value):
                known = 0
                out[s, row] = np.nan
                continue
            known = min(known + 1, longest)
            now = np.sign(value)
            length = min(length + 1, longest) if now == side and known > 1 else 1
            side = now
            out[s, row] = side * length if known == longest else np.nan
