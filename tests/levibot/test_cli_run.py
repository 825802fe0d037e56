"""Commands against a run: real HTTP servers that answer as ours does, and some that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from levibot.launch.run_record import RUN_ID_VARIABLE, RunRecord, write_record
from tests.levibot.conftest import Command

SIGNAL = {
    "symbol": "BTCUSDT",
    "as_of": "2024-01-02T03:00:00Z",
    "probability_up": 0.53,
    "expected_return": None,
    "target_position": -0.1,
    "model_version": "v1.0.0",
    "view_version": "abc",
    "feature_age_s": 12.5,
    "freshness": "FRESH",
    "source": "simulated",
    "served_from": "cache",
    "trace_id": "t",
}
READY = {"ready": True, "reasons": [], "model_version": "v1.0.0", "market_time": "2024-01-02T03:00:12Z"}
GARBAGE = [b"", b"<html>", b"[]", b"null", b'"ok"', b"\xff\xfe", b"{}", b'{"error": "x"}', b'{"error": {}}']

Api = Callable[[int, bytes], str]


def refusal(code: str, message: str) -> bytes:
    return json.dumps(
        {"error": {"code": code, "message": message, "hint": "Do it.", "trace_id": "t"}}
    ).encode()


@pytest.fixture
def api() -> Iterator[Api]:
    """Starts a server that gives one answer to everything; returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Say nothing: stderr is what the command says."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run_at(home: Path) -> Callable[[str], RunRecord]:
    """Notes a run of this very process that answers at an address."""

    def note(url: str) -> RunRecord:
        home.mkdir()
        me = psutil.Process()
        record = RunRecord("id", me.pid, me.create_time(), url, "http://d", "127.0.0.1:1", "simulated", "m")
        write_record(home, record)
        return record

    return note


def test_predict_shows_the_signal(levibot: Command, api: Api) -> None:
    url = api(200, json.dumps(SIGNAL).encode())
    assert levibot("predict", "btcusdt", "--url", url, "--json").json() == SIGNAL
    shown = levibot("predict", "btcusdt", "--url", url)
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[0] for line in shown.out.splitlines()] == list(SIGNAL)


def test_predict_asks_the_run_of_its_state_folder(
    levibot: Command, api: Api, run_at: Callable[[str], RunRecord]
) -> None:
    run_at(api(200, json.dumps(SIGNAL).encode()))
    assert levibot("predict", "BTCUSDT", "--json").json() == SIGNAL


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "our_code"),
    [
        (404, "unknown_symbol", 2, "unknown_symbol"),
        (422, "bad_request", 2, "usage"),
        (404, "not_found", 1, "not_ready"),  # the system is starting
        (408, "timeout", 1, "not_ready"),
        (503, "not_ready", 1, "not_ready"),
        (500, "internal", 1, "not_ready"),
    ],
)
def test_an_error_of_the_api_is_handed_on(
    levibot: Command, api: Api, status: int, code: str, exit_code: int, our_code: str
) -> None:
    failed = levibot("predict", "BTCUSDT", "--url", api(status, refusal(code, "It is so.")), "--json")
    assert failed.code == exit_code
    assert failed.json() == {"error": {"code": our_code, "message": "It is so.", "hint": "Do it."}}
    assert failed.error() == "It is so. Do it."


@pytest.mark.parametrize("status", [200, 404, 503])
@pytest.mark.parametrize("body", GARBAGE)
def test_an_answer_that_is_not_ours_is_no_signal(
    levibot: Command, api: Api, status: int, body: bytes
) -> None:
    failed = levibot("predict", "BTCUSDT", "--url", api(status, body))
    assert (failed.code, failed.out) == (1, "")
    assert "Is it LeviBot that runs there?" in failed.error()


def test_status_of_a_ready_run_is_exit_code_0(
    levibot: Command, api: Api, run_at: Callable[[str], RunRecord]
) -> None:
    record = run_at(api(200, json.dumps(READY).encode()))
    shown = levibot("status", "--json")
    assert (shown.code, shown.err) == (0, "")
    assert shown.json() == {
        "pid": record.pid,
        "http_url": record.http_url,
        "dashboard_url": "http://d",
        "source": "simulated",
        **READY,
    }


