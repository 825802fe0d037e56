"""The panel over members that a test holds in one place or in several: real models, no Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import LeviBotError, NotReady, RegistryError, StoreUnavailable
from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.learning.blending import LearnedOpinion, Signals
from levibot.learning.learned_members import LearnedMembers
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.signal import SignalModel
from levibot.learning.training import SIGNAL, TrainingParameters, train
from levibot.market.bars import FloatArray, Panel
from levibot.market.simulator import SimulatedSource
from levibot.serving.member_panel import Absence, Holder, MemberPanel
from levibot.serving.weighing import Route
from levibot.telemetry.metrics import Metrics

SYMBOLS = ("BTCUSDT", "ETHUSDT")
START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 6, 1, tzinfo=UTC)
KINDS = ("lightgbm", "linear")


@pytest.fixture(scope="module")
def history() -> tuple[Panel, FloatArray]:
    source = SimulatedSource(SYMBOLS, timedelta(hours=1), seed=11, edge=0.05)
    panel = Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})
    return panel, compute(CORE, panel)


@pytest.fixture(scope="module")
def model(history: tuple[Panel, FloatArray]) -> SignalModel:
    panel, features = history
    training = replace(
        TrainingParameters(booster=LightGBMParameters(trees=10), n_folds=2, n_models=1), kinds=KINDS
    )
    known = ComputedPast(panel, CORE, SIGNAL.horizons_bars, features).at(END)
    return train(known, seed=2, train_start=START, training=training)


class Held:
    """As a replica holds some kinds of a version: from the files, and no others."""

    def __init__(self, model: SignalModel, *kinds: str) -> None:
        metadata = json.loads(json.dumps(model.metadata()))
        self._members = LearnedMembers.from_files(metadata, model.to_files(), kinds)
        assert {part.kind for part in self._members.learned} == set(kinds)
        self.kinds = kinds
        self.loaded: list[str] = []

    async def load(self, version: str) -> None:
        self.loaded.append(version)

    async def say(self, version: str, window: FloatArray) -> Mapping[str, LearnedOpinion] | Absence:
        return self._members.say_newest(window)


class Away:
    """Some kinds whose process does not answer."""

    def __init__(self, *kinds: str, problem: LeviBotError | None = None) -> None:
        self.kinds = kinds
        self._problem = problem or NotReady("members:linear is away.")

    async def load(self, version: str) -> None:
        raise self._problem

    async def say(self, version: str, window: FloatArray) -> Mapping[str, LearnedOpinion] | Absence:
        return Absence("crashed", "members:linear is away.")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def panel_of(model: SignalModel, *holders: Holder, metrics: Metrics | None = None) -> MemberPanel:
    return MemberPanel(holders, lambda version: model.metadata(), metrics or Metrics(CollectorRegistry()))


def assert_same_bits(one: Signals, other: Signals) -> None:
    for name in ("probability_up", "expected_return", "target_position"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    assert one.opinions.members == other.opinions.members
    for name in ("values", "unit", "probability_up"):
        assert getattr(one.opinions, name).tobytes() == getattr(other.opinions, name).tobytes()


async def test_members_apart_and_in_one_process_say_the_same_bit_for_bit(
    model: SignalModel, history: tuple[Panel, FloatArray]
) -> None:
    window = history[1][-200:].copy()
    window[-1, 1, CORE.index("vol_fast")] = np.nan
    fused = await panel_of(model, Held(model, *KINDS)).signals("v1.0.0", window)
    apart = await panel_of(model, *(Held(model, kind) for kind in KINDS)).signals("v1.0.0", window)
    assert_same_bits(apart, fused)
    assert_same_bits(fused, model.signals(window))
    assert np.isfinite(fused.target_position).tolist() == [True, False]


async def test_an_absent_member_is_left_out_takes_no_other_along_and_is_told_and_counted(
    model: SignalModel, history: tuple[Panel, FloatArray], metrics: Metrics
) -> None:
    window = history[1][-200:]
    whole = model.signals(window)
    panel = panel_of(model, Held(model, "lightgbm"), Away("linear"), metrics=metrics)
    said = await panel.signals("v1.0.0", window)
    assert said.opinions.members == whole.opinions.members
    assert np.isnan(said.opinions.values[0, :, -1]).all()
    assert said.opinions.values[..., :-1].tobytes() == whole.opinions.values[..., :-1].tobytes()
    assert (said.probability_up == whole.opinions.probability_up[0, :, 2]).all()
    assert np.isfinite(said.target_position).all()
    assert metrics.member_absent.labels("linear", "crashed")._value.get() == 1.0
    # What a caller is told: the weights of those who answered, and who did not.
    weights = {"trend": 0.1, "strength": 0.2, "lightgbm": 0.3, "linear": 0.4}
    for column, blend in enumerate(Route.configured(tuple(weights), weights).blends(said.opinions, 0.0)):
        assert blend is not None
        assert blend.absent == {"linear": "crashed"}
        assert blend.weights == pytest.approx({"trend": 1 / 6, "strength": 2 / 6, "lightgbm": 3 / 6})
        score = 3.0 * sum(weight * blend.opinions[member] for member, weight in blend.weights.items())
        assert blend.positions["ensemble"] == pytest.approx(score * said.opinions.unit[0, column])
        assert "linear" not in {*blend.opinions, *blend.positions}


async def test_without_any_learned_member_there_is_no_signal(
    model: SignalModel, history: tuple[Panel, FloatArray]
) -> None:
    panel = panel_of(model, Away(*KINDS))
    with pytest.raises(NotReady, match=r"No learned member of v1\.0\.0 answers"):
        await panel.signals("v1.0.0", history[1][-200:])
    with pytest.raises(NotReady, match=r"No learned member has loaded v1\.0\.0"):
        await panel.load("v1.0.0")


async def test_a_version_of_kinds_that_nobody_holds_is_refused(
    model: SignalModel, history: tuple[Panel, FloatArray]
) -> None:
    with pytest.raises(RegistryError, match="member of kind linear"):
        await panel_of(model, Held(model, "lightgbm")).load("v1.0.0")


async def test_a_version_is_loaded_by_all_that_are_there(model: SignalModel) -> None:
    there = Held(model, "lightgbm")
    await panel_of(model, there, Away("linear")).load("v1.0.0")
    assert there.loaded == ["v1.0.0"]


@pytest.mark.parametrize("problem", [RegistryError("It is broken."), StoreUnavailable("It is far away.")])
async def test_what_one_holder_says_of_a_version_counts_for_all(
    model: SignalModel, problem: LeviBotError
) -> None:
    class Patient(Held):
        async def load(self, version: str) -> None:
            await asyncio.Event().wait()

    panel = panel_of(model, Patient(model, "lightgbm"), Away("linear", problem=problem))
    with pytest.raises(type(problem), match="It is"):
        await asyncio.wait_for(panel.load("v1.0.0"), 5.0)


def test_a_member_without_the_longest_horizon_is_refused_in_one_sentence(model: SignalModel) -> None:
    files = model.to_files()
    numbers = json.loads(files["signal.json"])
    for part in numbers["learned"]:
        if part["kind"] == "linear":
            part["horizons"] = [one for one in part["horizons"] if one["bars"] < 24]
    files["signal.json"] = json.dumps(numbers).encode()
    metadata = json.loads(json.dumps(model.metadata()))
    with pytest.raises(RegistryError, match="The member linear has no prediction over 24 bars"):
        LearnedMembers.from_files(metadata, files, KINDS)
    LearnedMembers.from_files(metadata, files, ("lightgbm",))
