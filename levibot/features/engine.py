"""The one way from bars to features: the whole of history, or its newest rows."""

from __future__ import annotations

import numpy as np

from levibot.errors import UsageError
from levibot.features.inputs import Inputs
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray, Panel

# Most formulas read a few days, and only the volatility that scales them reads months: in the tail each
# formula runs on the shortest of these windows that holds what it reads.
TAIL_TIERS = (192, 768)


def compute(view: FeatureView, panel: Panel) -> FloatArray:
    """Every feature of `view` for every row of `panel`: (T, S, F), F in the view's order.

    Row t reads rows up to t only. NaN in every feature where the symbol has no bar in the row, and in one
    feature while it is not known (see Feature). Raises DataError on a price that is not positive.
    """
    inputs = Inputs(panel)
    out = np.empty((len(panel), len(panel.symbols), len(view.features)))
    for position, feature in enumerate(view.features):
        out[:, :, position] = feature.compute(inputs)
    out[~inputs.has_bar] = np.nan
    return out


def compute_tail(view: FeatureView, panel: Panel, rows: int) -> FloatArray:
    """The newest `rows` rows of `compute`, from a bounded window: (rows, S, F).

    The panel may be as long as it likes; only its last `view.warmup_bars + rows` rows are read. With fewer,
    what is not yet known is NaN. Raises UsageError if `rows` is not between 1 and the rows of the panel.
    """
    if not 1 <= rows <= len(panel):
        raise UsageError(f"{rows} rows of features are asked of a panel of {len(panel)} rows.")
    whole = Inputs(panel.tail(view.warmup_bars + rows))
    tiers = [whole.tail(bars + rows) for bars in TAIL_TIERS if bars < view.warmup_bars]
    out = np.empty((rows, len(panel.symbols), len(view.features)))
    for position, feature in enumerate(view.features):
        inputs = next((tier for tier in tiers if feature.window_bars + rows <= len(tier.panel)), whole)
        out[:, :, position] = feature.compute(inputs)[-rows:]
    out[~whole.has_bar[-rows:]] = np.nan
    return out
