"""The past as a feature history has it: every question is a point-in-time read of what was stored."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import numpy as np

from levibot.clock import ManualClock
from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.learning import labels as label_definitions
from levibot.learning.history import step_rows
from levibot.learning.labels import label_name
from levibot.learning.past import Knowledge, finished_rows, known_labels
from levibot.learning.training import hash_panel
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.stores.event import instant
from levibot.stores.frozen_history import FrozenHistories
from levibot.stores.history_grid import on_grid
from levibot.stores.history_rows import Known, Rows, Series
from levibot.stores.offline import OfflineStore

# What the numbers come from, besides the definitions.
LIBRARIES = ("numba", "numpy", "ta-lib")


class StoredPast:
    """What a history says of the bars that it was made of. State: none; the store's is its own."""

    def __init__(
        self, store: OfflineStore, panel: Panel, view: FeatureView, horizons_bars: Sequence[int]
    ) -> None:
        """panel: bars of all symbols; each has a row in the history."""
        self.panel = panel
        self._store = store
        self._view = view
        self._series = Series.of_view(view)
        self._horizons_bars = tuple(horizons_bars)

    def at(self, as_of: datetime) -> Knowledge:
        """See `Past`. Raises DataError where a finished bar has no row, and what the store raises."""
        panel = self.panel.rows(slice(0, finished_rows(self.panel, as_of)))
        features = self._features(panel, self._store.read(self._series, panel.symbols, as_of=as_of))
        labels = []
        for horizon_bars in self._horizons_bars:
            series = Series.of_label(label_name(horizon_bars))
            known = self._store.read(series, panel.symbols, as_of=as_of)
            values = on_grid(series, known, panel.closes_at)[:, :, 0]
            labels.append(known_labels(panel, values, horizon_bars))
        view = self._view
        return Knowledge(view.name, view.version, view.names, as_of, panel, features, tuple(labels))

    def at_closes(self, rows: slice) -> FloatArray:
        """See `Past`. Raises DataError on a row that came later than its close, and as `at` does."""
        panel = self.panel.rows(rows)
        if not len(panel):
            return np.empty((0, len(panel.symbols), len(self._view.features)))
        first, last = to_datetime(panel.closes_at[0]), to_datetime(panel.closes_at[-1])
        end = last + timedelta(microseconds=1)
        known = self._store.read(self._series, panel.symbols, as_of=last, start=first, end=end)
        for symbol, of in known.items():
            late = np.flatnonzero(of.available_us > of.event_us)
            if len(late):
                raise DataError(
                    f"The {self._series} of {symbol} at {instant(int(of.event_us[late[0]])).isoformat()} "
                    "came later than its bar's close: a decision there could not use it."
                )
        return self._features(panel, known)

    def _features(self, panel: Panel, known: Mapping[str, Known]) -> FloatArray:
        n_without = sum(
            int((~np.isnan(panel.close[:, column])).sum()) - len(known[symbol])
            for column, symbol in enumerate(panel.symbols)
        )
        if n_without:
            raise DataError(f"The history has no features of {n_without} bars that were finished.")
        return on_grid(self._series, known, panel.closes_at)


@contextmanager
def stored_past(
    histories: FrozenHistories, panel: Panel, view: FeatureView, horizons_bars: Sequence[int]
) -> Iterator[StoredPast]:
    """The past of a panel, from the history that was made of it, which is made first where there is none.

    Every row is declared to have been available as soon as it could be: a feature at the close of its bar, a
    label when its reach was over. The panel is all there is: what was known when, nobody recorded.
    """
    # The market's now: everything that can be known of these bars is known.
    clock = ManualClock(to_datetime(panel.closes_at[-1]))

    def write(store: OfflineStore) -> None:
        # A horizon of which no label is known is one without labels, not one that nobody knows of.
        nothing = np.empty(0, dtype="datetime64[us]")
        empty = [
            Rows(Series.of_label(label_name(bars)), panel.symbols[0], nothing, nothing, np.empty((0, 1)))
            for bars in horizons_bars
        ]
        # In one step: from the first bar on, so that the numbers are those of the panel as a whole.
        store.write(
            [*empty, *step_rows(view, panel, 0, len(panel), horizons_bars)],
            reason="bars of a backtest",
            is_reconstructed=True,
        )

    key = key_of(panel, view, horizons_bars)
    with histories.open(key, clock, write) as store:
        yield StoredPast(store, panel, view, horizons_bars)


def key_of(panel: Panel, view: FeatureView, horizons_bars: Sequence[int]) -> str:
    """Names what a history of these bars holds: other bars, definitions or libraries have another key."""
    said = {
        "bars": hash_panel(panel),
        "view": [view.name, view.version],
        "labels": [inspect.getsource(label_definitions), list(horizons_bars)],
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]
