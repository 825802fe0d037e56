"""Which part of a cross-section a process computes, where several share the work."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from levibot.errors import UsageError
from levibot.features.engine import compute_tail
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray, Panel


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shards. A symbol belongs to the same one in every process, whatever else is traded.

    Raises UsageError when `index` is not one of them.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(f"There is no shard {self.index} of {self.count}; the first is 0.")

    def owned(self, symbols: Sequence[str]) -> tuple[str, ...]:
        """Those of the symbols that belong to this shard, in their order."""
        return tuple(s for s in symbols if zlib.crc32(s.encode()) % self.count == self.index)


def compute_tail_of(view: FeatureView, panel: Panel, rows: int, owned: Sequence[str]) -> FloatArray:
    """The columns of `owned` in `compute_tail(view, panel, rows)`: (rows, len(owned), F).

    Every symbol's bars are read, and only what depends on the others is computed for the others too.
    Raises UsageError as `compute_tail` does.
    """
    columns = [panel.symbols.index(symbol) for symbol in owned]
    if len(columns) == len(panel.symbols):
        return compute_tail(view, panel, rows)[:, columns]
    out = np.full((rows, len(columns), len(view.features)), np.nan)
    if not columns:
        return out
    for across, bars, kept in ((True, panel, columns), (False, panel.of(owned), list(range(len(columns))))):
        places = [place for place, feature in enumerate(view.features) if feature.reads_others is across]
        if places:
            part = FeatureView(view.name, tuple(view.features[place] for place in places))
            out[:, :, places] = compute_tail(part, bars, rows)[:, kept]
    return out
