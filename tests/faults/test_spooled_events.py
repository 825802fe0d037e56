"""ClickHouse away and the disk full under the writer of events: what was acknowledged arrives once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.drill import AWAY_S, Drill, Observed
from tests.faults.event_subjects import SERVER_TIMEOUT_S
from tests.faults.plugin import Faults
from tests.faults.small_disk import SmallDisk
from tests.servers.clickhouse import ClickHouseProcess

pytestmark = pytest.mark.stores

PART = "ClickHouse over HTTP, events with a spool"
DURING = "1 writer × 8 streams"
SPOOLED = "events go to the spool, and from there in order"
ROOMY, SMALL = 64 * 1024 * 1024, 16 * 1024
# Until the small one is full, and longer.
FULL_AWAY_S = 4.0


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
    """A disk of 16 KiB for the spool alone."""
    with SmallDisk(spool, SMALL):
        yield spool


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


def judge(faults: Faults, observed: Observed, during: str, outcome: str) -> None:
    """The row of a fault during which nobody may be refused."""
    assert observed.refused == 0
    assert observed.acknowledged_away > 0
    faults.judge(
        observed, during, f"{outcome}: {observed.acknowledged_away:,} while it was away, none refused"
    )


def judge_full(faults: Faults, observed: Observed) -> None:
    """The row of a fault during which the spool can take some, and not all."""
    assert observed.refused > 0
    assert observed.acknowledged_away > 0
    faults.judge(
        observed,
        f"{DURING}, away {FULL_AWAY_S:g} s",
        f"{observed.acknowledged_away:,} fitted while it was away; "
        f"{observed.refused:,} times a caller got an error, and repeated it until it was taken",
    )


@pytest.mark.fault(PART, "killed (SIGKILL), started again")
def test_the_server_killed(server: ClickHouseProcess, spool: Path, faults: Faults) -> None:
    observed = drill(server, spool).fault(server.kill, server.start)
    judge(faults, observed, f"{DURING}, away {AWAY_S:g} s", SPOOLED)


@pytest.mark.fault(PART, "frozen (SIGSTOP), thawed")
def test_the_server_frozen(server: ClickHouseProcess, spool: Path, faults: Faults) -> None:
    # Longer than the server's own time-out: nobody waits for that one.
    away_s = SERVER_TIMEOUT_S + 1.0
    observed = drill(server, spool).fault(server.freeze, server.thaw, away_s)
    judge(faults, observed, f"{DURING}, away {away_s:g} s", SPOOLED)


@pytest.mark.slow
@pytest.mark.fault(PART, "restarted in order")
def test_the_server_restarted(server: ClickHouseProcess, spool: Path, faults: Faults) -> None:
    observed = drill(server, spool).fault(server.stop, server.start, away_s=0.0)
    judge(faults, observed, DURING, SPOOLED)


@pytest.mark.slow
@pytest.mark.fault(PART, "killed three times in a row (SIGKILL)")
def test_the_server_killed_again_and_again(server: ClickHouseProcess, spool: Path, faults: Faults) -> None:
    def again_and_again() -> None:
        for _ in range(2):
            server.kill()
            time.sleep(0.3)
            server.start()
            time.sleep(0.7)
        server.kill()

    observed = drill(server, spool).fault(again_and_again, server.start, away_s=0.3)
    judge(faults, observed, DURING, SPOOLED)


@pytest.mark.slow
@pytest.mark.fault(PART, "server and writer killed (SIGKILL), both begin anew")
def test_the_writer_killed_as_well(server: ClickHouseProcess, spool: Path, faults: Faults) -> None:
    observed = drill(server, spool).writer_killed(server.kill, server.start)
    judge(faults, observed, DURING, "the next process sends what the dead one left in its spool")


@pytest.mark.slow
@pytest.mark.fault(PART, "killed (SIGKILL), the disk of the spool full")
def test_the_disk_full(server: ClickHouseProcess, small_disk: Path, faults: Faults) -> None:
    judge_full(faults, drill(server, small_disk).fault(server.kill, server.start, FULL_AWAY_S))


@pytest.mark.slow
@pytest.mark.fault(PART, "killed (SIGKILL), the spool at its bound")
def test_the_spool_at_its_bound(server: ClickHouseProcess, spool: Path, faults: Faults) -> None:
    largest = 0

    def start() -> None:
        nonlocal largest
        largest = bytes_of(spool)
        server.start()

    observed = drill(server, spool, SMALL).fault(server.kill, start, FULL_AWAY_S)
    assert SMALL / 2 < largest <= SMALL
    judge_full(faults, observed)


@pytest.mark.slow
def test_the_drill_finds_a_spool_that_was_emptied(server: ClickHouseProcess, spool: Path) -> None:
    def start() -> None:
        assert bytes_of(spool) > 0
        for path in spool.glob("*.events"):
            path.unlink()
        server.start()

    assert drill(server, spool).writer_killed(server.kill, start).lost > 0
