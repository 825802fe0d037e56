"""ClickHouse away and the disk full under the writer of events: what was acknowledged arrives once."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.drill import AWAY_S, Drill, Observed
from tests.faults.event_subjects import SERVER_TIMEOUT_S
from tests.faults.plugin import Faults
from tests.servers.clickhouse import ClickHouseProcess

pytestmark = pytest.mark.stores

PART = "ClickHouse over HTTP, events with a spool"
DURING = "1 writer × 8 streams"
ROOMY, SMALL = 64 * 1024 * 1024, 64 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseProcess]:
    with ClickHouseProcess(tmp_path / "clickhouse") as server:
        yield server


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def small_disk(spool: Path) -> Iterator[Path]:
    """A disk of 64 KiB for the spool alone."""
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={SMALL}", "levibot-test", str(spool)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield spool
    finally:
        subprocess.run(["umount", "-l", str(spool)], check=True)


def drill(server: ClickHouseProcess, spool: Path, limit_bytes: int = ROOMY) -> Drill:
    # Back is ClickHouse only when it has all that was spooled: the acknowledgements never ceased.
    return Drill(
        "spooled",
        f"{server.url}?{limit_bytes}#{spool}",
        n_writers=1,
        n_streams=8,
        is_back=lambda: bytes_of(spool) == 0,
    )


def bytes_of(spool: Path) -> int:
    """What waits on disk. A segment may be replayed while it is counted."""
    sizes = []
    for path in spool.glob("*.events"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


def accepted(observed: Observed, during: str) -> str:
    """What the row says of a fault during which nobody was refused."""
    assert observed.refused == 0
    assert observed.acknowledged_away > 0
    return f"{during}; {observed.acknowledged_away:,} of them while it was away"


@pytest.mark.fault(PART, "killed (SIGKILL), started again")
def test_the_server_killed(server: ClickHouseProcess, spool: Path, faults: Faults) -> None:
    observed = drill(server, spool).fault(server.kill, server.start)
    faults.judge(
        observed,
        f"{DURING}, away {AWAY_S:g} s",
        f"nobody is refused: {observed.acknowledged_away:,} events went to the spool, and from there in order",
    )
