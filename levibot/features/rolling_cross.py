"""Ranks across the symbols of one row: compiled."""

from __future__ import annotations

import numpy as np

from levibot.features.compiled import compiled
from levibot.features.rolling import BoolArray
from levibot.features.rolling_moments import by_symbol
from levibot.market.bars import FloatArray


def cross_rank(x: FloatArray, counted: BoolArray) -> FloatArray:
    """Share of the row's other symbols, of those counted and known, whose value is smaller; equal ones half.

    counted: (T, S). NaN for a symbol that is not counted or not known, and where no other one is.
    """
    rows = by_symbol(np.where(counted, x, np.nan))
    out = np.empty(rows.shape)
    _rank(rows, out)
    return out.T


@compiled
def _rank(x: FloatArray, out: FloatArray) -> None:
    n_symbols, n_rows = x.shape
    below = np.empty(n_rows)
    others = np.empty(n_rows)
    for s in range(n_symbols):
        below[:] = 0.0
        others[:] = 0.0
        for other in range(n_symbols):
            if other == s:
                continue
            for row in range(n_rows):
                own, their = x[s, row], x[other, row]
                below[row] += 0.5 * ((their < own) + (their <= own))
                others[row] += their == their
        for row in range(n_rows):
            known = others[row] > 0.0 and x[s, row] == x[s, row]
            out[s, row] = below[row] / others[row] if known else np.nan
