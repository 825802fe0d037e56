"""The feature history's owner killed, its disk full, its files damaged: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from levibot.clock import ManualClock
from levibot.errors import StoreError
from levibot.stores.offline import OfflineStore
from tests.faults.drill import Drill
from tests.faults.history_subject import FILE_EVERY, SEAL_EVERY, SERIES, HistorySubject, rows_of
from tests.faults.plugin import Faults
from tests.faults.small_disk import SmallDisk
from tests.faults.subject import MARKET_ID, NOON

PART = "DuckDB, feature history"
DURING = "1 owner × 2 streams"
DISK_BYTES = 64 * 1024 * 1024
FULL_AWAY_S = 2.0
# Of each stream, so that there are files of batches, files of a seal and rows in the database.
N_ITEMS = SEAL_EVERY + 2


@pytest.mark.fault(PART, "owner killed (SIGKILL), another takes its folder")
def test_the_owner_killed(tmp_path: Path, faults: Faults) -> None:
    observed = Drill("history", str(tmp_path), n_writers=1, n_streams=2).writer_killed()
    faults.judge(observed, DURING, "a batch is there whole or not at all, and once, also when added again")


@pytest.mark.slow
@pytest.mark.fault(PART, "disk full, then room again")
def test_the_disk_full(tmp_path: Path, faults: Faults) -> None:
    with SmallDisk(tmp_path, DISK_BYTES) as disk:
        drill = Drill("history", str(tmp_path), n_writers=1, n_streams=2)
        observed = drill.fault(disk.fill, disk.clear, FULL_AWAY_S)
    assert observed.refused > 0
    faults.judge(
        observed,
        f"{DURING}, full for {FULL_AWAY_S:g} s",
        f"{observed.refused:,} times a caller got an error, and repeated it until it was taken; "
        "what was half written is removed",
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            cut, r"Segment .* has \d+ bytes, and \d+ were written\.", id="torn",
            marks=pytest.mark.fault(PART, "a file torn off at its end"),
        ),
        pytest.param(
            flip, r"Segment .* has changed: its SHA-256 is \w+, not \w+\.", id="flipped",
            marks=pytest.mark.fault(PART, "one bit of a file flipped"),
        ),
    ],
)  # fmt: skip
def test_a_damaged_file(tmp_path: Path, faults: Faults, damage: Callable[[Path], None], message: str) -> None:
    items = [(stream, number) for number in range(N_ITEMS) for stream in range(2)]
    folder = tmp_path / "history"
    asyncio.run(write(folder, items))
    path = sorted((folder / "segments").rglob("*/W1/*.arrow"))[0]
    shutil.copy(path, tmp_path / "copy")
    damage(path)
    store = OfflineStore.open(folder, MARKET_ID, ManualClock(NOON))
    with pytest.raises(StoreError) as told:
        store.check()
    assert re.fullmatch(message, told.value.message)
    # The other symbol is as it was.
    assert len(store.read(SERIES, ["W0"], as_of=store.now())["W0"]) == n_rows_of(0)
    store.close()
    began_at = time.monotonic()
    shutil.copy(tmp_path / "copy", path)
    found = asyncio.run(read(folder))
    assert sorted(found) == sorted(items)
    faults.record(
        during=f"{len(items)} batches in 2 symbols",
        recovered_s=time.monotonic() - began_at,
        outcome="the check names the file; other symbols are read as before; whole again once it is put back",
        lost=len(set(items) - set(found)),
        duplicates=len(found) - len(set(found)),
    )


async def write(folder: Path, items: list[tuple[int, int]]) -> None:
    subject = await HistorySubject.open(str(folder))
    for item in items:
        await subject.write(item)
    await subject.close()


async def read(folder: Path) -> list[tuple[int, int]]:
    subject = await HistorySubject.open(str(folder))
    found = await subject.stored(2, N_ITEMS)
    await subject.close()
    return found


def n_rows_of(stream: int) -> int:
    return sum(len(rows_of((stream, number)).event_us) for number in range(N_ITEMS))


def test_the_drill_has_rows_in_the_database_and_in_files(tmp_path: Path) -> None:
    asyncio.run(write(tmp_path, [(0, number) for number in range(N_ITEMS)]))
    store = OfflineStore.open(tmp_path, MARKET_ID, ManualClock(NOON))
    series_id = store._catalogue.need(SERIES)
    pieces = store._catalogue.pieces(series_id, ("W0",), None, None, None)["W0"]
    assert len([piece for piece in pieces if piece.segment is not None]) > N_ITEMS // FILE_EVERY
    assert [len(piece.event_us) for piece in pieces if piece.segment is None] != []
    store.close()
