"""What a run has started, so that exactly this can be ended, even after its launcher was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from levibot.errors import ProcessError

# Every process below Ray's head carries this variable; nothing else on the machine does.
RUN_ID_VARIABLE = "LEVIBOT_RUN_ID"
END_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: its launcher (`pid`, started at `launched_at`, epoch seconds) and where it answers."""

    run_id: str
    pid: int
    launched_at: float
    http_url: str
    dashboard_url: str
    ray_address: str
    source: str
    market_id: str

    @property
    def launcher(self) -> psutil.Process | None:
        """The launcher, if it still runs. A process that got its number later is not it."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.launched_at) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def record_path(home: Path) -> Path:
    return home / "run.json"


def write_record(home: Path, record: RunRecord) -> None:
    """Note the run; a reader sees the old record or the new one."""
    draft = record_path(home).with_suffix(".json.new")
    draft.write_text(json.dumps(asdict(record), indent=2))
    draft.replace(record_path(home))


def read_record(home: Path) -> RunRecord | None:
    """The last run of this state folder, None when there is none. Raises ProcessError on a broken record."""
    path = record_path(home)
    try:
        record = RunRecord(**json.loads(path.read_text()))
        for field in fields(record):
            if type(getattr(record, field.name)).__name__ != field.type:
                raise ValueError(f"its {field.name} is {getattr(record, field.name)!r}")
        if record.pid < 1:
            raise ValueError(f"its pid is {record.pid}")
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        raise ProcessError(f"{path} cannot be read: {exc}.", hint="Remove it and start again.") from exc


def forget_record(home: Path) -> None:
    record_path(home).unlink(missing_ok=True)


def ask_to_end(process: psutil.Process) -> None:
    """Send SIGTERM; a process that has ended meanwhile is fine. Raises ProcessError on somebody else's."""
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as exc:
        raise ProcessError(
            f"Process {process.pid} belongs to another user.", hint="Stop it as the user that started it."
        ) from exc


def processes_of(run_id: str) -> list[psutil.Process]:
    """Every process of a run but this one, told by the run's identity in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(RUN_ID_VARIABLE) == run_id:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # ended meanwhile, or somebody else's
    return found


def end_processes(processes: Iterable[psutil.Process], timeout_s: float = END_TIMEOUT_S) -> None:
    """Ask each process to end; force those that have not after `timeout_s`."""
    processes = list(processes)
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=timeout_s)
