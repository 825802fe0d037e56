"""Labels that end where the price first goes far enough, and how much such labels overlap."""

from __future__ import annotations

import numpy as np

from levibot.errors import DataError
from levibot.learning.labels import CLIP, Labels, RowArray, bars_per_year, forward_returns
from levibot.market.bars import FloatArray, Panel


def triple_barriers(
    panel: Panel, vol_slow: FloatArray, horizon_bars: int, *, deviations: float = 1.0
) -> Labels:
    """The return at the first of three barriers (López de Prado 2018, ch. 3), as `forward_returns` has it.

    Bought at the next open, sold where the price first lies `deviations` standard deviations of the horizon
    above or below it, or at the open after the horizon. A barrier counts at its own price; of two in one bar
    the lower one counts, since nobody knows which came first. A symbol's missing bar touches nothing.
    available_at: when the last of a row's symbols is decided. Undecided ones are NaN.
    Raises DataError as `forward_returns`, and on a width that is not above 0.
    """
    if not deviations > 0.0:
        raise DataError(f"The barriers are {deviations} deviations away: they must be above 0.")
    values = forward_returns(panel, vol_slow, horizon_bars).values
    n_rows, reach = len(panel), horizon_bars + 1
    rows = np.arange(n_rows, dtype=np.int64)[:, None]
    # The third barrier: its row exists where the return over the whole horizon does.
    last = np.where(np.isfinite(values), rows + reach, -1)
    width = deviations * vol_slow * np.sqrt(horizon_bars / bars_per_year(panel.interval))
    entry = np.full(panel.open.shape, np.nan)
    entry[:-1] = panel.open[1:]
    open_still = np.isfinite(entry) & np.isfinite(width)
    for age in range(1, min(horizon_bars, n_rows - 1) + 1):
        highest, lowest = (np.full(entry.shape, np.nan) for _ in range(2))
        highest[:-age], lowest[:-age] = panel.high[age:], panel.low[age:]
        falls = open_still & (np.log(lowest / entry) <= -width)
        rises = open_still & ~falls & (np.log(highest / entry) >= width)
        values = np.where(falls, -deviations, np.where(rises, deviations, values))
        last = np.where(falls | rises, rows + age, last)
        open_still &= ~(falls | rises)
    values = np.clip(values, -CLIP, CLIP)
    decided = last.max(axis=1)
    available_at = np.full(n_rows, np.datetime64("NaT", "us"))
    is_decided = decided >= 0
    available_at[is_decided] = panel.closes_at[decided[is_decided]]
    return Labels(horizon_bars, values, available_at, np.maximum(last, 0))


def uniqueness(first_row: RowArray, last_row: RowArray) -> FloatArray:
    """(N,) how much of what each label reads no other label reads: its average uniqueness, in (0, 1].

    first_row, last_row: (N,) both inclusive, of labels of one symbol. The mean over a label's bars of one
    over the number of labels that read the bar (López de Prado 2018, ch. 4.4). Raises DataError on a label
    that ends before it begins.
    """
    if len(first_row) != len(last_row) or (last_row < first_row).any():
        raise DataError(f"{len(first_row)} labels must each end where they begin or later.")
    if not len(first_row):
        return np.empty(0)
    begin = int(first_row.min())
    steps = np.zeros(int(last_row.max()) - begin + 2)
    np.add.at(steps, first_row - begin, 1.0)
    np.add.at(steps, last_row - begin + 1, -1.0)
    concurrent = np.cumsum(steps)[:-1]
    inverse = np.divide(1.0, concurrent, out=np.zeros_like(concurrent), where=concurrent > 0.5)
    reached = np.concatenate(([0.0], np.cumsum(inverse)))
    found: FloatArray = reached[last_row - begin + 1] - reached[first_row - begin]
    return found / (last_row - first_row + 1)
