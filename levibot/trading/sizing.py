"""From what a signal wants to what is ordered. Shared by the backtest and the live path."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from levibot.market.bars import FloatArray


@njit(cache=True)
def ordered_beyond(target: float, weight: float, band: float) -> float:
    """The target that is worth its cost (Davis & Norman 1990), NaN where none is.

    target, weight: wanted and present position as fractions of equity; NaN target = no order.
    band: half-width >= 0 in fractions of equity. A position within the band of its target stays; one beyond
    it moves to the edge of the band, not to its middle. A band of 0 passes every target through.
    """
    if band == 0.0:
        return target
    gap = target - weight
    if np.isnan(gap) or abs(gap) <= band:
        return np.nan
    return target - math.copysign(band, gap)


@njit(cache=True)
def apply_no_trade_band(target: FloatArray, weight: FloatArray, band: float, ordered: FloatArray) -> None:
    """Write into `ordered` (S,) what `ordered_beyond` makes of targets and weights (S,)."""
    for s in range(target.shape[0]):
        ordered[s] = ordered_beyond(target[s], weight[s], band)


def banded(target: FloatArray, weight: FloatArray, band: float) -> FloatArray:
    """`apply_no_trade_band` as a value: (S,) orders as fractions of equity, NaN = none."""
    ordered = np.empty(len(target))
    apply_no_trade_band(np.asarray(target, np.float64), np.asarray(weight, np.float64), band, ordered)
    return ordered
