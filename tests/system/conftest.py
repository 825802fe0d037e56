"""One whole system a session: started by the command line, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from levibot.access.run_key import FILE_NAME
from levibot.launch.run_record import RUN_ID_VARIABLE, RunRecord, processes_of, read_record
from levibot.serving.client import headers_with
from levibot.settings import Settings
from levibot.stores.embedded import endpoints

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class LiveSystem:
    """A `levibot up` process and what it says of itself."""

    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def record(self) -> RunRecord:
        record = read_record(self.home)
        assert record is not None
        return record

    @property
    def url(self) -> str:
        return self.record.http_url

    @property
    def settings(self) -> Settings:
        return Settings.load(home=self.home)

    def wait_until_ready(self) -> dict[str, Any]:
        """The line that says that the system is up."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line = json.loads(text)
            self.lines.append(line)
            if line.get("ready"):
                return line
        steps = [line for line in self.lines if "at" not in line]
        raise AssertionError(f"up ended with {self.process.wait()}: {steps}")

    def pid_of(self, name: str) -> int:
        """The process of an actor, a replica or a server, found among this run's own."""
        if name in ("redis", "postgres"):
            return self._server_pid(name)
        for pid in self.pids_of(name):
            return pid
        raise LookupError(f"no process {name} in this run")

    def pids_of(self, name: str) -> list[int]:
        """Every process of the run with this name in its command line."""
        found = []
        for process in processes_of(self.record.run_id):
            with suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    found.append(process.pid)
        return found

    def _server_pid(self, name: str) -> int:
        stores = endpoints(self.settings)
        url = stores.redis_url if name == "redis" else stores.postgres_dsn
        port = int(url.rpartition("@")[2].split(":")[1].split("/")[0])
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any(c.laddr.port == port for c in child.net_connections() if c.status == "LISTEN"):
                    return child.pid
            except psutil.NoSuchProcess:
                continue
        raise LookupError(f"no {name} listens on {port}")

    def command(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Another shell: the command line, with this system's state folder."""
        return subprocess.run(
            [sys.executable, "-m", "levibot", *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def in_second_shell(self, command: str) -> subprocess.Popen[str]:
        """A shell of another terminal, told of the run by the file that `up` wrote."""
        plain = {k: v for k, v in self.environment.items() if not k.startswith(("LEVIBOT_", "RAY_"))}
        return subprocess.Popen(
            ["/bin/sh", "-c", f". {self.home}/env.sh && exec {command}"],
            cwd=ROOT,
            env=plain,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def headers(self) -> dict[str, str]:
        """What a request of this system's own operator carries."""
        return headers_with((self.home / FILE_NAME).read_text())

    def predict(self, symbol: str = "BTCUSDT") -> httpx.Response:
        body = {"symbol": symbol}
        return httpx.post(f"{self.url}/ai/predict", json=body, headers=self.headers, timeout=30.0)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(STOP_TIMEOUT_S)
        self.close()
        return code

    def close(self) -> None:
        """Let go of the output of a process that has ended."""
        assert self.process.stdout is not None
        self.process.stdout.close()


def start_system(home: Path, **settings: str) -> LiveSystem:
    """`levibot up --json` on the simulated market, small enough to be trained in seconds."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LEVIBOT_", "RAY_"))},
        # Ray and its tools may write into HOME.
        "HOME": str(home.parent),
        "RAY_AUTH_MODE": "disabled",
        "LEVIBOT_HOME": str(home),
        "LEVIBOT_SYMBOLS": "BTCUSDT,ETHUSDT,SOLUSDT",
        "LEVIBOT_TRAIN_START": "2023-06-01T00:00:00",
        "LEVIBOT_REPLAY_START": "2024-01-01T00:00:00",
        "LEVIBOT_HTTP_PORT": str(free_port()),
        "LEVIBOT_DASHBOARD_PORT": str(free_port()),
        **settings,
    }
    with (home.parent / "up.err").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "levibot", "up", "--json"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            # A background job of a shell ignores Ctrl-C, and so would what it starts: here it must end `up`.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return LiveSystem(home, environment, process)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    """The session's system. A test may kill its parts, and leaves it whole."""
    live = start_system(tmp_path_factory.mktemp("system") / "home")
    try:
        live.wait_until_ready()
        yield live
    finally:
        if live.process.poll() is None:
            live.stop()


def wait_for(condition: Any, timeout_s: float, what: str) -> float:
    """Seconds until `condition()` is true."""
    started = time.monotonic()
    while time.monotonic() - started < timeout_s:
        if condition():
            return time.monotonic() - started
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {timeout_s:g} s")


def run_id_of(pid: int) -> str | None:
    """The run that a process belongs to."""
    try:
        return psutil.Process(pid).environ().get(RUN_ID_VARIABLE)
    except psutil.NoSuchProcess:
        return None
