"""The stores' addresses, and the embedded servers behind them where no production server is set.

A server's port and password are kept in `stores.json` of the state folder, so that clients of an earlier run
reconnect to the same address.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from levibot.errors import NotReady, ProcessError
from levibot.settings import Settings
from levibot.stores.postgres_server import PostgresServer
from levibot.stores.server_process import free_port, is_free
from levibot.stores.valkey_server import ValkeyServer

Server = ValkeyServer | PostgresServer


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the stores are. `clickhouse` is a URL, or `chdb://<folder>` for the engine in process.

    redis_url: for what must be kept; redis_cache_url: for what may be evicted, the same server by default.
    """

    redis_url: str
    redis_cache_url: str
    postgres_dsn: str
    clickhouse: str


@dataclass(frozen=True, slots=True)
class Address:
    """Port and password of one embedded server."""

    port: int
    password: str


def endpoints(settings: Settings) -> Endpoints:
    """The stores of a run: what is set, otherwise the embedded servers.

    Raises NotReady before their first start.
    """
    redis_url, postgres_dsn = settings.redis_url, settings.postgres_dsn
    if redis_url is None or postgres_dsn is None:
        path = stores_file(settings)
        known = _read_addresses(path)
        missing = [
            name
            for name, given in ((ValkeyServer.name, redis_url), (PostgresServer.name, postgres_dsn))
            if given is None and name not in known
        ]
        if missing:
            raise NotReady(
                f"The embedded {' and '.join(missing)} was never started: no address in {path}.",
                hint="Start it with `python -m levibot up`.",
            )
        servers = {name: _server(settings, name, address) for name, address in known.items()}
        redis_url = redis_url or _url(servers[ValkeyServer.name])
        postgres_dsn = postgres_dsn or _url(servers[PostgresServer.name])
    return Endpoints(
        redis_url,
        settings.redis_cache_url or redis_url,
        postgres_dsn,
        settings.clickhouse_url or f"chdb://{settings.home / 'clickhouse'}",
    )


def stores_file(settings: Settings) -> Path:
    return settings.home / "stores.json"


class EmbeddedServers:
    """Runs the embedded servers of one state folder. State: the child processes and the folder's lock.

    One launcher a state folder. Not safe to call from two threads at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: dict[str, Server] = {}
        self._lock = ExitStack()

    def start(self) -> Endpoints:
        """Start the servers that no setting replaces, and wait until each answers.

        A second call starts only what is dead. A server that a killed launcher left running is ended first.
        Raises ProcessError, with nothing left running, when a server does not start or the state folder is in
        use by another launcher.
        """
        if self._servers:
            self.restart_dead()
            return endpoints(self._settings)
        self._settings.home.mkdir(parents=True, exist_ok=True)
        self._lock.enter_context(_folder_lock(self._settings.home / "servers.lock"))
        try:
            self._servers = self._prepare()
            for server in self._servers.values():
                server.start()
            for server in self._servers.values():
                server.wait()
        except BaseException:
            self.stop()
            raise
        return endpoints(self._settings)

    def restart_dead(self) -> list[str]:
        """Start again each server whose process has ended, on its old port. Returns their names.

        They answer when this returns. Raises ProcessError when one does not; the next call tries again.
        """
        dead = {n: s for n, s in self._servers.items() if s.process is None or s.process.is_dead}
        for server in dead.values():
            server.sweep()
            server.start()
        for server in dead.values():
            server.wait()
        return list(dead)

    def stop(self) -> None:
        """End the servers in order, by force after a bound. Does nothing when none runs."""
        try:
            for server in self._servers.values():
                server.stop()
            for server in self._servers.values():
                server.sweep()
        finally:
            self._servers = {}
            self._lock.close()

    def end_leftovers(self) -> list[str]:
        """End the servers that a killed launcher left on this folder; returns their names.

        Raises ProcessError when the folder is in use by a launcher that lives.
        """
        known = _read_addresses(stores_file(self._settings))
        if not known:
            return []
        with _folder_lock(self._settings.home / "servers.lock"):
            return [name for name, at in known.items() if _server(self._settings, name, at).sweep()]

    def pids(self) -> dict[str, int]:
        """The process of each server that runs."""
        running = {n: s.process for n, s in self._servers.items() if s.process is not None}
        return {name: process.pid for name, process in running.items() if not process.is_dead}

    def _prepare(self) -> dict[str, Server]:
        """The servers with their addresses, which are written down before a server uses them."""
        path = stores_file(self._settings)
        known = _read_addresses(path)
        given = {
            ValkeyServer.name: self._settings.redis_url,
            PostgresServer.name: self._settings.postgres_dsn,
        }
        needed = [name for name, url in given.items() if url is None]
        addresses = dict(known)
        for name in needed:
            address = known.get(name) or Address(free_port(), secrets.token_urlsafe(24))
            # Before the look at the port, which an orphan of ours would still hold.
            _server(self._settings, name, address).sweep()
            addresses[name] = address if is_free(address.port) else replace(address, port=free_port())
        if addresses != known:
            _write_addresses(path, addresses)
        servers = {name: _server(self._settings, name, addresses[name]) for name in needed}
        postgres = servers.get(PostgresServer.name)
        if isinstance(postgres, PostgresServer) and PostgresServer.name not in known:
            postgres.reset_password()
        return servers


def _server(settings: Settings, name: str, address: Address) -> Server:
    logs = settings.home / "logs"
    if name == ValkeyServer.name:
        return ValkeyServer(settings.home / name, logs / "valkey.log", address.port, address.password)
    return PostgresServer(
        settings.home / name,
        logs / "postgres.log",
        address.port,
        address.password,
        pool_max=settings.postgres_pool_max,
    )


def _url(server: Server) -> str:
    return server.url if isinstance(server, ValkeyServer) else server.dsn


def _folder_lock(path: Path) -> ExitStack:
    """Hold the folder for this launcher; the kernel lets go when the process ends, however it ends."""
    held = ExitStack()
    lock = held.enter_context(path.open("a"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        held.close()
        raise ProcessError(
            f"The state folder {path.parent} is in use by another run.",
            hint="Stop that run first, or set LEVIBOT_HOME to another folder.",
        ) from exc
    return held


def _read_addresses(path: Path) -> dict[str, Address]:
    try:
        record = json.loads(path.read_text())
        return {name: Address(int(a["port"]), str(a["password"])) for name, a in record.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ProcessError(
            f"{path} cannot be read: {exc}.", hint="Run as the user that started the servers."
        ) from exc


def _write_addresses(path: Path, addresses: dict[str, Address]) -> None:
    record = {name: {"port": a.port, "password": a.password} for name, a in addresses.items()}
    draft = path.with_suffix(".json.new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(record, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
