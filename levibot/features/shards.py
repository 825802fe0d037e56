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


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Features that read the same symbols.

    view: those at `places` of the whole view. symbols: the ones read. kept: the columns of the owned ones.
    """

    view: FeatureView
    symbols: tuple[str, ...]
    places: Sequence[int] | slice
    kept: Sequence[int] | slice


def parts_of(view: FeatureView, symbols: Sequence[str], owned: Sequence[str]) -> tuple[Part, ...]:
    """What is to be computed for the owned symbols: only what depends on the others is computed for all."""
    everybody, everything = tuple(symbols), slice(None)
    if tuple(owned) == everybody:
        return (Part(view, everybody, everything, everything),)
    if not owned:
        return ()
    columns = [everybody.index(symbol) for symbol in owned]
    parts = []
    for across, read, kept in ((True, everybody, columns), (False, tuple(owned), everything)):
        places = [place for place, feature in enumerate(view.features) if feature.reads_others is across]
        if places:
            part = FeatureView(view.name, tuple(view.features[place] for place in places))
            parts.append(Part(part, read, places, kept))
    return tuple(parts)


def compute_tail_of(view: FeatureView, panel: Panel, rows: int, owned: Sequence[str]) -> FloatArray:
    """The columns of `owned` in `compute_tail(view, panel, rows)`: (rows, len(owned), F).

    Every symbol's bars are read, and only what depends on the others is computed for the others too.
    Raises UsageError as `compute_tail` does.
    """
    out = np.full((rows, len(owned), len(view.features)), np.nan)
    for part in parts_of(view, panel.symbols, owned):
        bars = panel if part.symbols == panel.symbols else panel.of(part.symbols)
        out[:, :, part.places] = compute_tail(part.view, bars, rows)[:, part.kept]
    return out
