"""A network that can be cut: a namespace at one end of a virtual cable, with a server behind the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from levibot.stores.identity import bounding_set
from levibot.stores.server_process import free_port

ROOT = Path(__file__).resolve().parents[2]
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
# Of the block that is set aside for tests of networks (RFC 2544).
NEAR, FAR = "198.18.77.1", "198.18.77.2"


class Cable:
    """The cable, and the forwarder at its near end. Skips the test where the machine does not allow it.

    prefix: the command that starts a process at the far end. State: the namespace and the forwarder.
    """

    def __init__(self, target_port: int) -> None:
        ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if ip is None:
            pytest.skip("no network can be cut here: iproute2 is not installed")
        held = bounding_set()
        if not (held >> CAP_NET_ADMIN & 1 and held >> CAP_SYS_ADMIN & 1):
            pytest.skip("no network can be cut here: CAP_NET_ADMIN and CAP_SYS_ADMIN are not held")
        self._ip = ip
        self.port = free_port()
        self._name = f"levi{self.port}"
        self.prefix = (ip, "netns", "exec", self._name)
        self._target_port = target_port
        self._forwarder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Cable:
        try:
            self._run("netns", "add", self._name)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no network can be cut here: {exc.stderr.strip()}")
        try:
            near, far = f"{self._name}a", f"{self._name}b"
            self._run("link", "add", near, "type", "veth", "peer", "name", far, "netns", self._name)
            self._run("address", "add", f"{NEAR}/30", "dev", near)
            self._run("link", "set", near, "up")
            self._run("-n", self._name, "address", "add", f"{FAR}/30", "dev", far)
            self._run("-n", self._name, "link", "set", far, "up")
            self._run("-n", self._name, "link", "set", "lo", "up")
            self._forwarder = start_forwarder(NEAR, self.port, self._target_port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._forwarder is not None:
            end(self._forwarder)
        # Its end of the cable goes with it, and so does the other one.
        self._run("netns", "delete", self._name)

    def cut(self) -> None:
        self._run("link", "set", f"{self._name}a", "down")

    def mend(self) -> None:
        self._run("link", "set", f"{self._name}a", "up")

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, text=True)


def start_forwarder(host: str, port: int, target_port: int) -> subprocess.Popen[str]:
    """A forwarder that listens."""
    command = [sys.executable, "-m", "tests.servers.forwarder", host, str(port), str(target_port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
