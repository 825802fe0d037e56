"""What a run has started is told apart from everything else on the machine."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from levibot.errors import ProcessError
from levibot.launch.run_record import (
    RUN_ID_VARIABLE,
    RunRecord,
    ask_to_end,
    end_processes,
    forget_record,
    processes_of,
    read_record,
    record_path,
    write_record,
)

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER

Starter = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Starter]:
    """Starts a real process that carries a run's identity; all are ended after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(run_id: str | None, code: str = SLEEPER) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != RUN_ID_VARIABLE}
        if run_id is not None:
            environment[RUN_ID_VARIABLE] = run_id
        child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        started.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def record() -> RunRecord:
    """A run of this very process."""
    me = psutil.Process()
    return RunRecord("id", me.pid, me.create_time(), "http://a", "http://d", "127.0.0.1:1", "simulated", "m")


def test_a_record_comes_back_as_written(tmp_path: Path, record: RunRecord) -> None:
    assert read_record(tmp_path) is None
    write_record(tmp_path, replace(record, run_id="older"))
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    forget_record(tmp_path)
    forget_record(tmp_path)
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "7"},
        {"pid": -1},
        {"pid": 0},
        {"pid": True},
        {"pid": 1.5},
        {"launched_at": None},
        {"launched_at": "now"},
        {"http_url": 8000},
        {"run_id": None},
        {"more": 1},
    ],
)
def test_a_record_with_a_wrong_field_is_refused(
    tmp_path: Path, record: RunRecord, change: dict[str, Any]
) -> None:
    record_path(tmp_path).write_text(json.dumps(asdict(record) | change))
    with pytest.raises(ProcessError, match=r"run\.json cannot be read: .*Remove it and start again"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000])
def test_a_record_that_is_no_record_is_refused(tmp_path: Path, text: bytes) -> None:
    record_path(tmp_path).write_bytes(text)
    with pytest.raises(ProcessError, match=r"run\.json cannot be read"):
        read_record(tmp_path)


def test_a_folder_in_place_of_the_record_is_refused(tmp_path: Path) -> None:
    record_path(tmp_path).mkdir()
    with pytest.raises(ProcessError, match=r"run\.json cannot be read"):
        read_record(tmp_path)


def test_the_launcher_is_the_process_that_wrote_the_record(record: RunRecord) -> None:
    assert record.launcher == psutil.Process()


@pytest.mark.parametrize("seconds", [-3600.0, -2.0, 2.0])
def test_a_process_that_got_the_number_later_is_not_the_launcher(record: RunRecord, seconds: float) -> None:
    assert replace(record, launched_at=record.launched_at + seconds).launcher is None


@pytest.mark.parametrize("pid", [2**22 + 1, 10**30])
def test_a_number_that_nobody_has_is_no_launcher(record: RunRecord, pid: int) -> None:
    assert replace(record, pid=pid).launcher is None


def test_a_launcher_that_ended_is_gone_before_it_is_collected(start: Starter, record: RunRecord) -> None:
    child = start("id")
    ended = replace(record, pid=child.pid, launched_at=psutil.Process(child.pid).create_time())
    assert ended.launcher is not None
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    assert ended.launcher is None


def test_exactly_the_processes_of_the_run_are_found_and_ended(start: Starter) -> None:
    run_id = secrets.token_hex(8)
    mine, stubborn = start(run_id), start(run_id, STUBBORN)
    others = [start(run_id + "0"), start(run_id[:-1]), start("other"), start(None)]
    found = processes_of(run_id)
    assert {process.pid for process in found} == {mine.pid, stubborn.pid}
    end_processes(found, timeout_s=0.5)
    assert processes_of(run_id) == []
    assert not any(psutil.pid_exists(child.pid) for child in (mine, stubborn))
    assert [child.poll() for child in others] == [None] * 4


def test_this_process_is_never_among_those_to_end(start: Starter) -> None:
    # The environment of a process is what it was started with: a child looks for its own run.
    code = """
import sys
from levibot.launch.run_record import processes_of
print([process.pid for process in processes_of(sys.argv[1])])
"""
    run_id = secrets.token_hex(8)
    sibling = start(run_id)
    done = subprocess.run(
        [sys.executable, "-c", code, run_id],
        env={**os.environ, RUN_ID_VARIABLE: run_id},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == [sibling.pid]


def test_ending_what_has_ended_is_no_error(start: Starter) -> None:
    child = start("id")
    process = psutil.Process(child.pid)
    child.kill()
    child.wait()
    end_processes([process])
    ask_to_end(process)
    end_processes([])
