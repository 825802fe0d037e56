"""Histories that are written once: whole or made anew, shared, and not more than fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.errors import DataError, StoreError
from levibot.stores.frozen_history import HALF, MANIFEST, FrozenHistories
from levibot.stores.history_rows import Rows, Series
from levibot.stores.offline import OfflineStore

NOW = datetime(2024, 3, 1, tzinfo=UTC)
CLOCK = ManualClock(NOW)
SERIES = Series.of_label("answer")
CLOSES = np.datetime64("2024-01-01", "us") + np.arange(600) * np.timedelta64(timedelta(hours=1))


class Counted:
    """Fills a history, and counts how often it was asked to."""

    def __init__(self, value: float = 42.0) -> None:
        self.n = 0
        self._value = value

    def __call__(self, store: OfflineStore) -> None:
        self.n += 1
        values = np.full((len(CLOSES), 1), self._value)
        store.write([Rows(SERIES, "X", CLOSES, CLOSES, values)], reason="test", is_reconstructed=True)


def value_in(store: OfflineStore) -> float:
    known = store.read(SERIES, ("X",), as_of=NOW)["X"]
    assert len(known) == len(CLOSES)
    return float(known.values([0])[-1, 0])


def read(histories: FrozenHistories, key: str, write: Counted) -> float:
    with histories.open(key, CLOCK, write) as store:
        return value_in(store)


@pytest.fixture
def histories(tmp_path: Path) -> FrozenHistories:
    return FrozenHistories(tmp_path / "histories", say=pytest.fail)


def test_a_history_is_written_once_and_read_again(histories: FrozenHistories) -> None:
    write = Counted()
    assert [read(histories, "one", write) for _ in range(3)] == [42.0] * 3
    assert write.n == 1
    assert read(histories, "two", Counted(7.0)) == 7.0


def test_what_is_read_cannot_be_written(histories: FrozenHistories) -> None:
    more = Rows(SERIES, "X", CLOSES, CLOSES, np.zeros((len(CLOSES), 1)))
    with histories.open("one", CLOCK, Counted()) as store, pytest.raises(StoreError, match="failed: "):
        store.write([more], reason="test")
    again = Counted()
    assert (read(histories, "one", again), again.n) == (42.0, 0)


def torn_files(place: Path) -> Iterator[Path]:
    yield from place.rglob("*.arrow")
    yield place / "history.duckdb"
    yield place / MANIFEST


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_torn_file_is_found_and_the_history_is_made_anew(
    histories: FrozenHistories, number: int, how: str
) -> None:
    write = Counted()
    read(histories, "one", write)
    path = list(torn_files(histories.folder / "one"))[number]
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + (bytes([data[middle] ^ 1]) + data[middle + 1 :]) * (how != "cut"))
    assert read(histories, "one", write) == 42.0
    assert write.n == 2
    assert read(histories, "one", write) == 42.0
    assert write.n == 2


def test_a_writer_that_fails_leaves_nothing(histories: FrozenHistories) -> None:
    def broken(store: OfflineStore) -> None:
        Counted()(store)
        raise DataError("The bars are wrong.")

    with pytest.raises(DataError), histories.open("one", CLOCK, broken):
        pass
    assert [path.name for path in histories.folder.iterdir()] == ["lock"]
    assert read(histories, "one", Counted()) == 42.0


def test_where_nothing_can_be_written_it_says_so_and_works(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    said: list[str] = []
    histories = FrozenHistories(tmp_path / "home" / "histories", say=said.append)
    write = Counted()
    assert [read(histories, "one", write), read(histories, "one", write)] == [42.0, 42.0]
    assert write.n == 2
    assert "cannot be written to (Not a directory): the features are kept in a temporary folder" in said[0]


def test_two_that_make_the_same_history_at_once_do_not_disturb_each_other(histories: FrozenHistories) -> None:
    inner = Counted()

    def while_another_is_faster(store: OfflineStore) -> None:
        assert read(histories, "one", inner) == 42.0
        Counted()(store)

    with histories.open("one", CLOCK, while_another_is_faster) as store:
        assert value_in(store) == 42.0
    assert inner.n == 1
    assert sorted(path.name for path in histories.folder.iterdir()) == ["lock", "one"]


def test_the_ones_used_last_stay_and_none_that_is_read_goes(tmp_path: Path) -> None:
    folder = tmp_path / "histories"
    small = FrozenHistories(folder, say=pytest.fail, most_bytes=1)
    with small.open("read", CLOCK, Counted()) as store:
        read(small, "two", Counted())
        read(small, "three", Counted())
        # Its own reader holds the newest while it prunes; the one before is free by then.
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "read", "three"]
        assert value_in(store) == 42.0
    read(small, "four", Counted())
    assert sorted(path.name for path in folder.iterdir()) == ["four", "lock"]


def test_a_use_makes_a_history_young_again(tmp_path: Path) -> None:
    folder = tmp_path / "histories"
    large = FrozenHistories(folder, say=pytest.fail)
    for at, key in enumerate(("old", "middle")):
        read(large, key, Counted())
        os.utime(folder / key, (at, at))
    read(large, "old", Counted())
    n_bytes = sum(path.stat().st_size for path in (folder / "old").rglob("*") if path.is_file())
    read(FrozenHistories(folder, say=pytest.fail, most_bytes=2 * n_bytes), "new", Counted())
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "new", "old"]


KILLED = """
import os, signal, sys, time
from pathlib import Path
from levibot.stores.frozen_history import FrozenHistories
from tests.levibot.stores.test_frozen_history import CLOCK, Counted

def write(store):
    Counted()(store)
    print("written", flush=True)
    time.sleep(60)

with FrozenHistories(Path(sys.argv[1]), say=print).open("one", CLOCK, write):
    pass
"""


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    histories: FrozenHistories,
) -> None:
    command = [sys.executable, "-c", KILLED, str(histories.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        read(histories, "two", Counted())
        assert len(list(histories.folder.glob(f"{HALF}*"))) == 1
        writer.send_signal(signal.SIGKILL)
    read(histories, "three", Counted())
    assert sorted(path.name for path in histories.folder.iterdir()) == ["lock", "three", "two"]
