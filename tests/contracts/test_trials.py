"""What the ledger of trials promises, on every PostgreSQL, and its exchange with the journals."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest

from levibot.errors import DataError, StoreUnavailable, UsageError
from levibot.learning.evidence.family import family_of
from levibot.learning.evidence.trial import Trial
from levibot.stores.ticks import TickStore
from levibot.stores.trial_exchange import Exchanged, exchange
from levibot.stores.trial_journal import TrialJournal
from levibot.stores.trials import BATCH_ROWS
from tests.trial_books import END, START, same, trial

pytestmark = pytest.mark.stores

RNG = np.random.default_rng(0)
TRIAL = trial(RNG.normal(0.0, 0.01, 366), git_commit="abc", budget=0.25, status="pruned")


def journal_in(folder: Path) -> TrialJournal:
    return TrialJournal(folder / "trials.sqlite")


async def test_a_trial_comes_back_as_it_was_and_counts_once(tick_store: TickStore) -> None:
    bare = trial(n=1, kind="hold-out", data_hash="", parameters={"hold_out": "final"})
    assert await tick_store.trials.write_many([TRIAL, bare, TRIAL]) == 2
    assert await tick_store.trials.write_many([replace(TRIAL, net_sharpe=9.0), bare]) == 0
    assert await tick_store.trials.write_many([]) == 0
    (first, second), number = await tick_store.trials.after(0)
    assert same(first, TRIAL)
    assert same(second, bare)
    assert await tick_store.trials.after(number) == ([], number)
    assert await tick_store.trials.count() == 2
    assert await tick_store.trials.looks("m", "final") == 1
    assert await tick_store.trials.looks("other", "final") == 0


async def test_the_family_is_that_of_the_trials_that_meet(tick_store: TickStore) -> None:
    inside = [trial(RNG.normal(0.0, 0.01, 366), n=n) for n in range(6)]
    copied = trial(RNG.normal(0.0, 0.01, 366), n=7, market_id="a copy")
    outside = [trial(n=8, market_id="x", data_hash="x"), trial(n=9, start=END, end=END.replace(year=2022))]
    await tick_store.trials.write_many([*inside, copied, *outside])
    found = await tick_store.trials.family("m", "d", START, END)
    known = family_of([*inside, copied])
    assert (found.n_trials, found.n_distinct) == (7, 7)
    assert found.n_effective == pytest.approx(known.n_effective, rel=1e-6)
    assert found.sharpe_variance == pytest.approx(known.sharpe_variance, rel=1e-9)


@pytest.mark.parametrize(
    "change", ["UPDATE trials SET kind = 'yardstick'", "DELETE FROM trials", "TRUNCATE trials"]
)
async def test_no_trial_is_changed_or_removed(tick_store: TickStore, database_dsn: str, change: str) -> None:
    await tick_store.trials.write_many([TRIAL])
    db = await asyncpg.connect(database_dsn, statement_cache_size=0)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="trials are only added"):
            await db.execute(change)
    finally:
        await db.close()
    assert await tick_store.trials.count() == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "guess"},
        {"status": "lucky"},
        {"trial_id": TRIAL.trial_id, "daily_returns": np.zeros(3), "n_days": 3},
    ],
)
async def test_a_broken_trial_sinks_what_is_beside_it_or_changes_nothing(
    tick_store: TickStore, broken: dict[str, Any]
) -> None:
    await tick_store.trials.write_many([TRIAL])
    wrong: Trial = replace(trial(n=5), **broken)
    if wrong.trial_id == TRIAL.trial_id:
        assert await tick_store.trials.write_many([wrong]) == 0
    else:
        with pytest.raises(DataError, match="violates check constraint"):
            await tick_store.trials.write_many([trial(n=6), wrong])
    ((only,), _) = await tick_store.trials.after(0)
    assert same(only, TRIAL)


async def test_writers_of_the_same_trials_share_them_and_a_reader_misses_none(tick_store: TickStore) -> None:
    trials = [trial(n=n) for n in range(BATCH_ROWS + 20)]
    seen: list[Trial] = []

    async def follow() -> None:
        number = 0
        while len(seen) < len(trials):
            some, number = await tick_store.trials.after(number, limit=100)
            seen.extend(some)

    parts = (trials, trials[::-1], trials[:40], trials[-40:])
    *new, _ = await asyncio.gather(*(tick_store.trials.write_many(part) for part in parts), follow())
    assert sum(new) == len(trials)
    assert {t.trial_id for t in seen} == {t.trial_id for t in trials}
    for limit in (0, 5_001):
        with pytest.raises(UsageError, match="cannot be read at once"):
            await tick_store.trials.after(0, limit)


async def test_journals_meet_in_the_ledger(tick_store: TickStore, tmp_path: Path) -> None:
    here, there = journal_in(tmp_path / "here"), journal_in(tmp_path / "there")
    here.add([trial(n=n) for n in range(BATCH_ROWS + 10)])
    there.add([trial(n=n) for n in range(-5, 5)])
    assert await exchange(here, tick_store.trials) == Exchanged(BATCH_ROWS + 10, 0)
    assert await exchange(there, tick_store.trials) == Exchanged(5, BATCH_ROWS + 5)
    assert await exchange(here, tick_store.trials) == Exchanged(0, 5)
    assert await exchange(here, tick_store.trials) == Exchanged(0, 0)
    assert here.counts() == there.counts() == {("m", "search"): BATCH_ROWS + 15}
    assert await tick_store.trials.count() == BATCH_ROWS + 15


async def test_an_exchange_that_was_cut_short_goes_on_and_counts_nothing_twice(
    tick_store: TickStore, tmp_path: Path
) -> None:
    journal = journal_in(tmp_path)
    journal.add([trial(n=n) for n in range(30)])
    # Sent, and ended before it was noted.
    await tick_store.trials.write_many(journal.waiting(await tick_store.trials.ledger_id(), 10))
    assert await exchange(journal, tick_store.trials) == Exchanged(20, 0)
    assert await tick_store.trials.count() == 30


async def test_a_ledger_that_is_made_anew_gets_everything_again(
    tick_store: TickStore, database_dsn: str, tmp_path: Path
) -> None:
    journal = journal_in(tmp_path)
    journal.add([TRIAL, trial(n=1)])
    await exchange(journal, tick_store.trials)
    db = await asyncpg.connect(database_dsn, statement_cache_size=0)
    root = Path(__file__).parents[2] / "ops" / "postgres"
    (forward,) = root.glob("*_trials.sql")
    await db.execute((root / "rollback" / forward.name).read_text())
    await db.execute(forward.read_text())
    await db.close()
    assert await exchange(journal, tick_store.trials) == Exchanged(2, 0)
    ((first, _), _) = await tick_store.trials.after(0)
    assert same(first, journal.find(first.trial_id))


async def test_trials_wait_in_the_journal_while_the_store_is_away(
    tick_store: TickStore, tmp_path: Path
) -> None:
    journal = journal_in(tmp_path)
    journal.add([TRIAL])
    ledger_id = await tick_store.trials.ledger_id()
    await tick_store.close()
    with pytest.raises(StoreUnavailable):
        await exchange(journal, tick_store.trials)
    assert [t.trial_id for t in journal.waiting(ledger_id, 10)] == [TRIAL.trial_id]
