"""A search on a real cluster: its driver is killed twice, and nothing is lost or counted twice."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import ray

from levibot.learning.search.pareto import front_ranks
from tests.tune import search_driver
from tests.tune.search_driver import LADDER, N_SHARING, journal, study
from tune import found

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
N_TRIALS = 14
SHARE = "training.booster.row_share"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of this module's own, which outlives the drivers."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 * 1024 * 1024,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@contextlib.contextmanager
def driver(cluster: str, folder: Path, n_trials: int) -> Iterator[ForkServerProcess]:
    """A session of the search, in a process of its own that is killed when this ends."""
    # What it imports is imported once for the three of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([search_driver.__name__])
    process = context.Process(target=search_driver.run, args=(cluster, folder, n_trials))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def log_of(folder: Path) -> str:
    return (folder / search_driver.LOG).read_text()


def wait_for(process: ForkServerProcess, folder: Path, n_rungs: int) -> None:
    """Until the trials of the study have been on so many rungs together."""
    deadline = time.monotonic() + 120.0
    while not study(folder).exists():
        assert process.is_alive(), log_of(folder)
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # Opened once: opening it costs as much as all that the session does in between.
    watched = study(folder)
    while sum(len(trial.rungs) for trial in watched.trials()) < n_rungs:
        assert process.is_alive(), log_of(folder)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_search_whose_driver_is_killed_twice_ends_as_one_that_was_not(cluster: str, tmp_path: Path) -> None:
    kept: list[dict[int, dict[int, Any]]] = []
    for n_rungs in (1, 8):
        with driver(cluster, tmp_path, N_TRIALS) as session:
            wait_for(session, tmp_path, n_rungs)
        kept.append({t.number: dict(t.rungs) for t in study(tmp_path).trials()})
    assert sum(trial.state == "running" for trial in study(tmp_path).trials()) >= 1
    with driver(cluster, tmp_path, N_TRIALS) as session:
        session.join(timeout=200)
        assert session.exitcode == 0, log_of(tmp_path)

    trials = study(tmp_path).trials()
    counts = study(tmp_path).counts()
    assert [trial.number for trial in trials] == list(range(N_TRIALS))
    assert (counts["running"], counts["left"]) == (0, 0)
    assert counts["complete"] + counts["pruned"] + counts["failed"] == N_TRIALS
    assert counts["pruned"] >= 2
    # What was scored before a kill is still there, and nothing was begun under another number.
    for before in kept:
        assert all(rungs.items() <= trials[number].rungs.items() for number, rungs in before.items())
    values = [tuple(sorted(trial.values.items())) for trial in trials]
    assert len(set(values)) == N_TRIALS
    # The ledger has every rung of every trial once.
    counted = [
        (tuple(sorted(t.parameters["searched"].items())), round(t.budget * LADDER.n_folds))
        for t in journal(tmp_path).newest(1_000)
    ]
    assert sorted(counted) == sorted((v, n) for v, t in zip(values, trials, strict=True) for n in t.rungs)
    # A candidate fails as data fail it; the others end on the rung that they were stopped at, or on the last.
    for trial in trials:
        reached = max(trial.rungs, default=0)
        assert (trial.state == "failed") == (0.9 <= trial.values[SHARE] <= 0.95)
        assert (trial.state == "complete") == (reached == LADDER.n_folds)
        climbed = tuple(b for b in LADDER.budgets if b <= reached)
        assert tuple(trial.rungs) in (climbed, LADDER.budgets[-1:])
    # Who came to all folds is followed by others that take the same models, as many as are wanted, at once.
    shares = Counter(trial.values[SHARE] for trial in trials)
    whole = [trial for trial in trials if trial.rungs and tuple(trial.rungs) == LADDER.budgets]
    assert max(shares.values()) == N_SHARING
    assert {t.values[SHARE] for t in trials if tuple(t.rungs) == LADDER.budgets[-1:]} <= {
        t.values[SHARE] for t in whole
    }
    # Whoever was stopped at a rung is dominated by somebody who was there.
    for budget in LADDER.budgets[:-1]:
        there = [trial for trial in trials if budget in trial.rungs]
        ranks = front_ranks([trial.rungs[budget] for trial in there])
        stopped = [k for k, t in enumerate(there) if t.state == "pruned" and max(t.rungs) == budget]
        assert all(ranks[k] > 0 for k in stopped)
    best = found.find(study(tmp_path), 0.3)
    assert {t.state for t in best.front} == {"complete"}
