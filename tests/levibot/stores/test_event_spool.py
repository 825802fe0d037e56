"""The spool on a real disk: what it was told to keep it keeps, in order, whatever happens to it."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import StoreError, StoreUnavailable
from levibot.stores.event import Event, EventRow
from levibot.stores.event_spool import HEADER, SEGMENT_BYTES, EventSpool

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
LIMIT = 64 * 1024 * 1024
WRITER = """
import sys
from pathlib import Path
from levibot.stores.event import EventRow
from levibot.stores.event_spool import EventSpool
spool = EventSpool.open(Path(sys.argv[1]), 1 << 26)
number = 0
while True:
    spool.append([EventRow("bar", "BTCUSDT", number, str(number), "", '{"x":"' + "y" * 2000 + '"}')] * 1)
    print(number, flush=True)
    number += 1
"""


def rows(n: int, begin: int = 0, payload: str = "{}") -> list[EventRow]:
    return [EventRow("bar", "BTCUSDT", i, f"id-{i}", "", payload) for i in range(begin, begin + n)]


def drain(spool: EventSpool, n: int = 7) -> list[EventRow]:
    """Everything that waits, taken out in small batches."""
    found: list[EventRow] = []
    while (waiting := spool.oldest(n)) is not None:
        found += waiting.rows
        spool.drop(waiting)
    return found


def fill(spool: EventSpool, step: int) -> tuple[int, StoreError]:
    """Append until it is refused; returns how many events were taken, and the refusal."""
    for kept in range(0, 1_000_000, step):
        try:
            spool.append(rows(step, kept))
        except StoreError as exc:
            return kept, exc
    raise AssertionError("It takes everything.")


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.events"))


@contextmanager
def opened(folder: Path, limit_bytes: int = LIMIT) -> Iterator[EventSpool]:
    spool = EventSpool.open(folder, limit_bytes)
    try:
        yield spool
    finally:
        spool.close()


def test_events_come_out_once_and_in_order(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for begin in range(0, 100, 10):
            spool.append(rows(10, begin))
        assert spool.n_events == 100
        assert drain(spool) == rows(100)
        assert (spool.n_events, spool.n_bytes, segments(tmp_path)) == (0, 0, [])
        spool.append(rows(3))
        assert drain(spool) == rows(3)


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    event = Event("x", "", NOON + timedelta(microseconds=1), {"µ": ["\x00 \n \\", 0.1 + 0.2, None]}, "trace")
    with opened(tmp_path) as spool:
        spool.append([EventRow.of(event)])
        waiting = spool.oldest(1)
        assert waiting is not None
        assert waiting.rows[0].event() == event


@given(st.lists(st.one_of(st.integers(1, 9), st.integers(-9, -1), st.just(0)), max_size=40))
def test_any_course_of_appends_drops_and_restarts_keeps_the_order(
    tmp_path_factory: pytest.TempPathFactory, course: list[int]
) -> None:
    # n > 0: append n. n < 0: take up to n out. 0: close and open; what was taken of a segment may come again.
    folder = tmp_path_factory.mktemp("spool")
    spool = EventSpool.open(folder, 4096)
    appended, taken, n_seen = 0, 0, 0
    for step in course:
        if step > 0:
            try:
                spool.append(rows(step, appended))
            except StoreUnavailable:
                continue
            appended += step
        elif step == 0:
            spool.close()
            spool = EventSpool.open(folder, 4096)
            taken = appended - spool.n_events
            assert taken <= n_seen
        elif (waiting := spool.oldest(-step)) is not None:
            assert list(waiting.rows) == rows(len(waiting.rows), taken)
            spool.drop(waiting)
            taken += len(waiting.rows)
            n_seen = max(n_seen, taken)
        assert spool.n_events == appended - taken
        assert spool.n_bytes <= 4096
    assert drain(spool) == rows(appended - taken, taken)
    spool.close()


def test_what_waits_is_there_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(rows(50))
    with opened(tmp_path) as spool:
        assert spool.n_events == 50
        spool.append(rows(50, 50))
        assert drain(spool) == rows(100)


def test_a_full_segment_is_followed_by_the_next_and_removed_when_it_was_replayed(tmp_path: Path) -> None:
    payload = '{"x":"' + "y" * 100_000 + '"}'
    with opened(tmp_path) as spool:
        for i in range(100):
            spool.append(rows(1, i, payload))
        assert len(segments(tmp_path)) == 3
        assert all(path.stat().st_size < SEGMENT_BYTES + 110_000 for path in segments(tmp_path))
        first = spool.oldest(1000)
        assert first is not None
        spool.drop(first)
        assert len(segments(tmp_path)) == 2
        assert drain(spool) == rows(100, payload=payload)[len(first.rows) :]


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    with opened(tmp_path, 10_000) as spool:
        kept, refusal = fill(spool, 1)
        assert isinstance(refusal, StoreUnavailable)
        assert re.search(r"is full: \d+ of 10000 bytes\. .*LEVIBOT_EVENT_SPOOL_MB", str(refusal))
        assert spool.n_bytes <= 10_000
        assert sum(path.stat().st_size for path in segments(tmp_path)) == spool.n_bytes
        assert drain(spool) == rows(kept)
        spool.append(rows(1))


def test_what_kill_9_tore_is_cut_off_and_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(200)]
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout.read().split()]
    with opened(tmp_path) as spool:
        found = [row.ts_us for row in drain(spool)]
    assert found[: len(acknowledged)] == acknowledged
    assert found == list(range(len(found)))


@pytest.mark.parametrize("n_left", [1, 3, 4, 11, 12, 13, 40])
def test_a_torn_tail_is_cut_off_wherever_it_was_torn(tmp_path: Path, n_left: int) -> None:
    with opened(tmp_path) as spool:
        spool.append(rows(5))
        size = spool.n_bytes
        spool.append(rows(1, 5))
    (segment,) = segments(tmp_path)
    os.truncate(segment, size + n_left)
    with opened(tmp_path) as spool:
        assert (spool.n_events, spool.n_corrupt) == (5, 0)
        assert segment.stat().st_size == size
        spool.append(rows(1, 5))
        assert drain(spool) == rows(6)


@pytest.mark.parametrize("place", [0, 2, 5, 9, HEADER.size, HEADER.size + 20])
@pytest.mark.parametrize("index", [0, 4, 9])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_corrupt_record_is_set_aside_and_its_neighbours_are_kept(
    tmp_path: Path, place: int, index: int, is_open: bool
) -> None:
    spool = EventSpool.open(tmp_path, LIMIT)
    spool.append(rows(10))
    spool.append(rows(10, 10))
    length = spool.n_bytes // 20 - 1  # ids of one digit are a byte shorter
    (segment,) = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    at = index * len(data[: data.index(b"LvEv", 1)]) + place
    data[at] ^= 0x40
    if not is_open:
        spool.close()
    segment.write_bytes(data)
    if not is_open:
        spool = EventSpool.open(tmp_path, LIMIT)
        assert spool.n_events == 19
    assert drain(spool) == [row for row in rows(20) if row.ts_us != index]
    (aside,) = (tmp_path / "corrupt").iterdir()
    assert spool.n_corrupt == 1
    assert abs(aside.stat().st_size - length) <= 1
    spool.close()


def test_two_processes_cannot_have_one_spool_open(tmp_path: Path) -> None:
    with (
        opened(tmp_path),
        pytest.raises(StoreError, match="in use by another process"),
    ):
        EventSpool.open(tmp_path, LIMIT)
    EventSpool.open(tmp_path, LIMIT).close()


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        EventSpool.open(tmp_path / "file" / "spool", LIMIT)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A disk of 256 KiB of its own."""
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=256k", "levibot-test", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def short_files(_: Path) -> Iterator[None]:
    """No file may be longer than 64 KiB, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("limit", "code"), [(full_disk, errno.ENOSPC), (short_files, errno.EFBIG)])
def test_a_disk_that_takes_no_more_is_an_error_and_loses_nothing(tmp_path: Path, limit, code: int) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "disk"
    folder.mkdir()
    with limit(folder):
        spool = EventSpool.open(folder, LIMIT)
        # A batch is larger than what is left at the end: half of it is written, and taken back.
        kept, refusal = fill(spool, 300)
        assert "cannot be written" in refusal.message
        assert isinstance(refusal.__cause__, OSError)
        assert refusal.__cause__.errno == code
        for _ in range(3):
            with pytest.raises(StoreError):
                spool.append(rows(3000, kept))
        assert spool.n_events == kept
        assert len(segments(folder)) <= 2
        spool.close()
        spool = EventSpool.open(folder, LIMIT)
        assert (spool.n_events, spool.n_corrupt) == (kept, 0)
        # What is replayed makes room again.
        assert drain(spool, 5000) == rows(kept)
        spool.append(rows(10))
        assert drain(spool) == rows(10)
        spool.close()
