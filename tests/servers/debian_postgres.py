"""Debian's PostgreSQL 15 on a folder and a port of its own: alone, or as a primary and its replica."""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from levibot.stores.identity import Identity, unprivileged_identity
from levibot.stores.server_process import LOOPBACK, ServerProcess, free_port, server_environment
from tests.servers.debian import debian_program

BIN = "/usr/lib/postgresql/15/bin"
PREPARE_TIMEOUT_S = 60.0
CONFIG = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 60
shared_buffers = 32MB
fsync = off
wal_level = replica
hot_standby = on
timezone = 'UTC'
"""
ACCESS = f"""\
host all all {LOOPBACK}/32 scram-sha-256
host replication all {LOOPBACK}/32 scram-sha-256
"""


class DebianPostgres:
    """One server. State: the child process. Nothing is made before `create` or `replica_of`."""

    def __init__(self, folder: Path, password: str) -> None:
        self._folder = folder / "data"
        self._log = folder / "postgres.log"
        self._password = password
        self._port = free_port()
        self._process: ServerProcess | None = None

    @classmethod
    def create(cls, folder: Path) -> DebianPostgres:
        """A new server with the role `levibot`, which may make databases; it is not started."""
        server = cls(folder, secrets.token_urlsafe(16))
        server._folder.mkdir(mode=0o700)
        identity = server._identity()
        identity.own(server._folder)
        server._run("initdb", "-D", str(server._folder), "-U", "postgres", "--auth=reject", "--encoding=UTF8")
        server._configure()
        statements = (
            f"CREATE ROLE levibot LOGIN CREATEDB REPLICATION PASSWORD '{server._password}';\n\n"
            "GRANT pg_monitor TO levibot;\n\nCREATE DATABASE levibot OWNER levibot;\n\n"
        )
        server._run("postgres", "--single", "-j", "-D", str(server._folder), "postgres", stdin=statements)
        return server

    @classmethod
    def replica_of(cls, primary: DebianPostgres, folder: Path) -> DebianPostgres:
        """A streaming replica of a running server; it is not started."""
        server = cls(folder, primary._password)
        server._folder.mkdir(mode=0o700)
        server._identity().own(server._folder)
        # -R writes the primary's address into the copy, and the mark that makes a server a replica.
        source = primary.dsn + "?application_name=replica"
        copy = ["-D", str(server._folder), "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync"]
        server._run("pg_basebackup", *copy)
        server._configure()
        return server

    @property
    def dsn(self) -> str:
        return f"postgresql://levibot:{self._password}@{LOOPBACK}:{self._port}/levibot"

    @property
    def process(self) -> ServerProcess:
        assert self._process is not None, "start comes first"
        return self._process

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        program = debian_program("postgres", BIN)
        command = [str(program), "-D", str(self._folder)]
        self._process = ServerProcess.start("postgres", command, self._log, self._identity())
        self._process.wait_for(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGINT)
            self._process = None

    def _answers(self) -> bool:
        try:
            lines = (self._folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"

    def _configure(self) -> None:
        config = CONFIG.format(host=LOOPBACK, port=self._port)
        for name, text in (("postgresql.conf", config), ("pg_hba.conf", ACCESS)):
            (self._folder / name).write_text(text)
            self._identity().own(self._folder / name)

    def _identity(self) -> Identity:
        return unprivileged_identity(debian_program("postgres", BIN), self._folder)

    def _run(self, program: str, *arguments: str, stdin: str = "") -> None:
        identity = self._identity()
        command: Sequence[str] = [*identity.prefix, str(debian_program(program, BIN)), *arguments]
        done = subprocess.run(
            command,
            input=stdin,
            cwd="/",
            env=server_environment(),
            capture_output=True,
            text=True,
            timeout=PREPARE_TIMEOUT_S,
            check=False,
            **identity.popen_options(),
        )
        # The single-user server tells of a failed statement only here.
        failed = done.returncode != 0 or any(word in done.stderr for word in ("ERROR:", "FATAL:", "PANIC:"))
        assert not failed, f"{program}: {done.stderr}"
