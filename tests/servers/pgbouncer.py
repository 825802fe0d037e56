"""Debian's pgbouncer in transaction mode before a PostgreSQL."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

from levibot.stores.identity import unprivileged_identity
from levibot.stores.server_process import LOOPBACK, ServerProcess, free_port
from tests.servers.debian import debian_program

# Few server connections for many clients, as it is used: a session's state is somebody else's a moment later.
CONFIG = """\
[databases]
* = host={server_host} port={server_port}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = transaction
max_client_conn = 200
default_pool_size = 4
server_check_delay = 0
query_wait_timeout = 20
"""


class Pgbouncer:
    """One pgbouncer. State: the child process."""

    def __init__(self, folder: Path, server_dsn: str) -> None:
        self._folder = folder
        self._server = urlsplit(server_dsn)
        self._port = free_port()
        self._process: ServerProcess | None = None

    @property
    def dsn(self) -> str:
        """The server's DSN with this address in place of its own."""
        login = self._server.netloc.rsplit("@", 1)[0]
        return f"postgresql://{login}@{LOOPBACK}:{self._port}{self._server.path}"

    @property
    def process(self) -> ServerProcess:
        assert self._process is not None, "start comes first"
        return self._process

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        program = debian_program("pgbouncer")
        identity = unprivileged_identity(program, self._folder)
        config = CONFIG.format(
            server_host=self._server.hostname,
            server_port=self._server.port,
            host=LOOPBACK,
            port=self._port,
            folder=self._folder,
        )
        users = f'"{self._server.username}" "{self._server.password}"\n'
        for name, text in (("pgbouncer.ini", config), ("users.txt", users)):
            path = self._folder / name
            path.write_text(text)
            path.chmod(0o600)
            identity.own(path)
        command = [str(program), str(self._folder / "pgbouncer.ini")]
        self._process = ServerProcess.start("pgbouncer", command, self._folder / "pgbouncer.log", identity)
        self._process.wait_for(self._answers)

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.stop(by)
            self._process = None

    def _answers(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self._port), timeout=1.0).close()
        except OSError:
            return False
        return True
