"""The whole system, started by the command line, for as long as something is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from levibot.access.run_key import FILE_NAME
from levibot.serving.client import headers_with
from levibot.stores.server_process import free_port

ROOT = Path(__file__).parents[1]
STOP_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class RunningSystem:
    """Where it answers, and what a request of its operator carries."""

    url: str
    headers: dict[str, str]


@contextmanager
def running_system(home: Path, **settings: str) -> Iterator[RunningSystem]:
    """A system that is up and serves signals; it is ended in order with the block.

    home: its state folder, which may hold events already; its parent is HOME for what it starts.
    settings: further variables of its environment. Raises RuntimeError when it does not come up.
    """
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LEVIBOT_", "RAY_"))},
        "HOME": str(home.parent),
        "RAY_AUTH_MODE": "disabled",
        "LEVIBOT_HOME": str(home),
        # What the model has learned is of no matter here.
        "LEVIBOT_TRAIN_START": "2023-10-01T00:00:00",
        "LEVIBOT_REPLAY_START": "2024-01-01T00:00:00",
        "LEVIBOT_HTTP_PORT": str(free_port()),
        "LEVIBOT_DASHBOARD_PORT": str(free_port()),
        # What is measured is the system and not its limit.
        "LEVIBOT_RATE_LIMIT_PER_S": "100000",
        "LEVIBOT_RATE_LIMIT_BURST": "100000",
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
            # A background job of a shell ignores Ctrl-C, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    assert process.stdout is not None
    try:
        line = ""
        for line in process.stdout:
            if json.loads(line).get("ready"):
                break
        else:
            raise RuntimeError(f"up ended with {process.wait()}: {line}")
        url = f"http://127.0.0.1:{environment['LEVIBOT_HTTP_PORT']}"
        yield RunningSystem(url, headers_with((home / FILE_NAME).read_text()))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_TIMEOUT_S)
        process.stdout.close()
