"""The newest rows of features from one full window after the other: `compute_tail`, recorded and played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from levibot.features.engine import compute_tail
from levibot.features.recorded import Tape, plain
from levibot.features.recording import Recording
from levibot.features.shards import Part, Shard, compute_tail_of, parts_of
from levibot.features.view import FeatureView
from levibot.market.bars import FIELDS, FloatArray, Panel


class Tail:
    """The newest `rows` rows of a shard's symbols, as `compute_tail_of` gives them, to the bit.

    The first full window of some symbols and side series is recorded, which takes as long as some dozens of
    bars, and memory while this lives; those after it are played. State: that record.
    """

    def __init__(self, view: FeatureView, rows: int, shard: Shard = Shard()) -> None:  # noqa: B008
        self.view = view
        self.rows = rows
        self.shard = shard
        self.n_rows = view.warmup_bars + rows
        self._of: tuple[object, ...] = ()
        self._tapes: list[tuple[Part, _TailTape]] = []

    def compute(self, panel: Panel) -> FloatArray:
        """(rows, symbols of the shard, F) of the panel's newest rows; fewer rows of a panel that has fewer.

        Raises DataError as `compute_tail` does, and UsageError on a formula that cannot be recorded.
        """
        owned = self.shard.owned(panel.symbols)
        if len(panel) < self.n_rows:
            return compute_tail_of(self.view, panel, min(self.rows, len(panel)), owned)
        window = panel.tail(self.n_rows)
        of = (window.symbols, window.interval, tuple(window.extra))
        if of != self._of:
            # Refused here if it is not sound: a record shows the way of a window that is.
            compute_tail_of(self.view, window, self.rows, owned)
            parts = parts_of(self.view, window.symbols, owned)
            self._tapes = [(part, _TailTape(part.view, window.of(part.symbols), self.rows)) for part in parts]
            self._of = of
        out = np.full((self.rows, len(owned), len(self.view.features)), np.nan)
        for part, tape in self._tapes:
            found = tape.compute(window if part.symbols == window.symbols else window.of(part.symbols))
            if found is None:
                return compute_tail_of(self.view, window, self.rows, owned)
            out[:, :, part.places] = found[:, part.kept]
        return out


class _TailTape:
    """What `compute_tail(view, panel, rows)` did to a panel, to be played for others of its shape."""

    def __init__(self, view: FeatureView, panel: Panel, rows: int) -> None:
        self._names = (*FIELDS, *panel.extra)
        self._ts = panel.ts.copy()
        self._values = np.array([series.T for series in _series(panel, self._names)])
        self._tape = Tape()
        recording = Recording(self._tape)
        memory = dict(zip(self._names, self._values, strict=True))
        series: dict[str, Any] = {name: self._tape.input(values.T) for name, values in memory.items()}
        extra = {name: series.pop(name) for name in panel.extra}
        ts: Any = self._tape.input(self._ts)
        recorded = replace(panel, ts=ts, extra=extra, **series)
        features = tuple(replace(one, formula=recording.bound(one.formula)) for one in view.features)
        out = recording.bound(compute_tail)(FeatureView(view.name, features), recorded, rows)
        self._out: FloatArray = plain(out)

    def compute(self, panel: Panel) -> FloatArray | None:
        """(rows, S, F), valid until the next call; None where `compute_tail` would take another branch."""
        self._ts[:] = panel.ts
        for values, series in zip(self._values, _series(panel, self._names), strict=True):
            values[:] = series.T
        return self._out if self._tape.play() else None


def _series(panel: Panel, names: Sequence[str]) -> list[FloatArray]:
    return [getattr(panel, name) if name in FIELDS else panel.extra[name] for name in names]
