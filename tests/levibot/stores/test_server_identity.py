"""PostgreSQL under root, below a closed home and under an ordinary user: real processes and permissions."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from levibot.errors import ProcessError
from levibot.settings import Settings
from levibot.stores import identity, postgres_server
from levibot.stores.embedded import EmbeddedServers

pytestmark = [
    pytest.mark.stores,
    pytest.mark.skipif(
        os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="needs root on Linux"
    ),
]

ORDINARY_UID = pwd.getpwnam("daemon").pw_uid  # initdb insists on a user with a name
NO_REDIS = {"redis_url": "redis://unused"}


@pytest.fixture
def closed_home() -> Iterator[Path]:
    """A folder that only root may enter, below one that everybody may."""
    folder = Path("/tmp") / f"levibot-closed-{os.getpid()}"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A folder of the ordinary user that everybody may enter (pytest's own are closed)."""
    folder = Path("/tmp") / f"levibot-open-{os.getpid()}"
    folder.mkdir(mode=0o755)
    os.chown(folder, ORDINARY_UID, ORDINARY_UID)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def closed_programs(closed_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the programs, with the libraries beside them, in the closed home."""
    wheel = postgres_server.postgres_programs().parents[1]
    for name in (wheel.name, wheel.name + ".libs"):
        shutil.copytree(wheel.with_name(name), closed_home / "venv" / name)
    programs = closed_home / "venv" / wheel.name / "pginstall" / "bin"
    monkeypatch.setattr(postgres_server, "postgres_programs", lambda: programs)
    return programs


async def check_it_serves(servers: EmbeddedServers) -> None:
    """Start, write, kill, restart, read, stop."""
    at = servers.start()
    db = await asyncpg.connect(at.postgres_dsn)
    await db.execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (1)")
    await db.close()
    server = psutil.Process(servers.pids()["postgres"])
    server.kill()
    server.wait(10)
    assert servers.restart_dead() == ["postgres"]
    db = await asyncpg.connect(at.postgres_dsn)
    assert await db.fetchval("SELECT x FROM kept") == 1
    await db.close()


def capabilities(pid: int) -> tuple[set[int], int]:
    """The users that a process is, and its effective capabilities."""
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {int(uid) for uid in fields["Uid"].split()}, int(fields["CapEff"], 16)


async def test_root_hands_postgres_to_a_user_without_privileges(open_home: Path) -> None:
    os.chown(open_home, 0, 0)
    programs = postgres_server.postgres_programs()
    if not identity.reaches(identity.Identity(65534, 65534), programs / "postgres", open_home):
        pytest.skip("the virtual environment is below a closed folder")
    servers = EmbeddedServers(Settings.load(home=open_home / "home", **NO_REDIS))
    try:
        await check_it_serves(servers)
        uids, effective = capabilities(servers.pids()["postgres"])
        assert 0 not in uids
        assert effective == 0
    finally:
        servers.stop()


@pytest.mark.parametrize("held", ["dac_read_search", "dac_override"])
async def test_below_a_closed_home_it_keeps_one_capability(
    closed_home: Path, closed_programs: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bit = identity.CAPABILITIES[held]
    if not identity.bounding_set() >> bit & 1:
        pytest.skip(f"this machine's root has no {held}")
    monkeypatch.setattr(identity, "CAPABILITIES", {held: bit})
    servers = EmbeddedServers(Settings.load(home=closed_home / "home", **NO_REDIS))
    try:
        await check_it_serves(servers)
        uids, effective = capabilities(servers.pids()["postgres"])
        assert 0 not in uids
        assert effective == 1 << bit
    finally:
        servers.stop()


def test_without_a_way_in_the_error_says_what_to_do(
    closed_home: Path, closed_programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = EmbeddedServers(Settings.load(home=closed_home / "home", **NO_REDIS))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ProcessError, match=r"setpriv is missing.*LEVIBOT_POSTGRES_DSN"):
        servers.start()
    monkeypatch.undo()
    assert servers.pids() == {}
    servers.stop()


ORDINARY = """
import asyncio, asyncpg, sys
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
servers = EmbeddedServers(Settings.load(home=sys.argv[1]))
async def value(dsn):
    db = await asyncpg.connect(dsn)
    return await db.fetchval("SELECT current_user")
try:
    print(asyncio.run(value(servers.start().postgres_dsn)), sorted(servers.pids()))
finally:
    servers.stop()
"""


def test_an_ordinary_user_runs_both_servers(open_home: Path) -> None:
    # The launcher itself is the ordinary user: the owner of this folder.
    user = identity.unprivileged_identity(Path(sys.executable), open_home)
    assert user.uid == ORDINARY_UID
    done = subprocess.run(
        [*user.prefix, sys.executable, "-c", ORDINARY, str(open_home / "home")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **user.popen_options(),
    )
    assert done.stdout.strip() == "levibot ['postgres', 'redis']", done.stderr
    assert {path.stat().st_uid for path in open_home.rglob("*")} == {ORDINARY_UID}
