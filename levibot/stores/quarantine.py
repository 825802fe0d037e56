"""Rows that did not pass the checks of their table, kept with the reason: nothing is lost silently."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from levibot.errors import DataError
from levibot.stores.postgres_client import PostgresClient

BATCH_ROWS = 5_000
MAX_READ = 10_000

_INSERT = """
INSERT INTO quarantine (market_id, table_name, symbol, reason, row, trace_id)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::jsonb[], $6::text[])
ON CONFLICT DO NOTHING
"""
_READ = """
SELECT id, at, table_name, symbol, reason, row, trace_id FROM quarantine
WHERE market_id = $1
    AND ($2::text IS NULL OR symbol = $2)
    AND ($3::timestamptz IS NULL OR at >= $3) AND ($4::timestamptz IS NULL OR at < $4)
ORDER BY at DESC, id DESC LIMIT $5
"""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that a table did not take. row: as it came, in JSON values. reason: a short code."""

    table_name: str
    symbol: str
    reason: str
    row: Mapping[str, Any]
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A refused row as it lies in quarantine. at: when it was put there, aware UTC."""

    id: int
    at: datetime
    refused: Refused


class Quarantine:
    """Refused rows by market. The same row, refused for the same reason again, is one row.

    State: none beside the client's pool. Errors as in `TickStore`.
    """

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def write_many(self, market_id: str, rows: Sequence[Refused]) -> int:
        """Keep rows, all or none; returns how many were new. Raises DataError on a row that is no JSON."""
        if not rows:
            return 0
        payloads = [_text(row) for row in rows]
        n_new = 0
        async with self._client.connection("write_quarantine") as (db, deadline), db.transaction():
            for at in range(0, len(rows), BATCH_ROWS):
                part = rows[at : at + BATCH_ROWS]
                status = await db.execute(
                    _INSERT,
                    market_id,
                    [row.table_name for row in part],
                    [row.symbol for row in part],
                    [row.reason for row in part],
                    payloads[at : at + BATCH_ROWS],
                    [row.trace_id for row in part],
                )
                n_new += int(status.rsplit(" ", 1)[1])
                deadline.extend()
        return n_new

    async def read(
        self,
        market_id: str,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 1000,
    ) -> list[Quarantined]:
        """The newest rows that were put there in [start, end), newest first; at most `limit`, or 10,000."""
        async with self._client.connection("read_quarantine") as (db, _):
            rows = await db.fetch(_READ, market_id, symbol, start, end, min(limit, MAX_READ))
        return [
            Quarantined(
                row["id"],
                row["at"],
                Refused(
                    row["table_name"], row["symbol"], row["reason"], json.loads(row["row"]), row["trace_id"]
                ),
            )
            for row in rows
        ]


def _text(row: Refused) -> str:
    try:
        # NaN is no JSON, and a text that PostgreSQL cannot hold would sink the whole batch.
        return json.dumps(dict(row.row), allow_nan=False, sort_keys=True).replace("\\u0000", "\\ufffd")
    except (TypeError, ValueError) as exc:
        raise DataError(
            f"A refused row of {row.symbol} for {row.table_name} is no JSON: {exc}.",
            hint="Pass numbers that are not finite as text.",
        ) from exc
