"""Single Redis servers for tests: the embedded valkey, or Debian's Redis 7.0, with any configuration."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from levibot.stores.identity import Identity
from levibot.stores.server_process import LOOPBACK, ServerProcess, free_port
from levibot.stores.valkey_server import valkey_program
from tests.servers.debian import debian_program

PASSWORD = "a-password-of-tests"


@dataclass(frozen=True, slots=True)
class RedisPrograms:
    """What runs a data node, and what runs a Sentinel."""

    name: str
    server: tuple[str, ...]
    sentinel: tuple[str, ...]


def redis_programs(name: str) -> RedisPrograms:
    """The programs of `valkey` (pip) or `debian` (apt; skips where it is not installed)."""
    if name == "valkey":
        program = str(valkey_program())
        return RedisPrograms(name, (program,), (program,))
    return RedisPrograms(
        name, (str(debian_program("redis-server")),), (str(debian_program("redis-sentinel")),)
    )


@dataclass(slots=True)
class RedisNode:
    """One server on a folder and port of its own. State: its process.

    config: the text of its own configuration file; address, folder and password are added.
    """

    programs: RedisPrograms
    folder: Path
    config: str = ""
    port: int = field(default_factory=free_port)
    process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None, "start comes first"
        return self.process.pid

    def start(self) -> None:
        """Start on the configuration as it was left, and return when the server answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "node.conf"
        if not path.exists():
            own = f'bind {LOOPBACK}\nport {self.port}\ndir "{self.folder}"\n'
            login = f'requirepass "{PASSWORD}"\nmasterauth "{PASSWORD}"\n'
            path.write_text(self.config + own + login)
        log = self.folder / "node.log"
        self.process = ServerProcess.start("redis", [*self.programs.server, str(path)], log, Identity())

    def wait(self) -> None:
        assert self.process is not None, "launch comes first"
        self.process.wait_for(lambda: is_up(self.port, PASSWORD))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.process is not None
        self.process.stop(signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(signal.SIGKILL)

    def client(self, **options: float) -> redis.Redis:
        """A plain client past ours, to look at the server from outside."""
        return plain_client(self.port, PASSWORD, **options)


def plain_client(port: int, password: str, timeout_s: float = 5.0) -> redis.Redis:
    return redis.Redis(
        host=LOOPBACK,
        port=port,
        password=password,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )


def is_up(port: int, password: str) -> bool:
    with plain_client(port, password, timeout_s=1.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
