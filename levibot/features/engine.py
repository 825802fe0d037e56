"""The one way from bars to features: the whole of history, stretch by stretch, or its newest rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from levibot.errors import UsageError
from levibot.features.feature import TAIL_TIERS, Feature
from levibot.features.inputs import Inputs
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray, Panel

# glibc hands the pages of freed temporary arrays back, and the kernel clears them anew for the next one, at
# ten times the cost of the arithmetic. Freeing one large block teaches it to keep blocks up to that size.
_KEPT_BYTES = 32 * 2**20 - 2**16


def compute(view: FeatureView, panel: Panel, out: FloatArray | None = None) -> FloatArray:
    """Every feature of `view` for every row of `panel`: (T, S, F), F in the view's order.

    Row t reads rows up to t only. NaN in every feature where the symbol has no bar in the row, and in one
    feature while it is not known (see Feature). Raises DataError on a price that is not positive.
    Fortran order: the series of one feature and symbol is contiguous.
    out: where to write, of that shape and in Fortran order; who computes often saves the system the clearing
        of new memory. Raises UsageError on another shape or order.
    """
    shape = (len(panel), len(panel.symbols), len(view.features))
    if out is None:
        out = np.empty(shape, order="F")
    elif out.shape != shape or not out.flags.f_contiguous:
        raise UsageError(f"`out` must have shape {shape} and Fortran order; it has shape {out.shape}.")
    _fill(out, view.features, Inputs(panel.by_symbol()))
    return out


def compute_stretches(
    view: FeatureView, panel: Panel, stretch_rows: int
) -> Iterator[tuple[slice, FloatArray]]:
    """`compute` for a result that memory does not hold: (rows, their features) at a time, oldest first.

    Each stretch has `stretch_rows` rows, the last may have fewer, and is computed from its own rows and the
    `view.warmup_bars` before it. Raises UsageError if stretch_rows is below 1.
    """
    if stretch_rows < 1:
        raise UsageError(f"A stretch of {stretch_rows} rows holds nothing; it needs at least 1.")
    for first in range(0, len(panel), stretch_rows):
        last = min(first + stretch_rows, len(panel))
        before = min(first, view.warmup_bars)
        yield slice(first, last), compute(view, panel.rows(slice(first - before, last)))[before:]


def compute_tail(view: FeatureView, panel: Panel, rows: int) -> FloatArray:
    """The newest `rows` rows of `compute`, from a bounded window: (rows, S, F).

    The panel may be as long as it likes; only its last `view.warmup_bars + rows` rows are read. With fewer,
    what is not yet known is NaN. Raises UsageError if `rows` is not between 1 and the rows of the panel.
    """
    if not 1 <= rows <= len(panel):
        raise UsageError(f"{rows} rows of features are asked of a panel of {len(panel)} rows.")
    whole = Inputs(panel.tail(view.warmup_bars + rows).by_symbol())
    inputs = {bars: whole.tail(bars + rows) for bars in TAIL_TIERS} | {None: whole}
    out = np.empty((rows, len(panel.symbols), len(view.features)))
    for position, feature in enumerate(view.features):
        out[:, :, position] = feature.compute(inputs[feature.tail_bars])[-rows:]
    out[~whole.has_bar[-rows:]] = np.nan
    return out


def _fill(out: FloatArray, features: Sequence[Feature], inputs: Inputs) -> None:
    """Write every feature: first those of the whole panel, then the others, one symbol after the other.

    One symbol's series stay in the processor's cache from one formula to the next.
    """
    np.empty(_KEPT_BYTES, dtype=np.uint8)
    # What reads only the time is the same for every symbol, and is computed once.
    of_panel = [feature.reads_others or feature.inputs == ("ts",) for feature in features]
    for position, feature in enumerate(features):
        if of_panel[position]:
            out[:, :, position] = feature.compute(inputs)
    for column in range(out.shape[1]):
        alone = inputs.alone(column)
        for position, feature in enumerate(features):
            if not of_panel[position]:
                out[:, column : column + 1, position] = feature.compute(alone)
        missing = np.flatnonzero(~inputs.has_bar[:, column])
        if len(missing):
            out[missing, column] = np.nan
