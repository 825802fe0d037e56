"""The past with something taken from it: what an audit lets a pipeline learn from and decide on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from levibot.features.engine import compute
from levibot.features.view import FeatureView
from levibot.learning.past import Knowledge, Past
from levibot.market.bars import FloatArray, Panel

# From the labels that are known, (T, S) with NaN where none is, to what is taught instead.
Relabel = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class Relabelled:
    """The same past with other labels. State: none; the same instant gives the same labels."""

    past: Past
    relabel: Relabel

    @property
    def panel(self) -> Panel:
        """See `Past`."""
        return self.past.panel

    def at(self, as_of: datetime) -> Knowledge:
        """See `Past`."""
        known = self.past.at(as_of)
        labels = tuple(replace(of, values=self.relabel(of.values)) for of in known.labels)
        return replace(known, labels=labels)

    def at_closes(self, rows: slice) -> FloatArray:
        """See `Past`."""
        return self.past.at_closes(rows)


def shuffled(seed: int) -> Relabel:
    """The known labels in another order over all rows and symbols: they say nothing of the features."""

    def relabel(values: FloatArray) -> FloatArray:
        found, there = values.copy(), np.isfinite(values)
        found[there] = np.random.default_rng(seed).permutation(values[there])
        return found

    return relabel


def nothing_happened(values: FloatArray) -> FloatArray:
    """Zero for every label that is known: there is nothing to learn, and nothing to fit noise to."""
    return np.where(np.isfinite(values), 0.0, np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class ShortMemory:
    """The same past, decided on with features that saw no bar before their own warm-up. State: none."""

    past: Past
    view: FeatureView

    @property
    def panel(self) -> Panel:
        """See `Past`."""
        return self.past.panel

    def at(self, as_of: datetime) -> Knowledge:
        """See `Past`: what is learned from has all its bars."""
        return self.past.at(as_of)

    def at_closes(self, rows: slice) -> FloatArray:
        """See `Past`. Where no more bars than the warm-up lie before the rows, none is left out."""
        begin, end, _ = rows.indices(len(self.past.panel))
        first = max(0, begin - self.view.warmup_bars)
        return compute(self.view, self.past.panel.rows(slice(first, end)))[begin - first :]
