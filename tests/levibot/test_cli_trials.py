"""`trials`: what was ever scored, with PostgreSQL and without it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from levibot.learning.evidence.trial import Trial
from levibot.settings import Settings
from levibot.stores.connect import open_trial_journal
from levibot.stores.ticks import TickStore
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.trials import YARDSTICKS
from tests.databases import drop_database
from tests.levibot.conftest import Command
from tests.trial_books import same, trial

PERIOD = ("--train-start", "2020-01-01", "--test-start", "2020-04-20", "--test-end", "2020-04-24")
DAYS = np.random.default_rng(0).normal(0.001, 0.01, 366)


@pytest.fixture
def journal(home: Path) -> TrialJournal:
    return open_trial_journal(Settings.load(home=home))


@pytest.fixture
def ledger_dsn(postgres_dsn: str) -> Iterator[str]:
    """A database of this test alone."""
    name = f"test_{secrets.token_hex(6)}"

    async def make() -> None:
        db = await asyncpg.connect(postgres_dsn)
        await db.execute(f"CREATE DATABASE {name}")
        await db.close()

    async def drop() -> None:
        db = await asyncpg.connect(postgres_dsn)
        await drop_database(db, name)
        await db.close()

    asyncio.run(make())
    yield postgres_dsn.rsplit("/", 1)[0] + f"/{name}"
    asyncio.run(drop())


def test_without_trials_nothing_is_counted_and_nothing_made(levibot: Command, home: Path) -> None:
    assert levibot("trials", "count").out == "No trials yet.\n"
    assert levibot("trials", "list", "--json").json() == {"store": "not running", "trials": []}
    assert not home.exists()


def test_trials_are_listed_shown_and_counted(levibot: Command, journal: TrialJournal) -> None:
    one = trial(DAYS, n=1)
    look = trial(n=2, kind="hold-out", data_hash="", parameters={"hold_out": "final", "purpose": "backtest"})
    journal.add([one, look, trial(DAYS[::-1], n=3)])
    listed = levibot("trials", "list", "--kind", "search", "--json").json()["trials"]
    assert {t["trial_id"] for t in listed} == {one.trial_id, trial(DAYS[::-1], n=3).trial_id}
    assert one.trial_id[:12] in levibot("trials", "list").out
    shown = levibot("trials", "show", one.trial_id[:8], "--json").json()
    assert shown["parameters"] == dict(one.parameters)
    assert shown["daily_returns"] == pytest.approx(DAYS.tolist(), rel=1e-6)
    assert "learning_rate" in levibot("trials", "show", one.trial_id).out
    (market,) = levibot("trials", "count", "--json").json()["markets"]
    assert market["kinds"] == {"hold-out": 1, "search": 2}
    assert (market["counted"], market["distinct"]) == (2, 2)
    assert market["hold_out"] == {"name": "final", "looks": 1}
    assert "looks at the hold-out 'final': 1" in levibot("trials", "count").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("list", "--kind", "luck"), "'luck' is no kind of trial"),
        (("list", "--limit", "0"), "Invalid value for '--limit'"),
        (("show", "12345678"), "There is no trial whose id begins with 12345678"),
        (("show", "xyz"), "4 hex digits"),
    ],
)
def test_a_wrong_call_is_one_line(levibot: Command, arguments: tuple[str, ...], sentence: str) -> None:
    refused = levibot("trials", *arguments)
    assert refused.code == 2
    assert sentence in refused.error()


def test_backtests_are_counted_in_their_reports(levibot: Command, tmp_path: Path) -> None:
    counts, chosen_from = [], set()
    for cost_bps in ("10", "10", "20"):
        asked = ("--symbols", "BTCUSDT,ETHUSDT,SOLUSDT", "--cost-bps", cost_bps)
        done = levibot("backtest", *PERIOD, *asked, "--json", tmp_path / "report.json")
        report = json.loads((tmp_path / "report.json").read_text())
        counts.append(report["trials"]["counted"])
        chosen_from |= set(report["trials"]["strategies"]) - set(YARDSTICKS)
        assert f"Trials counted: {counts[-1]}, worth" in done.out
        assert "Looks at the hold-out 'final': 0." in done.out
    # Every strategy counts, the same run once, and a yardstick never.
    n = len(chosen_from)
    assert counts == [n, n, 2 * n], chosen_from
    listed = levibot("trials", "list", "--kind", "hand", "--json").json()["trials"]
    assert len({t["trial_id"] for t in listed}) == 2 * n
    assert all(t["market_id"].startswith("simulated:seed=7") for t in listed)


@pytest.mark.stores
def test_an_exchange_comes_before_every_answer(
    ledger_dsn: str, levibot: Command, journal: TrialJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = trial(DAYS, n=1), trial(DAYS[::-1], n=2)
    journal.add([mine])

    async def with_store(add: list[Trial]) -> list[Trial]:
        store = await TickStore.open(ledger_dsn)
        await store.migrate()
        await store.trials.write_many(add)
        found, _ = await store.trials.after(0)
        await store.close()
        return found

    asyncio.run(with_store([theirs]))
    monkeypatch.setenv("LEVIBOT_POSTGRES_DSN", ledger_dsn)
    answer = levibot("trials", "list", "--json").json()
    assert answer["store"] == "exchanged"
    assert {t["trial_id"] for t in answer["trials"]} == {mine.trial_id, theirs.trial_id}
    first, second = asyncio.run(with_store([]))
    assert same(first, theirs)
    assert same(second, mine)


def test_where_postgresql_does_not_answer_the_folders_own_trials_are_shown(
    levibot: Command, journal: TrialJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEVIBOT_POSTGRES_DSN", "postgresql://u:secret@127.0.0.1:1/x")
    journal.add([trial(DAYS)])
    answer = levibot("trials", "count", "--json")
    assert answer.code == 0
    assert answer.json()["store"] == "store_unavailable"
    assert answer.json()["markets"][0]["counted"] == 1
    assert "these are the trials of this state folder alone" in answer.err
    assert "secret" not in answer.err
