"""Finished bars in PostgreSQL or TimescaleDB: what every other part of the system reads its market from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError, StoreError
from levibot.market.bars import FIELDS, Bars
from levibot.stores import migrations
from levibot.stores.canaries import CanaryStore
from levibot.stores.holes import Holes
from levibot.stores.ledgers import ORDERS, SHADOW_FILLS, SIGNALS, Ledger
from levibot.stores.observations import ObservationTable
from levibot.stores.partitions import TimePartitions
from levibot.stores.policy_ledger import PolicyLedger
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline
from levibot.stores.postgres_pool import PoolLimits
from levibot.stores.quarantine import Quarantine
from levibot.stores.rollup import TickRollup
from levibot.stores.shadow import ShadowStore
from levibot.stores.tick_table import TickTable
from levibot.stores.trials import TrialStore
from levibot.stores.weight_history import WeightHistory

CHUNK_ROWS = 10_000
HISTORY_LIMIT_S = 120.0  # years of minutes are more than what a statement may usually take

# PostgreSQL's binary COPY: a header, rows of length-prefixed big-endian fields, a trailer.
_HEADER_BYTES, _TRAILER_BYTES = 19, 2
_ROW = np.dtype(
    [("n_fields", ">i2"), ("n_k", ">i4"), ("k", ">i4"), ("n_ts", ">i4"), ("ts", ">i8")]
    + [entry for f in FIELDS for entry in ((f"n_{f}", ">i4"), (f, ">f8"))]
)
_POSTGRES_EPOCH = np.datetime64("2000-01-01", "us")
_UNIX_EPOCH = np.datetime64("1970-01-01", "us")
_ONE_US = np.timedelta64(1, "us")

_COLUMNS = ", ".join(FIELDS)

_INSERT = f"""
INSERT INTO bars (market_id, symbol, interval_s, ts, {_COLUMNS})
SELECT $1, ($2::text[])[k], ($3::int4[])[k], timestamptz 'epoch' + us * interval '1 microsecond', {_COLUMNS}
FROM unnest($4::int4[], $5::int8[], $6::float8[], $7::float8[], $8::float8[], $9::float8[], $10::float8[])
    AS new (k, us, {_COLUMNS})
ON CONFLICT DO NOTHING
"""
_RANGE = f"""
SELECT 1::int4, ts, {_COLUMNS} FROM bars
WHERE market_id = $1 AND symbol = $2 AND interval_s = $3
    AND ($4::timestamptz IS NULL OR ts >= $4) AND ($5::timestamptz IS NULL OR ts < $5)
