"""Rows of the history beside the bars that they were made of: a row an instant, a column a symbol."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, TimeArray
from levibot.stores.history_rows import Known, Series, as_us


def on_grid(series: Series, known: Mapping[str, Known], closes_at: TimeArray) -> FloatArray:
    """(T, S, C) values of the rows that close then, S as in `known`; NaN where a symbol has no row.

    In Fortran order, so that each symbol's series of a column is contiguous, and files are read into it as
    they are. Raises DataError where there is a row at an instant that `closes_at` does not have.
    """
    n_columns = len(series.columns)
    closes_us = as_us(closes_at)
    out = np.full((len(closes_us), len(known), n_columns), np.nan, order="F")
    for column, (symbol, of) in enumerate(known.items()):
        if not len(of):
            continue
        to = np.searchsorted(closes_us, of.event_us)
        on = to < len(closes_us)
        on[on] = closes_us[to[on]] == of.event_us[on]
        if not on.all():
            raise DataError(
                f"The {series} of {symbol} has {int((~on).sum())} rows at instants at which no bar closes.",
                hint="The history was made of other bars.",
            )
        place = out[:, column].T
        if to[-1] - to[0] == len(to) - 1:
            of.fill(np.arange(len(of)), range(n_columns), place[:, to[0] : to[-1] + 1])
        else:
            place[:, to] = of.values(range(n_columns)).T
    return out
