"""A cluster outlives its helpers, over programs that only sleep. The real ones are killed in tests/system."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from levibot.launch import head_processes
from levibot.launch.head_processes import HeadProcesses
from levibot.launch.run_record import RUN_ID_VARIABLE, processes_of

SLEEPS = "import time\ntime.sleep(600)\n"


@pytest.fixture
def run_id(tmp_path: Path) -> Iterator[str]:
    """A run whose starter has ended: two programs that are the cluster, and a dashboard with a child."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    for name in ("gcs_server", "raylet"):
        shutil.copy(sleep, tmp_path / name)
    child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {SLEEPS!r}])\n"
    (tmp_path / "dashboard.py").write_text(child + SLEEPS)
    run_id = secrets.token_hex(8)
    script = f"./gcs_server 600 & ./raylet 600 & {sys.executable} -u dashboard.py & sleep 1"
    subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, env={**os.environ, RUN_ID_VARIABLE: run_id}, check=True
    )
    yield run_id
    HeadProcesses(run_id).end()


def named(run_id: str, name: str) -> psutil.Process:
    (found,) = [one for one in processes_of(run_id) if any(name in word for word in one.cmdline()[:3])]
    return found


def test_a_dead_helper_is_started_again_as_it_was_and_the_cluster_runs_on(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = HeadProcesses.of_run(run_id)
    assert head.is_running
    assert head.restart_dead() == []
    dead = named(run_id, "dashboard.py")
    command = dead.cmdline()
    monkeypatch.chdir(tmp_path)
    dead.kill()
    psutil.wait_procs([dead], 10.0)

    assert head.is_running
    assert head.restart_dead() == ["dashboard"]
    again = named(run_id, "dashboard.py")
    assert (again.cmdline(), again.pid == dead.pid) == (command, False)
    # One that ends at once is not started without end.
    again.kill()
    psutil.wait_procs([again], 10.0)
    assert head.restart_dead() == []
    monkeypatch.setattr(head_processes, "PAUSE_S", 0.0)
    assert head.restart_dead() == ["dashboard"]

    head.end()
    assert processes_of(run_id) == []


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_without_a_part_of_its_own_the_cluster_is_gone(run_id: str, name: str) -> None:
    head = HeadProcesses.of_run(run_id)
    dead = named(run_id, name)
    dead.kill()
    psutil.wait_procs([dead], 10.0)

    assert not head.is_running
    assert head.restart_dead() == []