ORDER BY ts
"""
_TAIL = f"""
SELECT wanted.k::int4, newest.* FROM unnest($2::text[]) WITH ORDINALITY AS wanted (symbol, k), LATERAL (
    SELECT ts, {_COLUMNS} FROM bars
    WHERE market_id = $1 AND symbol = wanted.symbol AND interval_s = $3
        AND ($5::timestamptz IS NULL OR ts < $5)
    ORDER BY ts DESC LIMIT $4
) AS newest
ORDER BY wanted.k, newest.ts
"""
_LAST = """
SELECT wanted.symbol, newest.ts FROM unnest($2::text[]) AS wanted (symbol), LATERAL (
    SELECT ts FROM bars
    WHERE market_id = $1 AND symbol = wanted.symbol AND interval_s = $3
        AND ($4::timestamptz IS NULL OR ts < $4)
    ORDER BY ts DESC LIMIT 1
) AS newest
"""


class TickStore:
    """Bars by market, symbol and interval. A finished bar never changes: its first writer wins.

    State: a connection pool, bound to the event loop that opened it. Every method raises StoreUnavailable
    when PostgreSQL stays silent for `timeout_s` or does not serve, and StoreError when it answers an error.
    """

    def __init__(self, client: PostgresClient) -> None:
        self._client = client
        self.ticks = TickTable(client)
        self.rollup = TickRollup(client)
        self.partitions = TimePartitions(client)
        self.quarantine = Quarantine(client)
        self.holes = Holes(client)
        self.observations = ObservationTable(client)
        self.signals = Ledger(client, SIGNALS)
        self.shadow_fills = Ledger(client, SHADOW_FILLS)
        self.orders = Ledger(client, ORDERS)
        self.shadow = ShadowStore(client)
        self.weights = WeightHistory(client)
        self.policies = PolicyLedger(client)
        self.canaries = CanaryStore(client)
        self.trials = TrialStore(client)

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        timeout_s: float = 2.0,
        limits: PoolLimits | None = None,
        replica_dsn: str | None = None,
    ) -> Self:
        """Connect to the primary at `dsn`. replica_dsn: takes the reads that allow lag, and may be away."""
        return cls(await PostgresClient.open(dsn, timeout_s, limits, replica_dsn=replica_dsn))

    async def close(self) -> None:
        await self._client.close()

    async def ping(self) -> float:
        """Seconds that a round trip takes."""
        started = time.perf_counter()
        async with self._client.connection("ping") as (db, _):
            await db.execute("SELECT 1")
        return time.perf_counter() - started

    async def plan_migration(self) -> migrations.Plan:
        """What `migrate` would apply now."""
        return await migrations.plan(self._client)

    async def migrate(self) -> list[str]:
        """Bring the tables up to date; returns the names of the files that were applied.

        See `migrations.migrate`.
        """
        return await migrations.migrate(self._client)

    async def write_bars(self, market_id: str, bars: Bars) -> int:
        """Add bars; returns how many were new. See `write_many`."""
        return await self.write_many(market_id, [bars])

    async def write_many(self, market_id: str, bars: Iterable[Bars]) -> int:
        """Add the bars of many symbols, all or none; returns how many were new.

        A bar that is there already stays as it is, also where the new one differs: what was computed from it
        must stay reproducible. Raises DataError for a price that is not positive or not finite.
        """
        # One order for all writers: two that add the same bars cannot lock each other out.
        series = sorted((b for b in bars if len(b)), key=lambda b: (b.symbol, b.interval))
        if not series:
            return 0
        keys = market_id, [b.symbol for b in series], [_seconds(b.interval) for b in series]
        k = np.repeat(np.arange(1, len(series) + 1), [len(b) for b in series])
        us = np.concatenate([(b.ts - _UNIX_EPOCH) // _ONE_US for b in series])
        values = [np.concatenate([getattr(b, f) for b in series]) for f in FIELDS]
        edges = [*range(0, len(us), CHUNK_ROWS), len(us)]
        n_new = 0
        async with self._client.connection("write_bars") as (db, deadline), db.transaction():
            for first, last in pairwise(edges):
                columns = [column[first:last].tolist() for column in (k, us, *values)]
                status = await db.execute(_INSERT, *keys, *columns)
                n_new += int(status.rsplit(" ", 1)[1])
                deadline.extend()
        return n_new

    async def read_bars(
        self,
        market_id: str,
        symbol: str,
        interval: timedelta,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        allows_lag: bool = False,
    ) -> Bars:
        """The bars that open in [start, end), oldest first; none where the market has none.

        allows_lag: the newest may be missing; a replica may answer then.
        """
        arguments = market_id, symbol, _seconds(interval), start, end
        rows = await self._copy_out(
            "read_bars", _RANGE, *arguments, limit_s=HISTORY_LIMIT_S, allows_lag=allows_lag
        )
        return _bars(symbol, interval, rows)

    async def read_tail(
        self,
        market_id: str,
        symbols: Sequence[str],
        interval: timedelta,
        n: int,
        end: datetime | None = None,
    ) -> dict[str, Bars]:
        """The newest `n` bars that open before `end`, oldest first; every symbol has an entry."""
        rows = await self._copy_out("read_tail", _TAIL, market_id, list(symbols), _seconds(interval), n, end)
        edges = np.searchsorted(rows["k"], np.arange(1, len(symbols) + 2))
        return {
            symbol: _bars(symbol, interval, rows[first:last])
            for symbol, (first, last) in zip(symbols, pairwise(edges), strict=True)
        }

    async def last_ts(
        self, market_id: str, symbols: Sequence[str], interval: timedelta, end: datetime | None = None
    ) -> dict[str, datetime]:
        """When the newest bar that opens before `end` opened; a symbol without bars has no entry."""
        async with self._client.connection("last_ts") as (db, _):
            rows = await db.fetch(_LAST, market_id, list(symbols), _seconds(interval), end)
        return {row["symbol"]: row["ts"] for row in rows}

    async def _copy_out(
        self,
        name: str,
        query: str,
        *arguments: object,
        limit_s: float | None = None,
        allows_lag: bool = False,
    ) -> npt.NDArray[np.void]:
        """The rows of a query with the columns of `_ROW`. Binary: five times as fast as records."""

        async def copy(db: Any, deadline: Deadline) -> bytearray:
            received = bytearray()

            async def receive(data: bytes) -> None:
                received.extend(data)
                deadline.extend()

            # No bound on the whole: a long history may take its time, a silent server may not.
            await db.copy_from_query(query, *arguments, output=receive, format="binary")
            return received

        received = await self._client.read(name, copy, limit_s=limit_s, allows_lag=allows_lag)
        n_rows, rest = divmod(len(received) - _HEADER_BYTES - _TRAILER_BYTES, _ROW.itemsize)
        if rest:
            raise StoreError(f"PostgreSQL sent {len(received)} bytes, which is no whole number of bars.")
        return np.frombuffer(received, _ROW, count=n_rows, offset=_HEADER_BYTES)


def _bars(symbol: str, interval: timedelta, rows: npt.NDArray[np.void]) -> Bars:
    ts = _POSTGRES_EPOCH + rows["ts"].astype(np.int64) * _ONE_US
    return Bars(symbol, interval, ts, *(rows[f].astype(np.float64) for f in FIELDS))


def _seconds(interval: timedelta) -> int:
    seconds, rest = divmod(interval, timedelta(seconds=1))
    if rest or seconds <= 0:
        raise DataError(f"A bar interval is a positive whole number of seconds, not {interval}.")
    return seconds
