"""The ledger of trials in PostgreSQL, where the journals of all machines meet. Rows are only added."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from levibot.errors import UsageError
from levibot.learning.evidence.family import Family, family_of
from levibot.learning.evidence.trial import Trial, pack_returns, unpack_returns
from levibot.stores.postgres_client import PostgresClient

BATCH_ROWS = 500
MAX_READ = 5_000
READ_LIMIT_S = 60.0  # ten thousand trials of some years are 30 MB
# Any number that no other program of this database locks.
_LOCK = 0x7472696C

_COLUMNS = {
    "trial_id": "text",
    "run_id": "text",
    "kind": "text",
    "market_id": "text",
    "started_at": "timestamptz",
    "scored_at": "timestamptz",
    "data_hash": "text",
    "view": "text",
    "view_version": "text",
    "seed": "int8",
    "parameters": "text",
    "period_start": "timestamptz",
    "period_end": "timestamptz",
    "budget": "float8",
    "net_sharpe": "float8",
    "gross_sharpe": "float8",
    "n_days": "int4",
    "daily_returns": "bytea",
    "status": "text",
    "git_commit": "text",
}
# Where a column is not called as the field of the record.
_FIELDS = {"period_start": "start", "period_end": "end"}
_NAMES = ", ".join(_COLUMNS)
_INSERT = (
    f"INSERT INTO trials ({_NAMES}) SELECT "
    + ", ".join("parameters::jsonb" if name == "parameters" else name for name in _COLUMNS)
    + " FROM unnest("
    + ", ".join(f"${k}::{kind}[]" for k, kind in enumerate(_COLUMNS.values(), 1))
    + f") AS new ({_NAMES}) ON CONFLICT DO NOTHING"
)
_AFTER = f"SELECT number, {_NAMES} FROM trials WHERE number > $1 ORDER BY number LIMIT $2"
_FAMILY = f"""
SELECT {_NAMES} FROM trials
WHERE (market_id = $1 OR (data_hash = $2 AND data_hash <> '')) AND period_start < $4 AND period_end > $3
"""
_LOOKS = """
SELECT count(*) FROM trials
WHERE kind = 'hold-out' AND market_id = $1 AND parameters ->> 'hold_out' = $2
"""


class TrialStore:
    """Trials of every market. State: none beside the client's pool. Errors as in `TickStore`."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def ledger_id(self) -> str:
        """The name of this ledger; a database that is made anew has another."""
        async with self._client.connection("read_trial_ledger") as (db, _):
            return str(await db.fetchval("SELECT ledger_id FROM trial_ledger"))

    async def write_many(self, trials: Sequence[Trial]) -> int:
        """Count trials, all or none; returns how many were new. One that is there already stays as it is."""
        n_new = 0
        if not trials:
            return n_new
        rows = [_row(trial) for trial in trials]
        async with self._client.connection("write_trials") as (db, deadline), db.transaction():
            # One writer at a time: who reads up to a number must have seen every smaller one.
            await db.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            for at in range(0, len(rows), BATCH_ROWS):
                part = rows[at : at + BATCH_ROWS]
                status = await db.execute(_INSERT, *(list(column) for column in zip(*part, strict=True)))
                n_new += int(status.rsplit(" ", 1)[1])
                deadline.extend()
        return n_new

    async def after(self, number: int, limit: int = BATCH_ROWS) -> tuple[list[Trial], int]:
        """The next trials in the order in which they came, and the number to go on after.

        Raises UsageError on a limit outside 1 to 5,000.
        """
        if not 1 <= limit <= MAX_READ:
            raise UsageError(f"{limit} trials cannot be read at once.", hint=f"Ask for 1 to {MAX_READ}.")
        async with self._client.connection("read_trials") as (db, _):
            rows = await db.fetch(_AFTER, number, limit)
        return [_trial(row) for row in rows], rows[-1]["number"] if rows else number

    async def family(self, market_id: str, data_hash: str, start: datetime, end: datetime) -> Family:
        """What the trials are worth whose period meets [start, end).

        They are those of the market, and those on the same bars under another name.
        """
        async with self._client.connection("read_trials", limit_s=READ_LIMIT_S) as (db, _):
            rows = await db.fetch(_FAMILY, market_id, data_hash, start, end)
        return family_of([_trial(row) for row in rows])

    async def looks(self, market_id: str, hold_out: str) -> int:
        """How often the hold-out of that name was looked at on the market."""
        async with self._client.connection("count_looks") as (db, _):
            return int(await db.fetchval(_LOOKS, market_id, hold_out))

    async def count(self) -> int:
        """How many there are in all."""
        async with self._client.connection("count_trials") as (db, _):
            return int(await db.fetchval("SELECT count(*) FROM trials"))


def _row(trial: Trial) -> list[Any]:
    values: dict[str, Any] = {name: getattr(trial, _FIELDS.get(name, name)) for name in _COLUMNS}
    values["parameters"] = json.dumps(dict(trial.parameters), allow_nan=False)
    if trial.daily_returns is not None:
        values["daily_returns"] = pack_returns(trial.daily_returns)
    return list(values.values())


def _trial(row: Any) -> Trial:
    values = {_FIELDS.get(name, name): row[name] for name in _COLUMNS}
    values["parameters"] = json.loads(values["parameters"])
    values["daily_returns"] = unpack_returns(values["daily_returns"])
    return Trial(**values)
