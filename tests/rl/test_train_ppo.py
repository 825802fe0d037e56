"""Training goes on whatever is killed, and every judged policy is counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import ray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from levibot.errors import UsageError
from levibot.settings import Settings
from rl.array_ppo import ppo_config
from rl.checkpoints import Checkpoints
from rl.exam import decisions_of, sit
from rl.training import JUDGED, best, game_of
from rl.walk import quarters, walk
from tests.ray_cluster import own_cluster
from tests.rl import train_driver
from tests.rl.train_driver import TASK, go_on

pytestmark = pytest.mark.ray
WAIT_S = 60.0
ALWAYS = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with own_cluster(num_cpus=3, object_store_mb=80):
        yield


def test_a_killed_driver_is_gone_on_with_from_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    driver = [sys.executable, "-m", "tests.rl.train_driver", address, str(tmp_path)]
    with (tmp_path / "log").open("wb") as log:
        killed = subprocess.Popen(driver, stdout=log, stderr=log)
    checkpoints = Checkpoints(tmp_path / "training" / "checkpoints")
    try:
        until = time.monotonic() + WAIT_S
        while len(checkpoints.turns()) < 3:
            assert killed.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.05)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    newest = checkpoints.newest()
    # The weights are those that were judged then.
    algorithm = ppo_config(TASK.make, TASK.make(), TASK.game, TASK.learning, seed=3).build_algo()
    algorithm.restore_from_path(str(checkpoints.place(newest)))
    later = train_driver.later_market(TASK.make().scaling)
    again = sit(decisions_of(algorithm.get_module(), TASK.game), later, TASK.game)
    algorithm.stop()
    before = json.loads((tmp_path / "training" / JUDGED).read_text())[str(newest)]
    assert float(np.prod(1.0 + again.daily_net) - 1.0) == before["net_return"]
    judged = go_on(tmp_path, newest + 2, resume=True)
    assert sorted(judged) == [newest + 1, newest + 2]
    assert checkpoints.newest() == newest + 2
    counted = train_driver.book(tmp_path).rivals("", ALWAYS[0], ALWAYS[1])
    assert {trial.parameters["turn"] for trial in counted} >= set(range(1, newest + 3))
    assert {trial.kind for trial in counted} == {"rl"}


def test_a_walk_trades_the_quarter_after_the_one_that_chose(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, source="simulated", symbols=("BTCUSDT", "ETHUSDT"))
    pair = quarters("2022-04-01", "2022-06-30")
    game = game_of("discrete", "log_return", 0.0)
    tests = (settings, settings.symbols, pair, game, train_driver.book(tmp_path), tmp_path / "walk")
    (quarter,) = walk(*tests, seed=1, n_turns=1, every=1, n_runners=0)

    assert len(quarter.exam.daily_net) == len(quarter.held.daily_net) == 91
    assert quarter.held.held_share > 0.99
    chosen, traded = sorted(train_driver.book(tmp_path).rivals("", *ALWAYS), key=lambda trial: trial.start)
    # What chose was over when the traded quarter began, and both were counted.
    assert chosen.end <= pair[0][1].test_start == traded.start
    assert traded.net_sharpe == quarter.exam.net_sharpe
    # The same walk again reads what is there, trades the same, and counts nothing twice.
    (again,) = walk(*tests, seed=1, n_turns=1, every=1, n_runners=0)
    assert np.array_equal(again.exam.daily_net, quarter.exam.daily_net)
    assert len(train_driver.book(tmp_path).rivals("", *ALWAYS)) == 2


@pytest.mark.slow
def test_a_killed_runner_is_started_again_and_training_goes_on() -> None:
    config = ppo_config(TASK.make, TASK.make(), TASK.game, TASK.learning, seed=3, n_runners=2)
    algorithm = config.build_algo()
    try:
        algorithm.train()
        first, *_ = algorithm.env_runner_group.foreach_env_runner(
            lambda _: os.getpid(), local_env_runner=False
        )
        os.kill(first, signal.SIGKILL)
        until = time.monotonic() + WAIT_S
        sampled: list[float] = []
        while True:
            result = algorithm.train()
            sampled.append(result["env_runners"].get("num_env_steps_sampled", 0))
            pids = algorithm.env_runner_group.foreach_env_runner(
                lambda _: os.getpid(), local_env_runner=False
            )
            if len(pids) == 2 and first not in pids:
                break
            assert time.monotonic() < until, sampled
        weights = algorithm.learner_group.get_weights()["default_policy"]
        algorithm.env_runner_group.sync_weights(
            from_worker_or_learner_group=algorithm.learner_group, inference_only=True
        )
        for of_runner in algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.get_state()["rl_module"], local_env_runner=False
        ):
            for name, weight in of_runner.items():
                assert np.array_equal(weight, weights[name])
    finally:
        algorithm.stop()


def test_a_training_is_told_judged_and_not_overwritten(tmp_path: Path) -> None:
    judged = go_on(tmp_path, 3)
    assert sorted(judged) == [1, 2, 3]
    assert best(tmp_path / "training") in judged
    events = EventAccumulator(str(tmp_path / "training" / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("entropy")] == [1, 2, 3]
    with pytest.raises(UsageError, match="holds a training"):
        go_on(tmp_path, 3)
    (tmp_path / "training" / "training.json").write_text("{}\n")
    with pytest.raises(UsageError, match="other options"):
        go_on(tmp_path, 4, resume=True)
