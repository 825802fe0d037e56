"""Observations from outside in PostgreSQL: read as they were known, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import numpy as np

from levibot.market.bars import to_datetime, to_datetime64
from levibot.market.observations import Observations
from levibot.market.side_series import SideSeries
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline

BATCH_ROWS = 5_000
HISTORY_LIMIT_S = 120.0  # years of quotes by the minute are more than what a statement may usually take
# How the table says that an observation is of the whole market.
MARKET = ""
# Every instant at which anything became known.
ALL = timedelta(microseconds=1)

_INSERT = """
INSERT INTO observations (market_id, source, symbol, name, event_ts, available_ts, value)
SELECT $1, * FROM unnest(
    $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::float8[]
)
ON CONFLICT DO NOTHING
"""
# Of what became known in one stretch of time, the newest event counts at its end, and the last word on it.
_READ = """
SELECT DISTINCT ON (name, symbol, stretch) name, symbol, event_ts, available_ts, value,
    date_bin($6::interval, available_ts - interval '1 microsecond', timestamptz 'epoch') AS stretch
FROM observations
WHERE market_id = $1 AND name = ANY ($2) AND symbol = ANY ($3)
    AND ($4::timestamptz IS NULL OR event_ts >= $4) AND ($5::timestamptz IS NULL OR available_ts <= $5)
ORDER BY name, symbol, stretch, event_ts DESC, available_ts DESC, source
"""
_STANDING = """
SELECT DISTINCT ON (event_ts) event_ts, value FROM observations
WHERE market_id = $1 AND source = $2 AND name = $3 AND symbol = $4 AND event_ts BETWEEN $5 AND $6
ORDER BY event_ts, available_ts DESC
"""
_NEWEST = """
SELECT name, symbol, max(event_ts) AS event_ts FROM observations
WHERE market_id = $1 AND source = $2 GROUP BY name, symbol
"""


class ObservationTable:
    """Observations by market. State: none beside the client's pool. Errors as in `TickStore`."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def write(self, market_id: str, sets: Sequence[Observations]) -> int:
        """Add observations, all or none; returns how many were new.

        One that is there already, by source, symbol, name and both instants, stays as it is.
        """
        rows = [row for one in sets for row in _rows(one)]
        # One order for all writers: two that add the same rows cannot lock each other out.
        rows.sort(key=lambda row: row[:5])
        n_new = 0
        if not rows:
            return n_new
        async with self._client.connection("write_observations") as (db, deadline), db.transaction():
            for at in range(0, len(rows), BATCH_ROWS):
                columns = [list(column) for column in zip(*rows[at : at + BATCH_ROWS], strict=True)]
                status = await db.execute(_INSERT, market_id, *columns)
                n_new += int(status.rsplit(" ", 1)[1])
                deadline.extend()
        return n_new

    async def read(
        self,
        market_id: str,
        names: Sequence[str],
        symbols: Sequence[str],
        since: datetime | None = None,
        as_of: datetime | None = None,
        *,
        every: timedelta = ALL,
        allows_lag: bool = False,
    ) -> list[SideSeries]:
        """The series of these names as they were known at `as_of`, of the events since `since`.

        One for each symbol that has any, and one with symbol None for what is said of the whole market.
        Where several sources tell one series, the newest event counts, whoever told it. every: the answer is
        only asked at whole multiples of it since 1970, such as the closes of bars, and is as short as that
        allows. allows_lag: a replica may answer.
        """

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            wanted = list(names), [*symbols, MARKET]
            found: Sequence[Any] = await db.fetch(_READ, market_id, *wanted, since, as_of, every)
            return found

        rows = await self._client.read(
            "read_observations", body, limit_s=HISTORY_LIMIT_S, allows_lag=allows_lag
        )
        by_series = groupby(rows, lambda row: (row["name"], row["symbol"]))
        return [_series(name, symbol, list(of)) for (name, symbol), of in by_series]

    async def news(self, market_id: str, said: Observations) -> Observations:
        """What of `said` is not known yet: an event that is new, or has another value than it had last."""
        if not len(said):
            return said
        span = to_datetime(said.event_ts.min()), to_datetime(said.event_ts.max())
        async with self._client.connection("standing_observations") as (db, _):
            rows = await db.fetch(_STANDING, market_id, said.source, said.name, said.symbol or MARKET, *span)
        standing = {to_datetime64(row["event_ts"]): row["value"] for row in rows}
        is_news = [
            event not in standing or standing[event] != (None if np.isnan(value) else value)
            for event, value in zip(said.event_ts, said.value.tolist(), strict=True)
        ]
        return said.rows(np.array(is_news, np.bool_))

    async def newest_events(self, market_id: str, source: str) -> dict[tuple[str, str | None], datetime]:
        """The newest event of each series and symbol that a source has told."""
        async with self._client.connection("newest_observations") as (db, _):
            rows = await db.fetch(_NEWEST, market_id, source)
        return {(row["name"], row["symbol"] or None): row["event_ts"] for row in rows}


def _rows(one: Observations) -> list[tuple[Any, ...]]:
    key = one.source, one.symbol or MARKET, one.name
    values = [None if np.isnan(value) else value for value in one.value.tolist()]
    instants = zip(one.event_ts, one.available_ts, values, strict=True)
    return [(*key, to_datetime(event), to_datetime(available), value) for event, available, value in instants]


def _series(name: str, symbol: str, rows: list[Any]) -> SideSeries:
    event_at = np.array([to_datetime64(row["event_ts"]) for row in rows], "datetime64[us]")
    available_at = np.array([to_datetime64(row["available_ts"]) for row in rows], "datetime64[us]")
    value = np.array([np.nan if row["value"] is None else row["value"] for row in rows], np.float64)
    return SideSeries.of_observations(name, symbol or None, event_at, available_at, value)
