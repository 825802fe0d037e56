"""Trades in PostgreSQL or TimescaleDB: each one once, whoever writes it, how often and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from levibot.errors import StoreUnavailable
from levibot.market.ticks import COLUMNS, Ticks, check_ticks, joined
from levibot.stores import tick_rows
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline
from levibot.stores.snapshot import one_snapshot

# One COPY at most: it ends well before the server would cancel it.
COPY_ROWS = 50_000
# How long a writer waits for another one that writes the same symbols, and for one look at the lock.
PATIENCE_S = 20.0
LOCK_WAIT_MS = 1_000
# A day of a busy symbol is more than what a statement may usually take.
HISTORY_LIMIT_S = 120.0
# How many hours are remembered to have a partition.
MOST_HOURS = 10_000
# A mark is rolled up whole, so it is no larger than a step of the roll-up may be.
MARK_TICKS = 10_000
# Ranges of a mark with less than this between them become one: a second without trades costs nothing.
JOINED_GAP_S = 60

_FIELDS = ", ".join(COLUMNS)
_BEGIN = "SELECT tick_write_begins($1, $2::text[], $3::int8[], $4::int8[], $5::timestamptz[], $6)"
_END = "SELECT tick_write_ends($1, $2::text[], $3::timestamptz[], $4::timestamptz[], $5::int8[])"
_KNOWN_BETWEEN = """
SELECT trade_id FROM ticks WHERE market_id = $1 AND symbol = $2 AND trade_id BETWEEN $3 AND $4
"""
_KNOWN_OF = "SELECT trade_id FROM ticks WHERE market_id = $1 AND symbol = $2 AND trade_id = ANY($3::int8[])"
_RANGE = f"""
SELECT {_FIELDS} FROM ticks
WHERE market_id = $1 AND symbol = $2
    AND ($3::timestamptz IS NULL OR ts >= $3) AND ($4::timestamptz IS NULL OR ts < $4)
