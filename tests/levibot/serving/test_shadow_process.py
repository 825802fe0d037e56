"""Shadow models in processes of their own that hang, crash and eat memory."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
from prometheus_client import CollectorRegistry

from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.learning.learned_members import LearnedMembers
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast, columns_of
from levibot.learning.training import SIGNAL, TrainingParameters, train, window_bars
from levibot.market.bars import Panel
from levibot.market.simulator import SimulatedSource
from levibot.serving.canary_process import CanaryProcess
from levibot.serving.cross_section import CrossSection
from levibot.serving.member_panel import Absence
from levibot.serving.shadow_model import ShadowModel
from levibot.serving.shadow_process import ShadowAnswer, ShadowProcess
from levibot.settings import Settings, child_environment
from levibot.stores.connect import open_registry
from levibot.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
GOOD, BAD = np.array([[[0.25], [np.nan]]]), np.array([[[-0.25], [np.nan]]])


def process(behaviour: str, timeout_s: float = 20.0) -> ShadowProcess:
    return ShadowProcess(
        (sys.executable, "-m", "tests.servers.shadow_child", behaviour),
        {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_timeout_s=60.0,
        timeout_s=timeout_s,
    )


@pytest.mark.parametrize(
    ("behaviour", "timeout_s", "outcome", "is_ended"),
    [
        ("hangs", 1.0, "timed_out", True),
        ("crashes", 20.0, "died", True),
        ("eats", 20.0, "died", True),
        ("refuses", 20.0, "refused", False),
    ],
)
async def test_a_model_that_misbehaves_ends_alone_in_a_process_with_limits(
    behaviour: str, timeout_s: float, outcome: str, is_ended: bool
) -> None:
    model = process(behaviour, timeout_s)
    try:
        first = await model.ask(GOOD)
        assert (first.outcome, first.problem) == ("answered", "")
        np.testing.assert_array_equal(first.target_position, [0.25, np.nan])
        pid = model.pid
        assert pid is not None
        child = psutil.Process(pid)
        assert child.rlimit(resource.RLIMIT_AS) == (1024 << 20, 1024 << 20)
        assert child.nice() == min(19, psutil.Process().nice() + 10)
        failed = await model.ask(BAD)
        assert failed.outcome == outcome
        assert failed.problem
        assert psutil.pid_exists(pid) is not is_ended
        if behaviour == "eats":
            again = await model.ask(GOOD)
            np.testing.assert_array_equal(again.probability_up, [0.6, np.nan])
    finally:
        await model.end()
    assert model.pid is None


async def test_a_command_that_cannot_answer_is_told_with_its_code() -> None:
    model = ShadowProcess(
        (sys.executable, "-c", "raise SystemExit(3)"), {}, start_timeout_s=20.0, timeout_s=1.0
    )
    answer = await model.ask(GOOD)
    assert answer.outcome == "died"
    assert "code 3" in answer.problem


class TestOffered:
    """What a model that hangs is offered meanwhile."""

    @pytest.fixture
    def metrics(self) -> Metrics:
        return Metrics(CollectorRegistry())

    async def test_one_waits_the_newest_and_the_others_are_dropped_and_counted(
        self, metrics: Metrics
    ) -> None:
        done = asyncio.Event()
        told: list[tuple[CrossSection, ShadowAnswer]] = []

        def tell(_: str, section: CrossSection, answer: ShadowAnswer) -> None:
            told.append((section, answer))
            if answer.outcome == "answered":
                done.set()

        model = ShadowModel("v1.0.0", process("hangs", 1.0), tell, pause_s=0.0, metrics=metrics)
        running = asyncio.create_task(model.run())
        try:
            bad = CrossSection(NOON, ("A",), BAD)
            model.offer(bad)
            await asyncio.sleep(0.0)
            await asyncio.sleep(0.0)
            newer = [CrossSection(NOON, ("A",), GOOD * share) for share in (1.0, 2.0, 3.0)]
            for section in newer:
                model.offer(section)
            await asyncio.wait_for(done.wait(), 60.0)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert [(section, answer.outcome) for section, answer in told] == [
            (bad, "timed_out"),
            (newer[-1], "answered"),
        ]
        counted = {
            outcome: metrics.shadow_model_asked.labels("v1.0.0", outcome)._value.get()
            for outcome in ("answered", "timed_out", "dropped")
        }
        assert counted == {"answered": 1.0, "timed_out": 1.0, "dropped": 2.0}


@pytest.mark.slow
async def test_a_registered_version_says_in_its_process_what_it_says_in_ours(tmp_path: Path) -> None:
    symbols, hour, start = ("BTCUSDT", "ETHUSDT"), timedelta(hours=1), datetime(2020, 1, 1, tzinfo=UTC)
    source = SimulatedSource(symbols, hour, seed=5, edge=0.0)
    end = start + timedelta(days=500)
    panel = Panel.align({symbol: source.bars(symbol, start, end) for symbol in symbols})
    features = compute(CORE, panel)
    model = train(
        ComputedPast(panel, CORE, SIGNAL.horizons_bars, features).at(end),
        seed=2,
        train_start=start,
        training=TrainingParameters(booster=LightGBMParameters(trees=20), kinds=("lightgbm",), n_folds=2),
    )
    settings = Settings(home=tmp_path, symbols=symbols)
    version = open_registry(settings).publish(model.metadata(), model.to_files())
    beside = ShadowProcess(
        (sys.executable, "-m", "levibot.serving.shadow_child", version, str(settings.shadow_memory_mb)),
        child_environment(settings, PYTHONPATH=str(ROOT)),
        start_timeout_s=120.0,
        timeout_s=60.0,
    )
    windows = features[-window_bars() :]
    canary = CanaryProcess.of(settings, version, ("lightgbm",), 60.0)
    try:
        answer = await beside.ask(windows)
        heard = await canary.say(version, windows)
    finally:
        await beside.end()
        await canary.close()
    said = model.signals(columns_of(windows, CORE.names, model.feature_names))
    assert answer.outcome == "answered", answer.problem
    assert np.isfinite(answer.target_position).all()
    np.testing.assert_array_equal(answer.target_position, said.target_position)
    np.testing.assert_array_equal(answer.probability_up, said.probability_up)
    assert not isinstance(heard, Absence), heard.problem
    members = LearnedMembers(model.blending, model.learned)
    told = members.say_newest(columns_of(windows, CORE.names, model.feature_names))
    assert list(heard) == ["lightgbm"]
    np.testing.assert_array_equal(heard["lightgbm"].opinion, told["lightgbm"].opinion)
    np.testing.assert_array_equal(heard["lightgbm"].score, told["lightgbm"].score)
