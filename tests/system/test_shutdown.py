"""How a run ends and begins again. The last file of this folder: it ends the session's system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from levibot.launch.run_record import processes_of, read_record

from .conftest import LiveSystem, start_system, wait_for

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.stores]


@pytest.fixture
def stranger() -> subprocess.Popen[bytes]:
    """A process that is not ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def listeners(system: LiveSystem) -> list[int]:
    return [system.pid_of("redis"), system.pid_of("postgres")]


def test_an_interrupt_stops_all_that_was_started_and_nothing_else(
    system: LiveSystem, stranger: subprocess.Popen[bytes]
) -> None:
    run_id, servers = system.record.run_id, listeners(system)

    assert system.stop() == 0

    assert processes_of(run_id) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in servers)
    assert read_record(system.home) is None
    assert stranger.poll() is None


def test_a_second_run_goes_on_with_what_is_stored(system: LiveSystem) -> None:
    ended = system.lines[-1]["answer"]
    port = system.environment["LEVIBOT_HTTP_PORT"]
    dashboard = system.environment["LEVIBOT_DASHBOARD_PORT"]
    again = start_system(system.home, LEVIBOT_HTTP_PORT=port, LEVIBOT_DASHBOARD_PORT=dashboard)
    try:
        answer = again.wait_until_ready()["answer"]

        assert answer["model_version"] >= ended["model_version"]
        assert datetime.fromisoformat(answer["as_of"]) > datetime.fromisoformat(ended["as_of"])
        assert "Training a model" not in {line.get("step") for line in again.lines}

        # Its launcher killed: what it left is found by the run's identity, and ended.
        run_id, servers = again.record.run_id, listeners(again)
        os.kill(again.process.pid, signal.SIGKILL)
        again.process.wait()
        again.close()
        down = again.command("down")

        assert down.returncode == 0, down.stderr
        wait_for(lambda: processes_of(run_id) == [], 10, "the end of the run")
        assert not any(Path(f"/proc/{pid}").exists() for pid in servers)
    finally:
        if again.process.poll() is None:
            again.stop()


def test_down_says_that_nothing_runs(system: LiveSystem) -> None:
    nothing = system.command("down")

    assert nothing.returncode == 1
    assert "Nothing runs" in nothing.stderr
