"""Locust beside a system that runs, for as long as it is asked, and what it saw."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.load.verdict import Seen, read

Way = Literal["hot", "cold"]
USERS = Path(__file__).with_name("locustfile.py")
# Of the requests that are under way when time is up.
STOP_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who is asked, and with which key. redis_url: of the cache, whose signals the cold way takes away."""

    url: str
    key_file: Path
    symbols: Sequence[str]
    redis_url: str

    def run(self, rate_per_s: int, seconds: int, way: Way) -> Seen:
        """One user for each request a second. Raises RuntimeError where Locust does not run."""
        with tempfile.TemporaryDirectory() as folder:
            statistics = Path(folder) / "statistics"
            command = [
                *(sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", str(USERS)),
                *("--host", self.url, "--key-file", str(self.key_file), "--symbols", ",".join(self.symbols)),
                *("--users", str(rate_per_s), "--spawn-rate", str(rate_per_s), "--run-time", f"{seconds}s"),
                *("--stop-timeout", str(STOP_TIMEOUT_S), "--exit-code-on-error", "0"),
                *("--json-file", str(statistics)),
            ]
            if way == "cold":
                command += ["--cold-redis", self.redis_url]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode:
                raise RuntimeError(f"Locust ended with {ran.returncode}: {ran.stderr[-2000:]}")
            seen = read(statistics.with_suffix(".json"))
        if seen.failed:
            # Which requests failed, and how: its summary ends with that.
            sys.stderr.write(ran.stderr[-4000:] + ran.stdout[-4000:] + "\n")
        return seen
