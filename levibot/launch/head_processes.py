"""What `ray start` leaves running: two processes that are the cluster, and helpers that may come and go."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from levibot.launch.run_record import end_processes, processes_of

# With one of these the cluster's actors are gone, and nothing brings them back.
ESSENTIAL = frozenset({"gcs_server", "raylet"})
END_TIMEOUT_S = 10.0
# From one start of a helper to the next: one that ends at once must not be started without end.
PAUSE_S = 5.0


@dataclass
class _Helper:
    """A dashboard, log monitor or the like: how it was started, and what runs of it now."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: psutil.Process
    started_at: float = 0.0


@dataclass
class HeadProcesses:
    """The processes of a head, watched and ended by their own handles.

    `ray start --block` would watch them too; but it ends the cluster when any of them dies, and with that all
    that is served.
    """

    run_id: str
    _essential: dict[str, psutil.Process] = field(default_factory=dict)
    _helpers: list[_Helper] = field(default_factory=list)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def of_run(cls, run_id: str) -> Self:
        """Those whose parent, `ray start`, has ended. Other processes of the run are below one of them."""
        found = processes_of(run_id)
        own = {process.pid for process in found}
        head = cls(run_id)
        for process in found:
            try:
                if process.ppid() in own:
                    continue
                if process.name() in ESSENTIAL:
                    head._essential[process.name()] = process
                else:
                    command = process.cmdline()
                    head._helpers.append(_Helper(_name(command), command, process.environ(), process))
            except psutil.NoSuchProcess:
                continue
        return head

    @property
    def is_running(self) -> bool:
        """Whether the cluster is there; its helpers may be dead."""
        return self._essential.keys() == ESSENTIAL and all(map(_is_alive, self._essential.values()))

    def restart_dead(self) -> list[str]:
        """Start dead helpers again with the words that Ray started them with; returns their names."""
        now, names = time.monotonic(), []
        self._started = [child for child in self._started if child.poll() is None]
        for helper in self._helpers:
            if _is_alive(helper.process) or now < helper.started_at + PAUSE_S:
                continue
            # Its output goes to the files that its words name.
            child = subprocess.Popen(
                helper.command,
                env=helper.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._started.append(child)
            helper.process, helper.started_at = psutil.Process(child.pid), now
            names.append(helper.name)
        return names

    def end(self) -> None:
        """End the cluster: the raylet first, which takes its workers along, then what is left of the run."""
        raylet = self._essential.get("raylet")
        end_processes([] if raylet is None else [raylet], END_TIMEOUT_S)
        end_processes(processes_of(self.run_id))
        for child in self._started:
            child.wait()


def _name(command: list[str]) -> str:
    """The script or module that a Python runs."""
    words = [word for word in command[1:] if not word.startswith("-")]
    return Path(words[0] if words else command[0]).name.removesuffix(".py")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
