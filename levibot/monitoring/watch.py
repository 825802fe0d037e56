"""Watches the features of a live market against what the active model learned on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from levibot.errors import NotReady
from levibot.features.engine import compute_tail
from levibot.features.side_data import attach_stored
from levibot.features.views import view as view_named
from levibot.learning.past import columns_of
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.monitoring.drift import FeatureDrift, ShadowLoss, drift_of, shadow_loss
from levibot.monitoring.importance import RankChange, importance_of, rank_change
from levibot.monitoring.references import TrainingReference, read_reference
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore
from levibot.trading.costs import Costs

WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """One look at the features of the last day. as_of: the close of the newest row.

    loss: of the model on the same day; what tells noise from damage.
    """

    as_of: datetime
    model_version: str
    drifts: tuple[FeatureDrift, ...]
    loss: ShadowLoss

    @property
    def drifting(self) -> tuple[FeatureDrift, ...]:
        """The features that are beyond a limit, the farthest first."""
        beyond = (drift for drift in self.drifts if drift.beyond)
        return tuple(sorted(beyond, key=lambda drift: -drift.excess))


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """What the model listened to in the last week. change: since its training, None where that is unknown."""

    as_of: datetime
    model_version: str
    importance: dict[str, float]
    change: RankChange | None


@dataclass(frozen=True, slots=True, eq=False)
class _Active:
    version: str
    model: SignalModel
    training: TrainingReference | None


class FeatureWatch:
    """Reads bars and the registry; writes nothing. State: the active model, so that it is read once."""

    def __init__(
        self,
        ticks: TickStore,
        registry: Registry,
        references: Registry,
        *,
        market_id: str,
        interval: timedelta,
        costs: Costs | None = None,
    ) -> None:
        self._ticks = ticks
        self._registry = registry
        self._references = references
        self._market_id = market_id
        self._interval = interval
        self._costs = costs or Costs()
        self._active: _Active | None = None

    async def check(self, as_of: datetime) -> Checked:
        """The features of the day that ends with the newest bar finished at `as_of`, against the reference.

        Raises NotReady while there is no active model, it has no reference, or there are too few bars.
        """
        active = await self._loaded()
        reference = _needed(active).drift
        if reference is None:
            raise NotReady(
                f"The model {active.version} has no reference for drift: its training was too short.",
                hint="Train it on a longer history.",
            )
        rows = 2 * reference.rows_a_day + active.model.window_bars
        panel = await self._panel(active, as_of, rows)
        if len(panel) < rows:
            raise NotReady(
                f"Drift is measured on {rows} bars; {len(panel)} are there at {as_of:%Y-%m-%d %H:%M}."
            )

        def look() -> Checked:
            features = self._features(active, panel, rows)
            return Checked(
                to_datetime(panel.closes_at[-1]),
                active.version,
                drift_of(reference, features),
                shadow_loss(active.model, panel.tail(rows), features, reference.rows_a_day, self._costs),
            )

        return await asyncio.to_thread(look)

    async def weigh(self, as_of: datetime) -> Weighed:
        """What moved the active model's predictions in the week up to `as_of`. Raises NotReady as `check`."""
        active = await self._loaded()
        panel, features = await self.recent(as_of, WEEK // self._interval)

        def look() -> Weighed:
            importance = importance_of(active.model, features.reshape(-1, features.shape[2]))
            before = None if active.training is None else active.training.importance
            change = rank_change(before, importance) if before else None
            return Weighed(to_datetime(panel.closes_at[-1]), active.version, importance, change)

        return await asyncio.to_thread(look)

    async def recent(self, as_of: datetime, rows: int) -> tuple[Panel, FloatArray]:
        """The newest `rows` rows of bars or what there is, and the active model's features of them (T, S, F).

        Raises NotReady without an active model or a bar.
        """
        active = await self._loaded()
        panel = await self._panel(active, as_of, rows)
        if not len(panel):
            raise NotReady(f"There are no bars of {self._market_id} at {as_of:%Y-%m-%d %H:%M}.")
        rows = min(rows, len(panel))
        return panel.tail(rows), await asyncio.to_thread(self._features, active, panel, rows)

    async def training(self) -> TrainingReference:
        """The reference of the active model. Raises NotReady where there is none, or no active model."""
        return _needed(await self._loaded())

    async def _loaded(self) -> _Active:
        version = await asyncio.to_thread(self._registry.active)
        if version is None:
            raise NotReady("There is no active model to compare the features with.")
        if self._active is None or self._active.version != version:
            stored = await asyncio.to_thread(self._registry.load, version)
            model = SignalModel.from_files(stored.metadata, stored.files)
            self._active = _Active(version, model, None)
        if self._active.training is None:
            # Learned when the model serves already: it may come later.
            training = await asyncio.to_thread(read_reference, self._references, version)
            self._active = replace(self._active, training=training)
        return self._active

    async def _panel(self, active: _Active, as_of: datetime, rows: int) -> Panel:
        # The last bar to be read opens at this instant at the latest, and so closes by `as_of`.
        end = as_of - self._interval + timedelta(microseconds=1)
        keep = view_named(active.model.view).warmup_bars + rows
        bars = await self._ticks.read_tail(self._market_id, active.model.symbols, self._interval, keep, end)
        panel = Panel.align({symbol: bars[symbol] for symbol in active.model.symbols})
        return await attach_stored(panel, self._ticks, self._market_id, view_named(active.model.view))

    def _features(self, active: _Active, panel: Panel, rows: int) -> FloatArray:
        view = view_named(active.model.view)
        return columns_of(compute_tail(view, panel, rows), view.names, active.model.feature_names)


def _needed(active: _Active) -> TrainingReference:
    if active.training is None:
        raise NotReady(
            f"The model {active.version} has no reference yet: its training job learns it after the model.",
            hint="Where that job was ended early, train again.",
        )
    return active.training
