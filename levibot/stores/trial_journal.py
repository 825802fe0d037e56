"""The trials that this state folder knows of, in one SQLite file: it takes a trial with no server running.

A trial is counted when `add` returns: it is synced to the disk, and survives the process and a power cut.
Many processes add at once. Nothing is ever changed or removed, which the file itself enforces.
`trial_exchange` carries what is new to PostgreSQL and back, so the journal knows the trials of other machines
as well.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from levibot.errors import StoreError, UsageError
from levibot.learning.evidence.trial import Kind, Trial, pack_returns
from levibot.stores.trial_rows import from_text, to_json

BUSY_S = 30.0
MAX_READ = 10_000
MIN_PREFIX = 4
_VERSION = 1
_TABLES = """
CREATE TABLE trials (
    trial_id TEXT PRIMARY KEY, kind TEXT NOT NULL, market_id TEXT NOT NULL, data_hash TEXT NOT NULL,
    start_s REAL NOT NULL, end_s REAL NOT NULL, scored_at_s REAL NOT NULL, record TEXT NOT NULL,
    daily_returns BLOB
) STRICT;
CREATE INDEX trials_by_time ON trials (scored_at_s);
CREATE INDEX trials_by_market ON trials (market_id, kind);
CREATE INDEX trials_by_data ON trials (data_hash);
-- Which ledger in PostgreSQL has a trial, and up to which of its numbers its trials are here.
CREATE TABLE sent (ledger_id TEXT NOT NULL, trial_id TEXT NOT NULL, PRIMARY KEY (ledger_id, trial_id)) STRICT;
CREATE TABLE reached (ledger_id TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
CREATE TRIGGER trials_are_not_changed BEFORE UPDATE ON trials
BEGIN SELECT RAISE(ABORT, 'trials are only added'); END;
CREATE TRIGGER trials_are_not_removed BEFORE DELETE ON trials
BEGIN SELECT RAISE(ABORT, 'trials are only added'); END;
"""
_ADD = "INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (trial_id) DO NOTHING"
_SENT = "INSERT INTO sent VALUES (?, ?) ON CONFLICT DO NOTHING"
_REACHED = """
INSERT INTO reached VALUES (?, ?) ON CONFLICT (ledger_id) DO UPDATE SET number = max(number, excluded.number)
"""
_FAMILY = """
SELECT record, daily_returns FROM trials
WHERE (market_id = ? OR (data_hash = ? AND data_hash <> '')) AND start_s < ? AND end_s > ?
"""
_WAITING = """
SELECT record, daily_returns FROM trials
WHERE trial_id NOT IN (SELECT trial_id FROM sent WHERE ledger_id = ?) ORDER BY scored_at_s, trial_id LIMIT ?
"""
_NEWEST = """
SELECT record, daily_returns FROM trials WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR market_id = ?2)
ORDER BY scored_at_s DESC, trial_id LIMIT ?3
"""
_LOOKS = """
SELECT count(*) FROM trials
WHERE kind = 'hold-out' AND market_id = ? AND json_extract(record, '$.parameters.hold_out') = ?
"""
_COUNTS = """
SELECT market_id, kind, count(*) FROM trials GROUP BY market_id, kind ORDER BY market_id, kind
"""


@dataclass(frozen=True, slots=True)
class TrialJournal:
    """One file; it is made at the first `add`. Opened for each call, so it goes to other processes as it is.

    Every method raises StoreError when the file cannot be read or written.
    """

    path: Path

    def add(self, trials: Sequence[Trial]) -> int:
        """Count trials, all or none; returns how many were new. One that is there already stays as it is."""
        with self._writing() as db:
            return _add(db, trials)

    def family(self, market_id: str, data_hash: str, start: datetime, end: datetime) -> list[Trial]:
        """Trials on the market, or on the same bars under another name, whose period meets [start, end)."""
        with self._reading() as db:
            return _trials(db, _FAMILY, (market_id, data_hash, end.timestamp(), start.timestamp()))

    def looks(self, market_id: str, hold_out: str) -> int:
        """How often the hold-out of that name was looked at on the market."""
        with self._reading() as db:
            return int(db.execute(_LOOKS, (market_id, hold_out)).fetchone()[0])

    def counts(self) -> dict[tuple[str, Kind], int]:
        """How many trials there are, by market and kind."""
        with self._reading() as db:
            return {(market, kind): n for market, kind, n in db.execute(_COUNTS)}

    def newest(
        self, limit: int = 100, *, kind: Kind | None = None, market_id: str | None = None
    ) -> list[Trial]:
        """The trials that were scored last, newest first.

        Raises UsageError on a limit outside 1 to 10,000.
        """
        if not 1 <= limit <= MAX_READ:
            raise UsageError(f"{limit} trials cannot be read at once.", hint=f"Ask for 1 to {MAX_READ}.")
        with self._reading() as db:
            return _trials(db, _NEWEST, (kind, market_id, limit))

    def find(self, beginning: str) -> Trial:
        """The trial whose id begins so. Raises UsageError where that is none, or more than one."""
        if len(beginning) < MIN_PREFIX or not set(beginning) <= set("0123456789abcdef"):
            raise UsageError(f"{beginning!r} is not the beginning of a trial's id: it takes 4 hex digits.")
        query = "SELECT record, daily_returns FROM trials WHERE trial_id >= ? AND trial_id < ? LIMIT 2"
        with self._reading() as db:
            # 'g' comes after every hex digit.
            found = _trials(db, query, (beginning, beginning + "g"))
        if len(found) != 1:
            is_none = "There is no trial" if not found else "There is more than one trial"
            raise UsageError(f"{is_none} whose id begins with {beginning}.", hint="See `trials list`.")
        return found[0]

    def waiting(self, ledger_id: str, limit: int) -> list[Trial]:
        """The oldest trials that the ledger in PostgreSQL is not known to have."""
        with self._reading() as db:
            return _trials(db, _WAITING, (ledger_id, limit))

    def confirm(self, ledger_id: str, trials: Sequence[Trial]) -> None:
        """Remember that the ledger has these."""
        with self._writing() as db:
            db.executemany(_SENT, [(ledger_id, trial.trial_id) for trial in trials])

    def reached(self, ledger_id: str) -> int:
        """Up to which number the trials of that ledger are here; 0 at the beginning."""
        with self._reading() as db:
            row = db.execute("SELECT number FROM reached WHERE ledger_id = ?", (ledger_id,)).fetchone()
        return 0 if row is None else int(row[0])

    def take(self, ledger_id: str, trials: Sequence[Trial], number: int) -> int:
        """Add what the ledger has up to `number`, all or none; returns how many were new here."""
        with self._writing() as db:
            n_new = _add(db, trials)
            db.executemany(_SENT, [(ledger_id, trial.trial_id) for trial in trials])
            db.execute(_REACHED, (ledger_id, number))
        return n_new

    def make(self) -> None:
        """Make the file if it is not there: what cannot be counted is not to be begun."""
        with self._writing():
            pass

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise self._failure("written", exc) from exc
        with self._connected("written", self.path) as db:
            # At once, not at the first write: two that both read first would lock each other out.
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                for statement in _statements(_TABLES):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_VERSION}")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        is_there = self.path.exists()
        with self._connected("read", self.path if is_there else None) as db:
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                # No journal yet, or one that somebody is just making: no trials.
                db.close()
                db = sqlite3.connect(":memory:", isolation_level=None)
                db.executescript(_TABLES)
            try:
                yield db
            finally:
                db.close()

    @contextmanager
    def _connected(self, verb: str, path: Path | None) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(path or ":memory:", timeout=BUSY_S, isolation_level=None)
            try:
                db.execute("PRAGMA synchronous = EXTRA")
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, _VERSION):
                    raise StoreError(
                        f"The trial journal {self.path} is of version {version}, and this LeviBot knows "
                        f"version {_VERSION}.",
                        hint="Use the LeviBot that made it.",
                    )
                yield db
            finally:
                # What was not committed is taken back.
                db.close()
        except sqlite3.Error as exc:
            raise self._failure(verb, exc) from exc

    def _failure(self, verb: str, exc: Exception) -> StoreError:
        return StoreError(
            f"The trial journal {self.path} cannot be {verb}: {exc}.",
            hint="Make room or give leave there, or set LEVIBOT_HOME to another folder. No score without it.",
        )


def _add(db: sqlite3.Connection, trials: Sequence[Trial]) -> int:
    before = db.total_changes
    rows = [
        (
            trial.trial_id,
            trial.kind,
            trial.market_id,
            trial.data_hash,
            trial.start.timestamp(),
            trial.end.timestamp(),
            trial.scored_at.timestamp(),
            json.dumps(to_json(trial), allow_nan=False),
            None if trial.daily_returns is None else pack_returns(trial.daily_returns),
        )
        for trial in trials
    ]
    db.executemany(_ADD, rows)
    return db.total_changes - before


def _trials(db: sqlite3.Connection, query: str, arguments: tuple[object, ...]) -> list[Trial]:
    return [from_text(record, returns) for record, returns in db.execute(query, arguments)]


def _statements(script: str) -> Iterator[str]:
    """One statement each: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
