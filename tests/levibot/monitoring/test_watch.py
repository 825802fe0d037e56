"""The watch over a live market's features, on a real tick store and registry."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from actors.feature_monitor import FeatureMonitor
from levibot.errors import DataError, NotReady
from levibot.features.views import CORE
from levibot.learning.signal import SignalModel
from levibot.market.bars import FIELDS, Bars, FloatArray, Panel, to_datetime
from levibot.monitoring.reference import FILE, DriftReference
from levibot.monitoring.references import (
    IMPORTANCE_FILE,
    TrainingReference,
    publish_reference,
    read_reference,
)
from levibot.monitoring.watch import Checked, FeatureWatch
from levibot.settings import Settings
from levibot.stores.event import Event
from levibot.stores.model_files import ModelFolder
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
MARKET_ID = "still"
# What the watch reads of the market's end.
ROWS = 3_600


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(ModelFolder(tmp_path / "models"))


@pytest.fixture
def references(tmp_path: Path) -> Registry:
    return Registry(ModelFolder(tmp_path / "models" / "references"))


@pytest.fixture
def training(model: SignalModel, reference: DriftReference, still_features: FloatArray) -> TrainingReference:
    return TrainingReference(reference, TrainingReference.of(model, still_features[:1_500]).importance)


@pytest.fixture
def watch(tick_store: TickStore, registry: Registry, references: Registry) -> FeatureWatch:
    return FeatureWatch(tick_store, registry, references, market_id=MARKET_ID, interval=HOUR)


def bars_of(panel: Panel) -> dict[str, Bars]:
    bars = {}
    for column, symbol in enumerate(panel.symbols):
        there = np.isfinite(panel.close[:, column])
        fields = (getattr(panel, name)[there, column] for name in FIELDS)
        bars[symbol] = Bars(symbol, HOUR, panel.ts[there], *fields)
    return bars


def publish(registry: Registry, references: Registry, model: SignalModel, training: TrainingReference) -> str:
    version = registry.publish(model.metadata(), model.to_files())
    registry.activate(version, "test")
    publish_reference(references, version, training)
    return version


async def stored(store: TickStore, panel: Panel) -> datetime:
    await store.write_many(MARKET_ID, bars_of(panel.tail(ROWS)).values())
    return to_datetime(panel.closes_at[-1])


async def test_a_quiet_day_is_quiet_and_a_wild_one_is_not(
    tick_store: TickStore,
    registry: Registry,
    references: Registry,
    watch: FeatureWatch,
    model: SignalModel,
    training: TrainingReference,
    still_market: Panel,
) -> None:
    version = publish(registry, references, model, training)
    now = await stored(tick_store, still_market)
    checked = await watch.check(now - 30 * HOUR)
    assert (checked.as_of, checked.model_version) == (now - 30 * HOUR, version)
    assert [drift.name for drift in checked.drifts] == list(CORE.names)
    assert len(checked.drifting) <= 2
    # A day of the same market on which each move is five times as large.
    wild = still_market.tail(ROWS)
    day = {name: getattr(wild, name).copy() for name in ("open", "high", "low", "close")}
    first = wild.close[-25]
    for values in day.values():
        values[-24:] = first * np.exp(5.0 * np.log(values[-24:] / first))
    loud = Panel(wild.symbols, HOUR, wild.ts + np.timedelta64(1, "h") * 24, *day.values(), wild.volume)
    await tick_store.write_many("wild", list(bars_of(loud).values()))
    other = FeatureWatch(tick_store, registry, references, market_id="wild", interval=HOUR)
    found = await other.check(to_datetime(loud.closes_at[-1]))
    assert {"vol_24", "parkinson_24"} <= {drift.name for drift in found.drifting}
    assert found.loss.loss != checked.loss.loss


async def test_what_the_model_listens_to_is_weighed_against_its_training(
    tick_store: TickStore,
    registry: Registry,
    references: Registry,
    watch: FeatureWatch,
    model: SignalModel,
    training: TrainingReference,
    still_market: Panel,
) -> None:
    publish(registry, references, model, training)
    weighed = await watch.weigh(await stored(tick_store, still_market))
    assert sum(weighed.importance.values()) == pytest.approx(1.0)
    assert weighed.change is not None
    assert weighed.change.correlation > 0.5


async def test_why_nothing_can_be_measured_is_said(
    tick_store: TickStore,
    registry: Registry,
    references: Registry,
    watch: FeatureWatch,
    model: SignalModel,
    training: TrainingReference,
    still_market: Panel,
) -> None:
    now = to_datetime(still_market.closes_at[-1])
    with pytest.raises(NotReady, match="no active model"):
        await watch.check(now)
    version = registry.publish(model.metadata(), model.to_files())
    registry.activate(version, "test")
    with pytest.raises(NotReady, match=f"{version} has no reference yet"):
        await watch.check(now)
    with pytest.raises(NotReady, match=f"{version} has no reference yet"):
        await watch.training()
    publish_reference(references, version, TrainingReference(None, training.importance))
    with pytest.raises(NotReady, match=f"{version} has no reference for drift"):
        await watch.check(now)
    publish(registry, references, model, training)
    with pytest.raises(NotReady, match="Drift is measured on 78 bars; 0 are there"):
        await watch.check(now)
    with pytest.raises(NotReady, match="There are no bars of still"):
        await watch.weigh(now)


def test_a_reference_comes_after_its_version_and_stays_what_it_is(
    registry: Registry, references: Registry, model: SignalModel, training: TrainingReference
) -> None:
    version = registry.publish(model.metadata(), model.to_files())
    assert read_reference(references, version) is None
    for learned in (training, TrainingReference(None, training.importance)):
        publish_reference(references, version, learned)
    found = read_reference(references, version)
    assert found is not None
    assert found.to_files() == training.to_files()
    assert read_reference(references, "v1.0.1") is None
    # They lie beside the models, and are none.
    assert [info.version for info in registry.versions()] == [version]


def test_a_reference_is_read_as_it_was_written(training: TrainingReference) -> None:
    again = TrainingReference.from_files(training.to_files())
    assert again.importance == training.importance
    assert again.drift is not None
    assert TrainingReference.from_files({}).drift is None
    with pytest.raises(DataError, match="no reference of features"):
        TrainingReference.from_files({FILE: b"x"})
    with pytest.raises(DataError, match="holds no shares"):
        TrainingReference.from_files({IMPORTANCE_FILE: b"[1]"})


async def test_a_drift_is_told_when_it_begins_and_when_it_is_over(
    registry: Registry,
    references: Registry,
    watch: FeatureWatch,
    tick_store: TickStore,
    model: SignalModel,
    training: TrainingReference,
    still_market: Panel,
    tmp_path: Path,
) -> None:
    publish(registry, references, model, training)
    checked = await watch.check(await stored(tick_store, still_market))
    monitor = FeatureMonitor(Settings.load(home=tmp_path, source="exchange"))
    monitor._loop.cancel()
    told: list[Event] = []
    monitor._events.tell = told.extend  # type: ignore[method-assign, assignment]

    def shown(hours: int, *names: str) -> list[tuple[str, object]]:
        told.clear()
        drifts = tuple(
            type(drift)(drift.name, dict.fromkeys(drift.found, 3.0 if drift.name in names else 0.0), limits)
            for drift in checked.drifts
        )
        monitor._note(Checked(checked.as_of + hours * HOUR, checked.model_version, drifts, checked.loss))
        return [(event.event_type, event.payload.get("feature")) for event in told]

    limits = dict.fromkeys(checked.drifts[0].found, 1.0)
    assert shown(1, "return_1")[0] == ("feature_drift", "return_1")
    assert told[0].payload["shadow_loss"] == checked.loss.to_json()
    assert shown(1, "return_1") == []
    assert shown(2, "return_1", "return_2") == [("feature_drift", "return_2")]
    assert shown(3, "return_2") == [("feature_drift_over", "return_1")]
    assert (await monitor.status())["drifting"] == ["return_2"]
    assert [kind for kind, _ in shown(27, "return_2")] == ["feature_drift_day"]
    assert told[0].payload["drifting"] == ["return_2"]
