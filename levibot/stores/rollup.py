"""Bars of 1 s and 5 s, rolled up from the trades of the tick table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np

from levibot.errors import DataError
from levibot.market.tick_bars import FIELDS, TickBars
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline
from levibot.stores.snapshot import one_snapshot

# New trades to one transaction. Where every trade is alone in its second, each makes two rows.
STEP_TICKS = 25_000
STEP_LIMIT_S = 60.0
VIEWS = {timedelta(seconds=1): "tick_m1s", timedelta(seconds=5): "tick_m5s"}

_READ = """
SELECT ts, {columns}, n_ticks FROM {view}
WHERE market_id = $1 AND symbol = $2
    AND ($3::timestamptz IS NULL OR ts >= $3) AND ($4::timestamptz IS NULL OR ts < $4)
ORDER BY ts
"""
# Bounded by time: without it the newest of all bars would be looked for among all of them.
_AGE = """
SELECT extract(epoch FROM now() - max(ts))::float8 FROM {view}
WHERE market_id = $1 AND ts > now() - interval '1 hour'
"""
_MARKS = """
SELECT max(id) AS last_id, min(lower_ts) AS lower_ts, max(upper_ts) AS upper_ts, count(*) AS n FROM (
    SELECT * FROM tick_marks ORDER BY id LIMIT 1000
) oldest
"""


class TickRollup:
    """Keeps and reads the bars. Both views are exact at every moment; the roll-up only makes them quick.

    open and close go by (ts, trade_id). volume and vwap are sums of doubles: they may differ in the last
    digits, by 1e-9 of their size at most, with the order in which trades came.
    State: which engine the database has, asked once. Errors as in `TickStore`.
    """

    def __init__(self, client: PostgresClient) -> None:
        self._client = client
        self._is_timescale: bool | None = None

    async def roll_up(self) -> int:
        """Bring the stored bars up to date; returns how many ranges were done.

        Safe to be called by several processes: one at a time works, the others return at once. TimescaleDB's
        policies do this by themselves, except for trades that come too late for them.
        """
        n_done = 0
        while n := await self._step():
            n_done += n
        return n_done

    async def read(
        self,
        market_id: str,
        symbol: str,
        interval: timedelta,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        allows_lag: bool = False,
    ) -> TickBars:
        """The bars that open in [start, end). allows_lag: a replica may answer.

        Raises DataError on an interval other than 1 s and 5 s.
        """
        query = _READ.format(columns=", ".join(FIELDS), view=_view(interval))

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            async with one_snapshot(db):
                rows: Sequence[Any] = await db.fetch(query, market_id, symbol, start, end)
                return rows

        return _bars(symbol, interval, await self._client.read("read_tick_bars", body, allows_lag=allows_lag))

    async def age_s(self, market_id: str, interval: timedelta) -> float | None:
        """Seconds from the opening of the newest bar to now; None when it is older than an hour."""
        async with self._client.connection("age_of_tick_bars") as (db, _):
            age: float | None = await db.fetchval(_AGE.format(view=_view(interval)), market_id)
        return age

    async def _step(self) -> int:
        # A connection a step: behind a pooler that is a transaction a step.
        async with self._client.connection("roll_up_ticks", limit_s=STEP_LIMIT_S) as (db, _):
            if self._is_timescale is None:
                self._is_timescale = await db.fetchval("SELECT to_regclass('tick_m1s_rows') IS NULL")
            if self._is_timescale:
                return await _refresh_late(db)
            try:
                async with db.transaction():
                    n: int = await db.fetchval("SELECT tick_roll_up($1)", STEP_TICKS)
                    return n
            except asyncpg.LockNotAvailableError:
                raise
            except asyncpg.ObjectNotInPrerequisiteStateError:
                pass  # the first trades of a new week
        async with self._client.connection("make_partitions") as (db, _):
            await db.execute("SELECT tick_roll_up_prepares()")
        return await self._step()


async def _refresh_late(db: Any) -> int:
    """Refresh the aggregates where trades came later than the policies look back."""
    marks = await db.fetchrow(_MARKS)
    if not marks["n"]:
        return 0
    lower, upper = (_whole(marks["lower_ts"], 0), _whole(marks["upper_ts"], 4))
    for view in VIEWS.values():
        # A refresh commits by itself, so it can be no part of a transaction, and takes no parameters.
        await db.execute(
            f"CALL refresh_continuous_aggregate('{view}', "
            f"timestamptz '{lower.isoformat()}', timestamptz '{upper.isoformat()}')"
        )
    # Last: a refresh that is cut short is done again.
    await db.execute("DELETE FROM tick_marks WHERE id <= $1", marks["last_id"])
    n: int = marks["n"]
    return n


def _whole(instant: datetime, forward_s: int) -> datetime:
    """The start of the 5 s that hold the instant `forward_s` later."""
    us = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) + forward_s * 1_000_000
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=us // 5_000_000 * 5)


def _view(interval: timedelta) -> str:
    if interval not in VIEWS:
        raise DataError(
            f"There are no bars of {interval} made of trades.",
            hint=f"There are those of {' and '.join(str(known) for known in VIEWS)}.",
        )
    return VIEWS[interval]


def _bars(symbol: str, interval: timedelta, rows: Sequence[Any]) -> TickBars:
    fields = {name: np.array([row[name] for row in rows], np.float64) for name in FIELDS}
    ts = np.array([row["ts"].replace(tzinfo=None) for row in rows], "datetime64[us]")
    return TickBars(
        symbol, interval, ts, n_ticks=np.array([row["n_ticks"] for row in rows], np.int64), **fields
    )
