"""Causal window primitives: row t reads rows t - window + 1 … t and nothing else.

Every function takes (T, S) arrays, oldest row first, and returns (T, S). A NaN in a window makes the result
NaN (unless said otherwise), and so does a window that begins before row 0. All are O(T).

Sums and extremes use the two-block scheme of van Herk (1992): a window is the rest of one block plus the head
of the next. Nothing outside the window enters the arithmetic, so a short live panel gives what a long history
gives; a running cumulative sum would carry the rounding of all the past.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from levibot.market.bars import FloatArray

BoolArray = npt.NDArray[np.bool_]

# What is smaller is a zero: dividing by it would overflow.
SMALLEST_DENOMINATOR = 1e-200


def lag(x: FloatArray, bars: int) -> FloatArray:
    """The value `bars` rows earlier; NaN in the first `bars` rows."""
    out = np.full_like(x, np.nan)
    if bars < len(x):
        out[bars:] = x[: len(x) - bars]
    return out


def carry_forward(x: FloatArray, limit_rows: int) -> FloatArray:
    """Fill each NaN with the last value of its column, over at most `limit_rows` rows; beyond, NaN stays."""
    if len(x) == 0:
        return x
    rows = np.arange(len(x))[:, None]
    source = np.maximum.accumulate(np.where(np.isnan(x), -1, rows), axis=0)
    reachable = (source >= 0) & (rows - source <= limit_rows)
    filled = np.take_along_axis(x, np.maximum(source, 0), axis=0)
    return np.asfortranarray(np.where(reachable, filled, np.nan))


def rolling_sum(x: FloatArray, window_bars: int) -> FloatArray:
    """Sum of the last `window_bars` rows."""
    return decayed_sum(x, 1.0, window_bars)


def rolling_mean(x: FloatArray, window_bars: int) -> FloatArray:
    """Mean of the last `window_bars` rows."""
    return decayed_sum(x, 1.0, window_bars) / window_bars


def decayed_sum(x: FloatArray, decay: float, window_bars: int) -> FloatArray:
    """Sum over the last `window_bars` rows of decay^age · x, age 0 being the row itself.

    decay: in (0, 1]; decay^window_bars must be a normal number, since weights inside a block are relative.
    """
    blocks = _blocks(x, window_bars)
    if decay != 1.0:
        weights = decay ** np.arange(window_bars)
        blocks = blocks / weights
    out = np.cumsum(blocks[:, 1:], axis=2)
    rest = np.cumsum(blocks[:, :-1, :0:-1], axis=2)[:, :, ::-1]
    if decay != 1.0:
        rest = rest * decay**window_bars
    out[:, :, :-1] += rest
    if decay != 1.0:
        out *= weights
    return _rows(out, len(x))


def rolling_max(x: FloatArray, window_bars: int) -> FloatArray:
    """Largest of the last `window_bars` rows."""
    blocks = _blocks(x, window_bars)
    out = np.maximum.accumulate(blocks[:, 1:], axis=2)
    rest = np.maximum.accumulate(blocks[:, :-1, :0:-1], axis=2)[:, :, ::-1]
    np.maximum(out[:, :, :-1], rest, out=out[:, :, :-1])
    return _rows(out, len(x))


def rolling_min(x: FloatArray, window_bars: int) -> FloatArray:
    """Smallest of the last `window_bars` rows."""
    return -rolling_max(-x, window_bars)


def ewm_mean(x: FloatArray, half_life_bars: float, window_bars: int, min_bars: int) -> FloatArray:
    """Exponentially weighted mean of the last `window_bars` rows; older weights are dropped, not kept small.

    NaN rows have no weight, and the other weights are scaled to one. NaN while fewer than `min_bars` of the
    window's rows hold a value.
    """
    decay = 0.5 ** (1.0 / half_life_bars)
    # Rows before the first are rows without a value, and not a broken window.
    padding = np.full((window_bars - 1, x.shape[1]), np.nan)
    padded = np.concatenate([padding, x])
    known = ~np.isnan(padded)
    seen = known.astype(np.float64)
    total = decayed_sum(np.where(known, padded, 0.0), decay, window_bars)
    weight = decayed_sum(seen, decay, window_bars)
    weight[rolling_sum(seen, window_bars) < min_bars] = np.nan
    return (total / weight)[window_bars - 1 :]


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """numerator / denominator; NaN where the denominator is not positive."""
    out = np.full_like(denominator, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > SMALLEST_DENOMINATOR)


def log_ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """log(numerator / denominator); NaN where either is not positive."""
    quotient = ratio(numerator, denominator)
    out = np.full_like(quotient, np.nan)
    return np.log(quotient, out=out, where=quotient > SMALLEST_DENOMINATOR)


def cross_mean(x: FloatArray, counted: BoolArray) -> FloatArray:
    """Mean over the symbols of each row's values that are counted and not NaN; the same in every column.

    counted: (T, S). A row with no value to count is NaN.
    """
    usable = counted & ~np.isnan(x)
    total = np.where(usable, x, 0.0).sum(axis=1, keepdims=True)
    return np.broadcast_to(ratio(total, usable.sum(axis=1, keepdims=True).astype(np.float64)), x.shape)


def _blocks(x: FloatArray, window_bars: int) -> FloatArray:
    """(S, blocks, window_bars): a block of NaN, then the rows, then NaN to the end of the last block.

    Blocks are counted from row 0, so that rows to come do not even change the rounding of those before them.
    """
    n_rows, n_symbols = x.shape
    n_blocks = -(-n_rows // window_bars) + 1
    out = np.full((n_symbols, n_blocks * window_bars), np.nan)
    out[:, window_bars : window_bars + n_rows] = x.T
    return out.reshape(n_symbols, n_blocks, window_bars)


def _rows(blocks: FloatArray, n_rows: int) -> FloatArray:
    """The first `n_rows` of blocks laid end to end, as (T, S)."""
    return blocks.reshape(len(blocks), -1)[:, :n_rows].T
