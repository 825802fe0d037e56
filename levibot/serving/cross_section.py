"""The windows of the newest bar, as every model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from levibot.market.bars import FloatArray
from levibot.stores.online import FeatureReading


@dataclass(frozen=True, slots=True, eq=False)
class CrossSection:
    """newest: the close of the newest bar. symbols: that have features there. windows: (R, S, F) of all
    symbols asked for, in their order; NaN where a symbol, or an old row of it, has none.
    """

    newest: datetime
    symbols: tuple[str, ...]
    windows: FloatArray

    def is_same(self, other: CrossSection) -> bool:
        """Whether a model would read the very same numbers of the same bar."""
        return self.newest == other.newest and np.array_equal(self.windows, other.windows, equal_nan=True)


def newest_cross_section(
    readings: Mapping[str, FeatureReading], symbols: Sequence[str]
) -> CrossSection | None:
    """The cross-section at the newest bar of any symbol; None without any features."""
    newest = max((r.event_time for r in readings.values() if r.event_time), default=None)
    windows = {s: r.rows for s, r in readings.items() if r.event_time == newest and r.rows is not None}
    if newest is None or not windows:
        return None
    rows = max(len(w) for w in windows.values())
    n_features = next(iter(windows.values())).shape[1]
    stacked = np.full((rows, len(symbols), n_features), np.nan)
    for column, symbol in enumerate(symbols):
        if symbol in windows:
            stacked[rows - len(windows[symbol]) :, column] = windows[symbol]
    return CrossSection(newest, tuple(windows), stacked)
