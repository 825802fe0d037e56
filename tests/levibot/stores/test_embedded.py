"""The embedded servers: real processes, killed, orphaned, locked out and restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
import redis

from levibot.errors import NotReady, ProcessError
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers, Endpoints, endpoints

pytestmark = pytest.mark.stores


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """Servers of this test alone, to be killed at will."""
    servers = EmbeddedServers(Settings.load(home=tmp_path / "home"))
    yield servers
    servers.stop()


async def write(at: Endpoints, value: int) -> None:
    """Write one acknowledged value to each server."""
    with redis.Redis.from_url(at.redis_url) as client:
        client.set("value", value)
    db = await asyncpg.connect(at.postgres_dsn)
    await db.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
    await db.execute("INSERT INTO kept VALUES ($1)", value)
    await db.close()


async def read(at: Endpoints) -> tuple[int, int]:
    with redis.Redis.from_url(at.redis_url) as client:
        in_redis = client.get("value")
    db = await asyncpg.connect(at.postgres_dsn)
    in_postgres = await db.fetchval("SELECT max(value) FROM kept")
    await db.close()
    assert isinstance(in_redis, bytes)
    return int(in_redis), in_postgres


async def test_a_restart_keeps_data_and_addresses(own: EmbeddedServers) -> None:
    before = own.start()
    await write(before, 41)
    own.stop()
    after = own.start()
    assert after == before
    assert await read(after) == (41, 41)


async def test_killed_servers_come_back_with_every_acknowledged_write(own: EmbeddedServers) -> None:
    at = own.start()
    pids = own.pids()
    session = await asyncpg.connect(at.postgres_dsn)  # its backend outlives the killed server for a moment
    for value in range(20):
        await write(at, value)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
        psutil.Process(pid).wait(5)
    assert own.pids() == {}
    assert sorted(own.restart_dead()) == ["postgres", "redis"]
    assert await read(at) == (19, 19)
    assert own.restart_dead() == []
    session.terminate()


def test_a_second_start_changes_nothing(servers: EmbeddedServers) -> None:
    at, pids = servers.start(), servers.pids()
    assert servers.start() == at
    assert servers.pids() == pids
    assert servers.restart_dead() == []


async def test_a_port_taken_by_a_stranger_is_given_up(own: EmbeddedServers) -> None:
    before = own.start()
    await write(before, 7)
    own.stop()
    port = urlsplit(before.postgres_dsn).port
    with socket.create_server(("127.0.0.1", port)):
        after = own.start()
        assert after.postgres_dsn != before.postgres_dsn
        assert after.redis_url == before.redis_url
        assert await read(after) == (7, 7)


def test_servers_listen_on_loopback_only(servers: EmbeddedServers) -> None:
    at = servers.start()
    # Of the whole machine: in a container root may not look into the sockets of another user's process.
    tcp, unix = psutil.net_connections("tcp"), psutil.net_connections("unix")
    for port in (urlsplit(at.redis_url).port, urlsplit(at.postgres_dsn).port):
        listening = [s.laddr.ip for s in tcp if s.status == psutil.CONN_LISTEN and s.laddr.port == port]
        assert listening == ["127.0.0.1"]
        assert not any(str(port) in s.laddr for s in unix)


async def test_no_password_no_entry(servers: EmbeddedServers) -> None:
    at = servers.start()
    with redis.Redis(port=urlsplit(at.redis_url).port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    address = at.postgres_dsn.rsplit("@", 1)[1]
    for login in ("levibot:wrong", "postgres:", "postgres:postgres"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"postgresql://{login}@{address}")


def test_passwords_are_shown_to_no_other_user(servers: EmbeddedServers, settings_home: Path) -> None:
    at = servers.start()
    secrets = [urlsplit(url).password or "" for url in (at.redis_url, at.postgres_dsn)]
    assert all(len(secret) >= 32 for secret in secrets)
    for process in psutil.process_iter():
        try:
            shown = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert not any(secret in shown for secret in secrets)
    for name in ("stores.json", "redis/valkey.conf"):
        assert stat.S_IMODE((settings_home / name).stat().st_mode) == 0o600
    logs = "".join(log.read_text() for log in (settings_home / "logs").iterdir())
    assert not any(secret in logs for secret in secrets)


async def test_the_role_is_no_superuser(postgres_dsn: str) -> None:
    db = await asyncpg.connect(postgres_dsn)
    role = await db.fetchrow("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user")
    await db.close()
    assert tuple(role) == (False, True)


async def test_stop_leaves_no_process(own: EmbeddedServers) -> None:
    at = own.start()
    open_session = await asyncpg.connect(at.postgres_dsn)
    family = [psutil.Process(pid) for pid in own.pids().values()]
    family += [child for process in family for child in process.children(recursive=True)]
    assert len(family) > 2
    own.stop()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert own.pids() == {}
    open_session.terminate()


ORPHAN = """
import os, signal, sys
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
servers = EmbeddedServers(Settings.load(home=sys.argv[1]))
servers.start()
print(*servers.pids().values(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("addresses", ["known", "lost"])
async def test_servers_of_a_killed_launcher_are_replaced(
    own: EmbeddedServers, tmp_path: Path, addresses: str
) -> None:
    command = [sys.executable, "-c", ORPHAN, str(tmp_path / "home")]
    launcher = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(launcher.communicate(), 60)
    orphans = [psutil.Process(int(pid)) for pid in said.split()]
    assert len(orphans) == 2
    settings = Settings.load(home=tmp_path / "home")
    await write(endpoints(settings), 5)
    before = endpoints(settings)
    if addresses == "lost":
        (tmp_path / "home" / "stores.json").unlink()
    at = own.start()
    assert (at == before) == (addresses == "known")
    assert await read(at) == (5, 5)
    assert not any(orphan.is_running() for orphan in orphans)


def test_one_launcher_a_state_folder(servers: EmbeddedServers, settings_home: Path) -> None:
    pids = servers.pids()
    second = EmbeddedServers(Settings.load(home=settings_home))
    with pytest.raises(ProcessError, match="in use by another run"):
        second.start()
    second.stop()
    assert servers.pids() == pids
    assert servers.restart_dead() == []


def test_a_failed_start_tells_the_last_words_and_leaves_nothing(own: EmbeddedServers, tmp_path: Path) -> None:
    own.start()
    own.stop()
    broken = tmp_path / "home" / "postgres" / "global" / "pg_control"
    broken.write_bytes(b"")
    with pytest.raises(ProcessError, match=r"pg_control.*Log: .*postgres\.log"):
        own.start()
    assert own.pids() == {}


def test_nothing_is_started_where_both_servers_are_given(tmp_path: Path) -> None:
    given = {
        "redis_url": "redis://r:1/0",
        "postgres_dsn": "postgresql://p:2/x",
        "clickhouse_url": "http://c:3",
    }
    servers = EmbeddedServers(Settings.load(home=tmp_path, **given))
    assert servers.start() == Endpoints("redis://r:1/0", "redis://r:1/0", "postgresql://p:2/x", "http://c:3")
    assert servers.pids() == {}
    servers.stop()


def test_before_the_first_start_the_addresses_are_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="python -m levibot up"):
        endpoints(Settings.load(home=tmp_path))


def test_the_cache_has_a_server_of_its_own_where_one_is_given(tmp_path: Path) -> None:
    given = {"redis_url": "redis://r:1/0", "postgres_dsn": "postgresql://p:2/x"}
    at = endpoints(Settings.load(home=tmp_path, redis_cache_url="redis://c:4/0", **given))
    assert (at.redis_url, at.redis_cache_url) == ("redis://r:1/0", "redis://c:4/0")