def test_reasons_are_shown_as_they_are(
    levibot: Command, api: Api, run_at: Callable[[str], RunRecord]
) -> None:
    reason = "BTCUSDT has no signal since [/bold] 2024 :smile: " + "x" * 200
    run_at(api(503, json.dumps(READY | {"ready": False, "reasons": [reason]}).encode()))
    shown = levibot("status")
    assert shown.code == 1
    assert f"reasons         ['{reason}']" in shown.out.splitlines()


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("body", [*GARBAGE, b'{"ready": "yes"}', refusal("not_found", "Nothing here.")])
def test_status_of_something_else_is_not_ready(
    levibot: Command, api: Api, run_at: Callable[[str], RunRecord], status: int, body: bytes
) -> None:
    run_at(api(status, body))
    shown = levibot("status", "--json")
    assert shown.code == 1
    assert shown.json()["ready"] is False
    (reason,) = shown.json()["reasons"]
    assert "not as LeviBot does" in reason or reason == "Nothing here."


def test_status_of_a_run_that_is_silent_says_so(levibot: Command, run_at: Callable[[str], RunRecord]) -> None:
    run_at("http://127.0.0.1:1")
    shown = levibot("status", "--json")
    assert shown.code == 1
    assert "http://127.0.0.1:1 does not answer" in shown.json()["reasons"][0]


def test_a_process_that_got_the_number_later_is_not_the_run(
    levibot: Command, home: Path, run_at: Callable[[str], RunRecord]
) -> None:
    record = run_at("http://127.0.0.1:1")
    write_record(home, replace(record, launched_at=record.launched_at - 60.0))
    failed = levibot("status")
    assert failed.code == 1
    assert failed.error().startswith(f"Nothing runs from {home}.")


SLEEPER = "import sys, time; print('up', flush=True); time.sleep(60)"


def test_down_stops_the_run_and_nothing_else(levibot: Command, home: Path) -> None:
    """A launcher that forgets its record at its end, as `up` does, beside a process of another run."""
    home.mkdir()
    with (
        subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) as launcher,
        subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) as other,
    ):
        try:
            assert launcher.stdout is not None
            launcher.stdout.readline()
            # The launcher is our child: without a parent that waits it would stay as a zombie.
            threading.Thread(target=launcher.wait, daemon=True).start()
            started = psutil.Process(launcher.pid).create_time()
            write_record(home, RunRecord("id", launcher.pid, started, "http://a", "http://d", "r", "s", "m"))
            stopped = levibot("down", "--json")
            assert (stopped.code, stopped.json()) == (0, {"stopped": launcher.pid})
            assert launcher.wait(5) == -15
            assert other.poll() is None
        finally:
            launcher.kill()
            other.kill()


@pytest.mark.stores
def test_down_ends_what_a_killed_launcher_left(levibot: Command, home: Path) -> None:
    home.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    record = RunRecord("left", gone.pid, 1.0, "http://a", "http://d", "r", "s", "m")
    write_record(home, record)
    command = [sys.executable, "-c", SLEEPER]
    environment = {**os.environ, RUN_ID_VARIABLE: record.run_id}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as left:
        try:
            assert left.stdout is not None
            left.stdout.readline()
            assert levibot("down").code == 0
            left.wait(5)
        finally:
            left.kill()
    assert not (home / "run.json").exists()
    assert levibot("down").code == 1


ORPHANS = """
import os, signal, sys
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
EmbeddedServers(Settings.load(home=sys.argv[1])).start()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.stores
def test_down_ends_the_stores_of_a_command_that_noted_no_run(levibot: Command, home: Path) -> None:
    subprocess.run([sys.executable, "-c", ORPHANS, str(home)], check=False, timeout=60)
    ended = levibot("down", "--json")
    assert (ended.code, ended.json()) == (0, {"stopped": None, "stores": ["redis", "postgres"]})
    assert levibot("down").code == 1
