"""One server process of ours: started, waited for, stopped, and swept when its launcher was killed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import psutil

from levibot.errors import ProcessError
from levibot.stores.identity import Identity

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02

# Below the range of which the kernel takes the ports of outgoing connections (from 32768 on Linux): a client
# that keeps trying the port of a dead server could otherwise be given that very port, connect to itself and
# keep the server from coming back. Above the range of Ray's workers (10002 to 19999).
FIRST_PORT, LAST_PORT = 20_000, 31_999


class ServerProcess:
    """A child process with its log. The launcher must call `stop`; a killed launcher leaves it running."""

    def __init__(self, name: str, child: subprocess.Popen[bytes], log: Path, log_start: int) -> None:
        self.name = name
        self._child = child
        self._log = log
        self._log_start = log_start

    @classmethod
    def start(cls, name: str, command: Sequence[str], log: Path, identity: Identity) -> Self:
        """Start `command`, its output appended to `log`. Raises ProcessError when it cannot be executed."""
        log.parent.mkdir(parents=True, exist_ok=True)
        # Opened here: the server's own user may not be able to reach the folder.
        with log.open("ab") as output:
            log_start = output.tell()
            try:
                child = subprocess.Popen(
                    [*identity.prefix, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env=server_environment(),
                    # A Ctrl-C in the terminal is for the launcher, which stops its servers in order.
                    start_new_session=True,
                    **identity.popen_options(),
                )
            except (OSError, subprocess.SubprocessError) as exc:
                raise ProcessError(
                    f"{name} cannot be executed: {exc}.", hint=f"Command: {command[0]}"
                ) from exc
        return cls(name, child, log, log_start)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_dead(self) -> bool:
        return self._child.poll() is not None

    def wait_for(self, answers: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when the server answers. Raises ProcessError when it ends or stays silent."""
        deadline = time.monotonic() + timeout_s
        while not self.is_dead:
            if answers():
                return
            if time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise ProcessError(
                    f"{self.name} did not answer in {timeout_s:g} s. Its last words: {self._last_words()}",
                    hint=f"Log: {self._log}",
                )
            time.sleep(POLL_S)
        raise ProcessError(
            f"{self.name} ended with code {self._child.returncode} at its start. "
            f"Its last words: {self._last_words()}",
            hint=f"Log: {self._log}",
        )

    def stop(self, by: signal.Signals, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the process by the signal `by`, and by SIGKILL after `timeout_s`."""
        if self.is_dead:
            return
        self._child.send_signal(by)
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "none")


def sweep(belongs: Callable[[list[str]], bool], stop_signal: signal.Signals) -> int:
    """End every process whose command line `belongs` to us: what a killed launcher or server left behind.

    Returns how many there were.
    The command line is the proof of identity that any user may read; pid files go stale and pids are reused.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if belongs(process.cmdline()):
                process.send_signal(stop_signal)
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    _, alive = psutil.wait_procs(found, timeout=STOP_TIMEOUT_S)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
    if alive:
        raise ProcessError(f"Process {alive[0].pid}, left by an earlier run, does not end.")
    return len(found)


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nobody listens on. Raises ProcessError when none is found in 100 draws."""
    for _ in range(100):
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT + 1)
        if is_free(port):
            return port
    raise ProcessError(f"No free port on {LOOPBACK} in 100 draws from {FIRST_PORT} to {LAST_PORT}.")


def server_environment() -> dict[str, str]:
    """What a server sees of the environment: nothing that changes its behaviour, like PGPORT."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "LC_ALL": "C", "TZ": "UTC"}
