"""An S3 over real HTTP: moto's server, in a process of its own that can be frozen. It keeps all in memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from levibot.stores.server_process import LOOPBACK, free_port

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0


class S3Server:
    """A moto server with one bucket. State: the child process."""

    bucket = "models"

    def __init__(self) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.s3_app", LOOPBACK, str(self.port)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        """Return when the server answers and has its bucket."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                httpx.put(f"http://{LOOPBACK}:{self.port}/{self.bucket}", trust_env=False).raise_for_status()
                return
            except httpx.TransportError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def environment(self, port: int | None = None) -> dict[str, str]:
        """The variables that lead an S3 client here, or to a forwarder on another port."""
        return {
            "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{port or self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ALLOW_HTTP": "true",
        }

    @property
    def pid(self) -> int:
        return self._process.pid

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
