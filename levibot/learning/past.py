"""What is learned from: the features of a market and the labels that were out, as known at one instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import numpy as np

from levibot.errors import DataError
from levibot.features.engine import compute
from levibot.features.view import FeatureView
from levibot.learning.labels import Labels, forward_returns, reach_ends
from levibot.market.bars import FloatArray, Panel, to_datetime64


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """The rows of a market that were finished at `as_of`, oldest first.

    panel: their bars, (T, S). features: (T, S, F) in the view's order, NaN where missing. labels: of each
    horizon, (T, S), NaN where they were not known at `as_of`.
    """

    view: str
    view_version: str
    feature_names: tuple[str, ...]
    as_of: datetime
    panel: Panel
    features: FloatArray
    labels: tuple[Labels, ...]

    def labels_of(self, horizon_bars: int) -> Labels:
        """Raises DataError where there are none of that horizon."""
        for labels in self.labels:
            if labels.horizon_bars == horizon_bars:
                return labels
        there = ", ".join(str(labels.horizon_bars) for labels in self.labels) or "none"
        raise DataError(f"There are no labels of {horizon_bars} bars; of the horizons there are: {there}.")

    def until(self, as_of: datetime) -> Knowledge:
        """What of this was there at an earlier instant: the rows finished by then, the labels out by then.

        The features are those of today: one that came late is there, as it is in `features`.
        """
        finished = finished_rows(self.panel, as_of)
        panel = self.panel.rows(slice(0, finished))
        labels = tuple(known_labels(panel, of.values[:finished], of.horizon_bars) for of in self.labels)
        return replace(self, as_of=as_of, panel=panel, features=self.features[:finished], labels=labels)

    def of_features(self, names: Sequence[str]) -> Knowledge:
        """The same with some of the features, in this order. Raises DataError where one is missing."""
        features = columns_of(self.features, self.feature_names, names)
        return replace(self, feature_names=tuple(names), features=features)


class Past(Protocol):
    """What was known of a market, at whichever instant one asks about."""

    @property
    def panel(self) -> Panel:
        """Its bars."""
        ...

    def at(self, as_of: datetime) -> Knowledge:
        """What was known then: features that were available, labels that were out."""
        ...

    def at_closes(self, rows: slice) -> FloatArray:
        """(N, S, F) features of some rows of the panel, each as it was known at its own close."""
        ...


class ComputedPast:
    """The past as bars in memory give it: features are computed once, and known at their bar's close."""

    def __init__(
        self,
        panel: Panel,
        view: FeatureView,
        horizons_bars: Sequence[int],
        features: FloatArray | None = None,
    ) -> None:
        """features: (T, S, F) of `view` for this panel, where they are computed already."""
        self.panel = panel
        self._view = view
        self._features = compute(view, panel) if features is None else features
        vol_slow = self._features[:, :, view.index("vol_slow")]
        self._labels = [forward_returns(panel, vol_slow, horizon_bars) for horizon_bars in horizons_bars]

    def at(self, as_of: datetime) -> Knowledge:
        """See `Past`."""
        finished = finished_rows(self.panel, as_of)
        panel = self.panel.rows(slice(0, finished))
        labels = tuple(known_labels(panel, of.values[:finished], of.horizon_bars) for of in self._labels)
        view = self._view
        return Knowledge(view.name, view.version, view.names, as_of, panel, self._features[:finished], labels)

    def at_closes(self, rows: slice) -> FloatArray:
        """See `Past`."""
        return self._features[rows]


@dataclass(frozen=True, slots=True, eq=False)
class KnownPast:
    """The past as what is known at its end gives it: of a history in which nothing came late.

    Plain data, which goes to other processes as it is. A frozen history of a backtest is such a past: a
    feature is known at the close of its bar, a label when its reach is over.
    """

    whole: Knowledge

    @property
    def panel(self) -> Panel:
        """See `Past`."""
        return self.whole.panel

    def at(self, as_of: datetime) -> Knowledge:
        """See `Past`."""
        return self.whole.until(as_of)

    def at_closes(self, rows: slice) -> FloatArray:
        """See `Past`."""
        return self.whole.features[rows]


def columns_of(features: FloatArray, there: Sequence[str], names: Sequence[str]) -> FloatArray:
    """(…, F') of features (…, F) named `there`, in the order of `names`.

    The array itself where they are the same. Raises DataError where one is missing.
    """
    if tuple(names) == tuple(there):
        return features
    column = {name: k for k, name in enumerate(there)}
    missing = [name for name in names if name not in column]
    if missing:
        raise DataError(f"There is no feature {missing[0]} among the {len(there)} that there are.")
    return features[..., [column[name] for name in names]]


def finished_rows(panel: Panel, as_of: datetime) -> int:
    """How many rows of the panel are finished at `as_of`."""
    return int(np.searchsorted(panel.closes_at, to_datetime64(as_of), side="right"))


def known_labels(panel: Panel, values: FloatArray, horizon_bars: int) -> Labels:
    """Labels (T, S) of a panel's rows, without those that reach beyond its last bar."""
    available_at = reach_ends(panel.closes_at, horizon_bars)
    return Labels(horizon_bars, np.where(np.isnat(available_at)[:, None], np.nan, values), available_at)
