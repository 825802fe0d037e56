"""A replica of members without Ray: a registry on disk, whose files are as slow as a test wants."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deployments import model as model_module
from deployments.model import MembersReplica
from levibot.errors import RegistryError
from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.learning.learned_members import LearnedMembers
from levibot.learning.past import ComputedPast, columns_of
from levibot.learning.signal import SignalModel
from levibot.learning.training import SIGNAL, TrainingParameters, train
from levibot.market.bars import FloatArray, Panel
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.connect import open_registry
from levibot.stores.model_files import ModelFolder
from levibot.stores.registry import Registry

SYMBOLS = ("BTCUSDT", "ETHUSDT")
START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 6, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A replica sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def learned() -> tuple[SignalModel, FloatArray]:
    source = SimulatedSource(SYMBOLS, timedelta(hours=1), seed=11, edge=0.05)
    panel = Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})
    features = compute(CORE, panel)
    training = replace(TrainingParameters(n_folds=2, n_models=1), kinds=("linear",))
    known = ComputedPast(panel, CORE, SIGNAL.horizons_bars, features).at(END)
    return train(known, seed=2, train_start=START, training=training), features[-200:]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path, symbols=SYMBOLS)
    for name, text in settings.environment().items():
        monkeypatch.setenv(name, text)
    return settings


@pytest.fixture
def registry(settings: Settings, learned: tuple[SignalModel, FloatArray]) -> Registry:
    registry = open_registry(settings)
    for _ in range(3):
        registry.publish(learned[0].metadata(), learned[0].to_files())
    return registry


def made_slow(registry: Registry, version: str) -> tuple[Path, bytes]:
    """Of one file the reader waits until somebody writes it: its path, and what to write."""
    assert isinstance(registry.files, ModelFolder)
    path = registry.files.root / version / "signal.json"
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    return path, data


async def test_a_version_that_loads_slowly_is_not_waited_for_and_is_there_later(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, learned: tuple[SignalModel, FloatArray]
) -> None:
    monkeypatch.setattr(model_module, "LOADING_S", 0.1)
    replica, (model, window) = MembersReplica(("linear",)), learned
    await replica.load("v1.0.0")
    slow, data = made_slow(registry, "v1.0.1")
    patient = asyncio.create_task(replica.load("v1.0.1"))
    assert await replica.say("v1.0.1", window) is None
    # The version that is there answers meanwhile.
    before = await replica.say("v1.0.0", window)
    assert before is not None
    there = columns_of(window, CORE.names, model.feature_names)
    expected = LearnedMembers(model.blending, model.learned).say_newest(there)["linear"]
    assert np.isfinite(expected.opinion).all()
    assert before["linear"].opinion.tobytes() == expected.opinion.tobytes()
    await asyncio.to_thread(slow.write_bytes, data)
    await patient
    after = await replica.say("v1.0.1", window)
    assert after is not None
    assert after["linear"].score.tobytes() == before["linear"].score.tobytes()


async def test_a_broken_version_is_said_and_the_replica_goes_on(
    registry: Registry, learned: tuple[SignalModel, FloatArray]
) -> None:
    replica, window = MembersReplica(("linear",)), learned[1]
    assert isinstance(registry.files, ModelFolder)
    (registry.files.root / "v1.0.1" / "signal.json").write_bytes(b"{}")
    for ask in (replica.load("v1.0.1"), replica.say("v1.0.1", window)):
        with pytest.raises(
            RegistryError, match=r"signal\.json of version v1\.0\.1 is not what was published"
        ):
            await ask
    assert await replica.say("v1.0.0", window) is not None