ORDER BY ts, trade_id
"""
_LAST = """
SELECT wanted.symbol, newest.ts, newest.trade_id FROM unnest($2::text[]) AS wanted (symbol), LATERAL (
    SELECT ts, trade_id FROM ticks WHERE market_id = $1 AND symbol = wanted.symbol
    ORDER BY ts DESC, trade_id DESC LIMIT 1
) AS newest
"""


@dataclass(frozen=True, slots=True)
class Marks:
    """Ranges of whole seconds in which trades were added, as columns: [lowers, uppers), and how many."""

    lowers: list[datetime]
    uppers: list[datetime]
    counts: list[int]


class TickTable:
    """Trades by market, symbol and the exchange's trade id. A trade never changes: its first writer wins.

    State: the hours that are known to have a partition. Errors as in `TickStore`.
    """

    def __init__(self, client: PostgresClient) -> None:
        self._client = client
        self._prepared: set[datetime] = set()

    async def write(self, market_id: str, ticks: Iterable[Ticks]) -> int:
        """Add trades of any number of symbols, in any order, all or none; returns how many were new.

        A trade whose id is there already stays as it is, in whichever partition it lies. Writers of the same
        symbols take turns. Best in batches of some thousand trades; they are held in memory twice.
        Raises DataError as `check_ticks` does, and for trades of a time whose trades retention has dropped.
        StoreUnavailable also when others write the same symbols for longer than `PATIENCE_S`.
        """
        pieces: dict[str, list[Ticks]] = {}
        for piece in ticks:
            if len(check_ticks(piece)):
                pieces.setdefault(piece.symbol, []).append(piece)
        batch = [joined(pieces[symbol]).distinct() for symbol in sorted(pieces)]
        if not batch:
            return 0
        hours = tick_rows.instants(np.unique(np.concatenate([_floored(part.ts, "h") for part in batch])))
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_S
        while True:
            if not self._prepared.issuperset(hours):
                await self._prepare(hours)
            async with self._client.connection("write_ticks") as (db, deadline):
                try:
                    async with db.transaction():
                        return await self._add(db, deadline, market_id, batch, hours)
                except asyncpg.ObjectNotInPrerequisiteStateError as exc:
                    # Another writer has the locks, or a partition was dropped since: both pass.
                    self._prepared.clear()
                    if loop.time() > give_up_at:
                        symbols = ", ".join(part.symbol for part in batch)
                        raise StoreUnavailable(
                            f"Trades of {symbols} have been in use by others for {PATIENCE_S:g} s: {exc}.",
                            hint="Write in smaller batches.",
                        ) from exc

    async def read(
        self,
        market_id: str,
        symbol: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        allows_lag: bool = False,
    ) -> Ticks:
        """The trades in [start, end), in the order of (ts, trade_id). allows_lag: a replica may answer."""

        async def body(db: Any, deadline: Deadline) -> bytearray:
            async with one_snapshot(db):
                return await _copy_out(db, deadline, _RANGE, market_id, symbol, start, end)

        received = await self._client.read("read_ticks", body, limit_s=HISTORY_LIMIT_S, allows_lag=allows_lag)
        return tick_rows.decode(symbol, received)

    async def last(self, market_id: str, symbols: Sequence[str]) -> dict[str, tuple[datetime, int]]:
        """When the newest trade was, and its id; a symbol without trades has no entry."""
        async with self._client.connection("last_ticks") as (db, _), one_snapshot(db):
            rows = await db.fetch(_LAST, market_id, list(symbols))
        return {row["symbol"]: (row["ts"], row["trade_id"]) for row in rows}

    async def _prepare(self, hours: Sequence[datetime]) -> None:
        # In a transaction of its own, which has ended before anybody can see the rows.
        async with self._client.connection("make_partitions") as (db, _):
            await db.execute("SELECT tick_write_prepares($1::timestamptz[])", hours)
        if len(self._prepared) > MOST_HOURS:
            self._prepared.clear()
        self._prepared.update(hours)

    async def _add(
        self, db: Any, deadline: Deadline, market_id: str, batch: Sequence[Ticks], hours: Sequence[datetime]
    ) -> int:
        rows = await db.fetch(
            _BEGIN,
            market_id,
            [part.symbol for part in batch],
            [int(part.trade_id.min()) for part in batch],
            [int(part.trade_id.max()) for part in batch],
            hours,
            LOCK_WAIT_MS,
        )
        deadline.extend()
        may_know = {row[0] for row in rows}
        new = []
        for part in batch:
            if part.symbol in may_know:
                known = await _known_ids(db, deadline, market_id, part)
                part = part.rows(~np.isin(part.trade_id, known))
            if len(part):
                new.append(part)
        for piece in _pieces(new):
            await _copy_in(db, deadline, market_id, piece)
        if new:
            marks = [(part.symbol, marks_of(part)) for part in new]
            await db.execute(
                _END,
                market_id,
                [symbol for symbol, m in marks for _ in m.counts],
                [ts for _, m in marks for ts in m.lowers],
                [ts for _, m in marks for ts in m.uppers],
                [n for _, m in marks for n in m.counts],
            )
            deadline.extend()
        return sum(map(len, new))


def marks_of(ticks: Ticks) -> Marks:
    """The ranges of seconds that the trades touch, none of more than `MARK_TICKS` of them."""
    seconds = np.sort(_floored(ticks.ts, "s"))
    is_first = np.arange(len(seconds)) % MARK_TICKS == 0
    is_first[1:] |= np.diff(seconds) > np.timedelta64(JOINED_GAP_S, "s")
    first = np.flatnonzero(is_first)
    counts = np.diff(np.append(first, len(seconds)))
    return Marks(
        tick_rows.instants(seconds[first]),
        tick_rows.instants(seconds[first + counts - 1] + np.timedelta64(1, "s")),
        counts.tolist(),
    )


def _floored(ts: npt.NDArray[np.datetime64], unit: str) -> npt.NDArray[np.datetime64]:
    floored: npt.NDArray[np.datetime64] = ts.astype(f"datetime64[{unit}]")
    return floored


def _pieces(parts: Sequence[Ticks]) -> Iterable[list[Ticks]]:
    """The trades of all symbols, cut into pieces of at most `COPY_ROWS`."""
    piece: list[Ticks] = []
    room = COPY_ROWS
    for part in parts:
        at = 0
        while at < len(part):
            piece.append(part.rows(slice(at, at + room)))
            at += len(piece[-1])
            room -= len(piece[-1])
            if room == 0:
                yield piece
                piece, room = [], COPY_ROWS
    if piece:
        yield piece


async def _known_ids(db: Any, deadline: Deadline, market_id: str, ticks: Ticks) -> npt.NDArray[np.int64]:
    """The ids among those of the trades that the table has; it may name others as well."""
    first, last = int(ticks.trade_id.min()), int(ticks.trade_id.max())
    if last - first < 4 * len(ticks):
        received = await _copy_out(db, deadline, _KNOWN_BETWEEN, market_id, ticks.symbol, first, last)
        return tick_rows.decode_ids(received)
    known: list[int] = []
    # Far apart: what lies between them may be the whole history.
    for at in range(0, len(ticks), COPY_ROWS):
        ids = ticks.trade_id[at : at + COPY_ROWS].tolist()
        known += [row[0] for row in await db.fetch(_KNOWN_OF, market_id, ticks.symbol, ids)]
        deadline.extend()
    return np.array(known, np.int64)


async def _copy_in(db: Any, deadline: Deadline, market_id: str, parts: Sequence[Ticks]) -> None:
    async def data() -> AsyncIterator[bytes]:
        for block in tick_rows.blocks(b"".join(tick_rows.encode(market_id, part) for part in parts)):
            yield block
            deadline.extend()

    columns = ["market_id", "symbol", *COLUMNS]
    await db.copy_to_table("ticks", source=data(), columns=columns, format="binary")
    deadline.extend()


async def _copy_out(db: Any, deadline: Deadline, query: str, *arguments: object) -> bytearray:
    received = bytearray()

    async def receive(data: bytes) -> None:
        received.extend(data)
        deadline.extend()

    await db.copy_from_query(query, *arguments, output=receive, format="binary")
    return received
