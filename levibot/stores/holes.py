"""Where stored series have holes: bars that are not there between bars that are, and trade ids likewise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from levibot.stores.postgres_client import PostgresClient

# Rows of a symbol that one query walks over: it ends well before the server would cancel it.
WALK_ROWS = 20_000
# Where ids are not dense, there are as many holes as trades.
MAX_HOLES = 10_000

# The last row of a walk has no next one: it says how far the walk came.
_BARS = """
SELECT wanted.k::int4, pair.at, pair.next FROM unnest($2::text[], $4::timestamptz[])
    WITH ORDINALITY AS wanted (symbol, since, k), LATERAL (
    SELECT ts AS at, lead(ts) OVER (ORDER BY ts) AS next FROM (
        SELECT ts FROM bars
        WHERE market_id = $1 AND symbol = wanted.symbol AND interval_s = $3
            AND ts >= coalesce(wanted.since, '-infinity') AND ts < $5
        ORDER BY ts LIMIT $6
    ) AS walked
) AS pair
WHERE pair.next IS NULL OR pair.next > pair.at + make_interval(secs => $3)
ORDER BY wanted.k, pair.at
"""
_TRADES = """
SELECT at, next, first FROM (
    SELECT trade_id AS at, lead(trade_id) OVER by_id AS next, first_value(trade_id) OVER by_id AS first FROM (
        SELECT trade_id FROM ticks WHERE market_id = $1 AND symbol = $2 AND trade_id >= $3
        ORDER BY trade_id LIMIT $4
    ) AS walked WINDOW by_id AS (ORDER BY trade_id)
) AS pair
WHERE next IS NULL OR next > at + 1
ORDER BY at
"""


@dataclass(frozen=True, slots=True)
class Hole:
    """Bars that are not stored between stored ones: those that would open in [start, end)."""

    symbol: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class TradeHole:
    """Trade ids that are not stored between stored ones, both ends included."""

    symbol: str
    first_id: int
    last_id: int

    def __len__(self) -> int:
        return self.last_id - self.first_id + 1


@dataclass(frozen=True, slots=True)
class TradeWalk:
    """What a walk along stored trade ids met. first_id, last_id: None without trades.

    holes: the first `MAX_HOLES`. n_holes, n_missing: all of them, and the ids in them.
    """

    holes: tuple[TradeHole, ...]
    n_holes: int
    n_missing: int
    first_id: int | None
    last_id: int | None

    @property
    def n_stored(self) -> int:
        if self.first_id is None or self.last_id is None:
            return 0
        return self.last_id - self.first_id + 1 - self.n_missing

    @property
    def is_dense(self) -> bool:
        """Whether ids follow one another on this market, so that a missing id is a missing trade."""
        return 10 * self.n_holes < self.n_stored


class Holes:
    """Finds holes by walking along the keys, a stretch a query. State: none beside the client's pool."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def bars(
        self,
        market_id: str,
        symbols: Sequence[str],
        interval: timedelta,
        since: Mapping[str, datetime],
        end: datetime,
    ) -> tuple[list[Hole], dict[str, datetime]]:
        """The holes between the stored bars of the next stretch, and how far each symbol was walked.

        since: where to begin, for each symbol that was walked before; others begin with their oldest bar.
        Bars that open at `end` or later are not looked at. The stretch is `WALK_ROWS` of each symbol; when
        the answer says no more than `since`, the walk has come to its end. A symbol without bars has no
        entry. Errors as in `TickStore`.
        """
        holes: list[Hole] = []
        reached = dict(since)
        starts = [since.get(symbol) for symbol in symbols]
        seconds = int(interval.total_seconds())
        async with self._client.connection("bar_holes") as (db, _):
            rows = await db.fetch(_BARS, market_id, list(symbols), seconds, starts, end, WALK_ROWS)
        for row in rows:
            symbol = symbols[row["k"] - 1]
            if row["next"] is None:
                reached[symbol] = row["at"]
            else:
                holes.append(Hole(symbol, row["at"] + interval, row["next"]))
        return holes, reached

    async def trades(self, market_id: str, symbol: str, since_id: int = 0) -> TradeWalk:
        """The holes between the stored trade ids from `since_id` on. Errors as in `TickStore`."""
        holes: list[TradeHole] = []
        n_holes = n_missing = 0
        first_id: int | None = None
        at = since_id
        while True:
            async with self._client.connection("trade_holes") as (db, _):
                rows = await db.fetch(_TRADES, market_id, symbol, at, WALK_ROWS)
            if rows and first_id is None:
                first_id = rows[0]["first"]
            if not rows or rows[-1]["at"] == at:
                last_id = None if first_id is None else at
                return TradeWalk(tuple(holes), n_holes, n_missing, first_id, last_id)
            found = [TradeHole(symbol, row["at"] + 1, row["next"] - 1) for row in rows[:-1]]
            holes += found[: max(0, MAX_HOLES - n_holes)]
            n_holes += len(found)
            n_missing += sum(map(len, found))
            at = rows[-1]["at"]
