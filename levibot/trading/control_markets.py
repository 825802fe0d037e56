"""Markets made of a real one in which what a pipeline looks for is not there, or is another thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel


def time_reversed(panel: Panel) -> Panel:
    """The same bars from the last to the first: each opens where it closed. The instants stay in order.

    It is no market without an edge: volume and range follow a move, so reversed they come before it.
    """
    turned = {name: getattr(panel, name)[::-1] for name in ("high", "low", "volume")}
    extra = {name: values[::-1] for name, values in panel.extra.items()}
    return replace(panel, **turned, open=panel.close[::-1], close=panel.open[::-1], extra=extra)


def block_permuted(panel: Panel, block_bars: int, rng: np.random.Generator) -> Panel:
    """The same moves in another order of blocks: nothing that lasts longer than a block is left in it.

    A bar moves as a whole, all symbols together: its gap from the close before, its shape, its volume and its
    side series. Symbols, their moves and what they do in the same bar stay; what one bar says of the next is
    gone. Rows change places only with rows that have the same symbols, so a listing stays where it is.
    Raises DataError on a block below one bar.
    """
    if block_bars < 1:
        raise DataError(f"A block is {block_bars} bars: it must be at least 1.")
    order = _order(panel, block_bars, rng)
    before = np.vstack([panel.open[:1], _last_known(panel.close)[:-1]])
    # A symbol's first bar gaps from nothing.
    before = np.where(np.isnan(before), panel.open, before)
    log = {
        name: np.log(getattr(panel, name)[order] / before[order]) for name in ("open", "high", "low", "close")
    }
    total = np.cumsum(np.nan_to_num(log["close"]), axis=0)
    # The level before each row, from the level before each symbol's first one.
    begun = np.where(np.isnan(panel.open), np.inf, np.arange(len(panel))[:, None]).argmin(axis=0)
    level = np.log(before[begun, np.arange(len(panel.symbols))]) + total - np.nan_to_num(log["close"])
    fields = {name: np.exp(level + moved) for name, moved in log.items()}
    extra = {name: values[order] for name, values in panel.extra.items()}
    return replace(panel, **fields, volume=panel.volume[order], extra=extra)


def _order(panel: Panel, block_bars: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """(T,) which row comes where: blocks of rows with the same symbols, permuted among themselves."""
    there = ~np.isnan(panel.close)
    _, kind = np.unique(there, axis=0, return_inverse=True)
    order = np.arange(len(panel))
    for one in range(kind.max() + 1):
        rows = np.flatnonzero(kind.reshape(-1) == one)
        blocks = np.array_split(rows, np.arange(block_bars, len(rows), block_bars))
        order[rows] = np.concatenate([blocks[n] for n in rng.permutation(len(blocks))])
    return order


def _last_known(values: FloatArray) -> FloatArray:
    rows = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))[:, None]), axis=0)
    found = np.take_along_axis(values, np.maximum(rows, 0), axis=0)
    return np.where(rows >= 0, found, np.nan)
