"""The journal keeps what it was given: from many processes, through a kill, and unchanged."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from levibot.errors import StoreError, UsageError
from levibot.stores.trial_journal import TrialJournal
from tests.trial_books import END, NOW, START, same, trial

WRITER = """
import sys
from pathlib import Path
from levibot.stores.trial_journal import TrialJournal
from tests.trial_books import trial
journal = TrialJournal(Path(sys.argv[1]))
for n in range(100_000):
    journal.add([trial(n=n)])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def journal(tmp_path: Path) -> TrialJournal:
    return TrialJournal(tmp_path / "home" / "trials.sqlite")


def test_a_trial_comes_back_as_it_was_and_once(journal: TrialJournal) -> None:
    days = np.random.default_rng(0).normal(0.0, 0.01, 366)
    one = trial(days, git_commit="abc-dirty", status="pruned", budget=0.25)
    bare = trial(n=1, kind="hand")
    assert journal.add([one, bare, one]) == 2
    assert journal.add([bare, one]) == 0
    assert same(journal.find(one.trial_id), one)
    assert same(journal.find(bare.trial_id[:12]), bare)
    assert journal.counts() == {("m", "search"): 1, ("m", "hand"): 1}


def test_before_the_first_trial_there_is_no_file_and_nothing_counted(journal: TrialJournal) -> None:
    assert journal.counts() == {}
    assert (journal.newest(), journal.looks("m", "final"), journal.reached("x")) == ([], 0, 0)
    assert not journal.path.parent.exists()
    journal.make()
    assert journal.path.exists()
    assert journal.newest() == []


def test_a_family_is_of_the_market_or_of_the_same_bars_and_of_a_period_that_meets(
    journal: TrialJournal,
) -> None:
    year = timedelta(days=366)
    kept = [
        trial(n=0),
        trial(n=1, market_id="a copy of the folder"),
        trial(n=2, data_hash="other bars"),
        trial(n=3, start=END - timedelta(days=1), end=END + year),
    ]
    left_out = [
        trial(n=4, market_id="other", data_hash="other"),
        trial(n=5, start=END, end=END + year),
        trial(n=6, start=START - year, end=START),
    ]
    journal.add([*kept, *left_out])
    found = journal.family("m", "d", START, END)
    assert {t.trial_id for t in found} == {t.trial_id for t in kept}
    # No bars seen is no common bars.
    journal.add([trial(n=7, market_id="other", data_hash="")])
    assert len(journal.family("m", "", START, END)) == 3


def test_the_newest_come_first_and_are_bounded(journal: TrialJournal) -> None:
    trials = [trial(n=n, scored_at=NOW + timedelta(seconds=n)) for n in range(5)]
    journal.add(trials[::-1])
    journal.add([trial(n=9, kind="rl", market_id="other", scored_at=NOW)])
    assert [t.parameters["n"] for t in journal.newest(3)] == [4, 3, 2]
    assert [t.parameters["n"] for t in journal.newest(kind="rl", market_id="other")] == [9]
    for limit in (0, 10_001):
        with pytest.raises(UsageError, match="cannot be read at once"):
            journal.newest(limit)


def test_an_id_is_found_by_its_beginning(journal: TrialJournal) -> None:
    journal.add([trial(n=n) for n in range(3)])
    for wrong, message in (
        ("", "4 hex digits"),
        ("abc", "4 hex digits"),
        ("zzzz", "4 hex digits"),
        ("0" * 40, "no trial"),
    ):
        with pytest.raises(UsageError, match=message):
            journal.find(wrong)


@pytest.mark.parametrize("change", ["UPDATE trials SET kind = 'yardstick'", "DELETE FROM trials"])
def test_the_file_itself_refuses_to_forget(journal: TrialJournal, change: str) -> None:
    journal.add([trial()])
    db = sqlite3.connect(journal.path)
    with pytest.raises(sqlite3.IntegrityError, match="trials are only added"):
        db.execute(change)
    db.close()


def add_some(path: Path, first: int) -> int:
    journal = TrialJournal(path)
    return sum(journal.add([trial(n=n)]) for n in range(first, first + 20))


def test_many_processes_add_at_once_and_none_is_lost_or_counted_twice(journal: TrialJournal) -> None:
    """The first adds race to make the file; every trial is given to two processes."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        added = list(pool.map(add_some, [journal.path] * 4, [0, 10, 20, 30]))
    assert sum(added) == 50
    assert journal.counts() == {("m", "search"): 50}


def test_what_was_counted_survives_kill_9(journal: TrialJournal) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(journal.path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().splitlines()]
    writer.stdout.close()
    writer.wait()
    kept = {t.parameters["n"] for t in journal.newest(10_000)}
    # One more may have been kept that nobody was told of.
    assert set(said) <= kept <= {*said, len(said)}
    assert journal.add([trial(n=-1)]) == 1


def test_a_file_that_is_no_journal_is_named(journal: TrialJournal) -> None:
    journal.path.parent.mkdir()
    journal.path.write_bytes(b"not a database, and long enough to be taken for one" * 40)
    with pytest.raises(StoreError, match=r"trials\.sqlite cannot be read: file is not a database"):
        journal.counts()
    with pytest.raises(StoreError, match="cannot be written"):
        journal.add([trial()])


def test_a_journal_of_a_later_version_is_left_alone(journal: TrialJournal) -> None:
    journal.make()
    db = sqlite3.connect(journal.path)
    db.execute("PRAGMA user_version = 9")
    db.close()
    for ask in (journal.counts, journal.make):
        with pytest.raises(StoreError, match="is of version 9"):
            ask()


def test_a_record_that_was_spoilt_is_named(journal: TrialJournal) -> None:
    journal.make()
    db = sqlite3.connect(journal.path)
    db.execute("INSERT INTO trials VALUES ('aaaa', 'hand', 'm', 'd', 0, 1, 0, '{}', NULL)")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="record of a trial cannot be read"):
        journal.newest()
