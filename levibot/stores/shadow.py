"""Shadow accounts in PostgreSQL: what they decided, where they stand, and every bar priced exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter
from typing import Any

import numpy as np

from levibot.stores.ledgers import BATCH_ROWS, SHADOW_FILLS
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline
from levibot.trading.market_step import Account
from levibot.trading.shadow import Book, Day, Decision, Priced

PRICING_LIMIT_S = 60.0

_BEGIN = "INSERT INTO shadow_progress VALUES ($1, '-infinity') ON CONFLICT DO NOTHING"
_ALONE = """
SELECT nullif(priced_to, '-infinity') AS priced_to FROM shadow_progress WHERE market_id = $1 FOR UPDATE
"""
# Written by many, priced by one: whoever prices waits for writers, and writers for whoever prices.
_DECIDE = """
WITH progress AS (SELECT priced_to FROM shadow_progress WHERE market_id = $1 FOR SHARE)
INSERT INTO shadow_decisions (market_id, as_of, symbol, model_version, view_version, no_trade_band, accounts,
    positions, blend, is_in_time)
SELECT $1, as_of, symbol, model_version, view_version, no_trade_band, accounts, positions, blend,
    as_of >= priced_to
FROM progress, jsonb_to_recordset($2::jsonb) AS new (as_of timestamptz, symbol text, model_version text,
    view_version text, no_trade_band float8, accounts text[], positions float8[], blend jsonb)
ON CONFLICT DO NOTHING
"""
_DECIDED = """
SELECT symbol, as_of, model_version, view_version, no_trade_band, accounts, positions, blend::text
FROM shadow_decisions
WHERE market_id = $1 AND as_of >= coalesce($2::timestamptz, '-infinity')
    AND ($3::timestamptz IS NULL OR as_of < $3) AND is_in_time
ORDER BY as_of, symbol LIMIT $4
"""
_FIRST = "SELECT min(as_of) FROM shadow_decisions WHERE market_id = $1 AND is_in_time"
_STANDING = """
SELECT priced_to FROM shadow_progress WHERE market_id = $1 AND priced_to > '-infinity'
"""
_ACCOUNTS = (
    "SELECT account, symbols, units, last_price, cash, equity FROM shadow_accounts WHERE market_id = $1"
)
_NEWEST_DAYS = """
SELECT DISTINCT ON (account) account, day, opened_equity, equity FROM shadow_days WHERE market_id = $1
ORDER BY account, day DESC
"""
_DAYS = """
SELECT account, day, opened_equity, equity FROM shadow_days
WHERE market_id = $1 AND ($2::date IS NULL OR day >= $2) AND ($3::date IS NULL OR day < $3)
ORDER BY day, account
"""
_WRITE_ACCOUNT = """
INSERT INTO shadow_accounts VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (market_id, account) DO UPDATE SET symbols = excluded.symbols, units = excluded.units,
    last_price = excluded.last_price, cash = excluded.cash, equity = excluded.equity
"""
_WRITE_DAYS = """
INSERT INTO shadow_days (market_id, account, day, opened_equity, equity)
SELECT $1, * FROM unnest($2::text[], $3::date[], $4::float8[], $5::float8[])
ON CONFLICT (market_id, account, day) DO UPDATE SET equity = excluded.equity
"""
_WRITE_EQUITY = """
INSERT INTO shadow_equity (market_id, account, closes_at, equity)
SELECT $1, * FROM unnest($2::text[], $3::timestamptz[], $4::float8[])
"""
_PROGRESS = "UPDATE shadow_progress SET priced_to = $2 WHERE market_id = $1"
# A day belongs to the regime that was most probable when it began, as in a report.
_EARNED = """
SELECT account, coalesce((
    SELECT regime.key FROM ensemble_weights w, LATERAL jsonb_each_text(w.held -> 'regime') AS regime
    WHERE w.market_id = d.market_id AND w.day = d.day - 1
    ORDER BY regime.value::float8 DESC, regime.key LIMIT 1
), 'unknown') AS regime, count(*) AS days, sum(equity - opened_equity) AS pnl
FROM shadow_days d WHERE market_id = $1 GROUP BY 1, 2 ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Earned:
    """What an account earned on the days of a regime, net of costs, in quote currency."""

    account: str
    regime: str
    days: int
    pnl: float


