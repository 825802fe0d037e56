"""TA-Lib's indicators on a panel: symbol by symbol, on each unbroken stretch of rows.

TA-Lib knows one series without holes: a NaN would spoil all that follows it, and its recursive averages never
forget. So each stretch between two holes is a series of its own, and a value is given only when the stretch
holds the rows that the feature states. These are chosen so that what came before them no longer matters (see
docs/decisions/0020), and live, history and a restart agree on what is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from levibot.features.rolling import BoolArray
from levibot.market.bars import FloatArray

# Wilder's average of length n keeps e^-18 of what is older than 18 n rows; a chain of two needs more.
WILDER_LENGTHS = 18
WILDER_CHAIN_LENGTHS = 30
# A ratio of two averages is not known after this many lengths without a move: by then both are nearly zero,
# and what is left of the rows before the window would weigh in it.
STANDSTILL_LENGTHS = 2
# An exponential average of span n keeps e^-26 of what is older than 13 (n + 1) rows; a chain needs more.
EMA_SPANS = 13
EMA_CHAIN_SPANS = 18


def ema_rows(span: int, spans: int = EMA_SPANS) -> int:
    """Rows after which an exponential average of `span` bars has forgotten what was before."""
    return spans * (span + 1)


def talib_series(
    function: str,
    fields: Sequence[FloatArray],
    window_bars: int,
    parameters: Mapping[str, int],
    *,
    output: int = 0,
    unknown: BoolArray | None = None,
) -> FloatArray:
    """`talib.FUNCTION(*fields, **parameters)` for each symbol, (T, S).

    fields: (T, S) each, in TA-Lib's order. window_bars: rows of a stretch, its own included, that a value
    needs; before, it is NaN. output: which of several results. unknown: rows that are NaN whatever TA-Lib
    says.
    """
    # Imported where it is used: the wrapper imports pandas and polars when they are installed, in a second.
    import talib

    run = getattr(talib, function)
    columns = [np.asfortranarray(field) for field in fields]
    out: FloatArray = np.empty(fields[0].shape, order="F")
    for symbol in range(len(out.T)):
        series = [column[:, symbol] for column in columns]
        end = 0
        for start, stop in _stretches(series):
            if stop - start < window_bars:
                continue
            values = run(*(one[start:stop] for one in series), **parameters)
            if isinstance(values, tuple):
                values = values[output]
            first = window_bars - 1
            out[end : start + first, symbol] = np.nan
            out[start + first : stop, symbol] = values[first:]
            end = stop
        out[end:, symbol] = np.nan
    if unknown is not None and unknown.any():
        out[unknown] = np.nan
    return out


def _stretches(series: Sequence[FloatArray]) -> Iterator[tuple[int, int]]:
    """First row, and the row after the last, of each stretch in which all series are known."""
    # A sum is NaN where one value is, and is had faster than a mask of them.
    if len(series[0]) and not np.isnan(sum(np.add.reduce(one) for one in series)):
        yield 0, len(series[0])
        return
    known = ~np.isnan(series[0])
    for other in series[1:]:
        known &= ~np.isnan(other)
    edges = np.flatnonzero(np.diff(known, prepend=False, append=False))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