class ShadowStore:
    """The accounts by market. State: none beside the client's pool. Errors as in `TickStore`."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client

    async def decide(self, market_id: str, decisions: Sequence[Decision]) -> int:
        """Add decisions, all or none; returns how many were new. The first of a close and symbol stands.

        One whose bar was priced already is kept, and says that it came too late: no account follows it.
        Raises DataError for a value that the table does not take.
        """
        if not decisions:
            return 0
        ordered = sorted(decisions, key=attrgetter("as_of", "symbol"))
        rows = json.dumps([_row(decision) for decision in ordered], allow_nan=False)
        async with self._client.connection("write_decisions") as (db, _), db.transaction():
            await db.execute(_BEGIN, market_id)
            status = await db.execute(_DECIDE, market_id, rows)
        return int(status.rsplit(" ", 1)[1])

    async def decisions(
        self,
        market_id: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        limit: int = 100_000,
    ) -> list[Decision]:
        """The decisions in [start, end) that accounts follow, oldest first; at most `limit`."""

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            found: Sequence[Any] = await db.fetch(_DECIDED, market_id, start, end, limit)
            return found

        return [_decision(row) for row in await self._client.read("read_decisions", body)]

    async def reach(self, market_id: str) -> datetime | None:
        """The close that the accounts stand at: of the newest priced bar, or of the first decision.

        None while nothing was decided.
        """

        async def body(db: Any, _: Deadline) -> datetime | None:
            priced_to: datetime | None = await db.fetchval(_STANDING, market_id)
            if priced_to is None:
                priced_to = await db.fetchval(_FIRST, market_id)
            return priced_to

        return await self._client.read("read_shadow_reach", body)

    async def book(self, market_id: str) -> Book:
        """Every account as it stands."""

        async def body(db: Any, _: Deadline) -> Book:
            return await _read_book(db, market_id)

        return await self._client.read("read_shadow_book", body)

    async def advance(
        self,
        market_id: str,
        expected: datetime,
        end: datetime,
        step: Callable[[Book, list[Decision]], Priced],
        *,
        keeps_bars: bool = False,
    ) -> Priced | None:
        """Price bars once: what `step` makes of the accounts and their decisions is written, all or nothing.

        expected: where the caller takes the accounts to stand, see `reach`; when another has priced
        meanwhile, nothing is done, and None returned. end: decisions before it are given to `step`.
        keeps_bars: the equity after each bar is written too.
        Whatever dies on the way, a bar is priced once or not at all; nobody decides while it is.
        """
        async with (
            self._client.connection("price_shadow_accounts", limit_s=PRICING_LIMIT_S) as (db, deadline),
            db.transaction(),
        ):
            await db.execute(_BEGIN, market_id)
            stands_at = await db.fetchval(_ALONE, market_id)
            if stands_at is None:
                stands_at = await db.fetchval(_FIRST, market_id)
            if stands_at != expected:
                return None
            book = await _read_book(db, market_id)
            # After the lock: a decision that was written meanwhile is among them.
            rows = await db.fetch(_DECIDED, market_id, expected, end, None)
            priced = step(book, [_decision(row) for row in rows])
            deadline.extend()
            await _write(db, market_id, priced, deadline)
            if keeps_bars:
                columns = [[getattr(m, n) for m in priced.marked] for n in ("account", "closes_at", "equity")]
                await db.execute(_WRITE_EQUITY, market_id, *columns)
        return priced

    async def days(self, market_id: str, start: date | None = None, end: date | None = None) -> list[Day]:
        """What each account did on the days in [start, end), oldest first. The newest may not be over."""

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            found: Sequence[Any] = await db.fetch(_DAYS, market_id, start, end)
            return found

        return [Day(**row) for row in await self._client.read("read_shadow_days", body)]

    async def earned(self, market_id: str) -> list[Earned]:
        """What every account earned so far, by the regime in which each day began."""

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            found: Sequence[Any] = await db.fetch(_EARNED, market_id)
            return found

        return [Earned(**row) for row in await self._client.read("read_shadow_pnl", body)]


async def _read_book(db: Any, market_id: str) -> Book:
    book = Book.empty(())
    rows = await db.fetch(_ACCOUNTS, market_id)
    for row in rows:
        book = book.with_symbols(row["symbols"])
    accounts = {}
    for row in rows:
        units, last_price = np.zeros(len(book.symbols)), np.full(len(book.symbols), np.nan)
        places = [book.symbols.index(symbol) for symbol in row["symbols"]]
        units[places], last_price[places] = row["units"], row["last_price"]
        accounts[row["account"]] = Account(units, last_price, row["cash"], row["equity"])
    days = {row["account"]: Day(**row) for row in await db.fetch(_NEWEST_DAYS, market_id)}
    return Book(book.symbols, accounts, days)


async def _write(db: Any, market_id: str, priced: Priced, deadline: Deadline) -> None:
    for at in range(0, len(priced.fills), BATCH_ROWS):
        part = priced.fills[at : at + BATCH_ROWS]
        columns = [[getattr(fill, name) for fill in part] for name, _ in SHADOW_FILLS.columns]
        await db.execute(SHADOW_FILLS.insert, market_id, *columns)
        deadline.extend()
    for name, account in sorted(priced.book.accounts.items()):
        state = account.units.tolist(), account.last_price.tolist(), account.cash, account.equity
        await db.execute(_WRITE_ACCOUNT, market_id, name, list(priced.book.symbols), *state)
    names = "account", "day", "opened_equity", "equity"
    columns = [[getattr(day, name) for day in priced.days] for name in names]
    await db.execute(_WRITE_DAYS, market_id, *columns)
    await db.execute(_PROGRESS, market_id, priced.priced_to)


def _row(decision: Decision) -> dict[str, Any]:
    return {
        "as_of": decision.as_of.isoformat(),
        "symbol": decision.symbol,
        "model_version": decision.model_version,
        "view_version": decision.view_version,
        "no_trade_band": decision.no_trade_band,
        "accounts": list(decision.positions),
        "positions": list(decision.positions.values()),
        "blend": dict(decision.blend),
    }


def _decision(row: Any) -> Decision:
    return Decision(
        symbol=row["symbol"],
        as_of=row["as_of"],
        model_version=row["model_version"],
        view_version=row["view_version"],
        no_trade_band=row["no_trade_band"],
        positions=dict(zip(row["accounts"], row["positions"], strict=True)),
        blend=json.loads(row["blend"]),
    )
