"""Ledgers in PostgreSQL: signals, shadow fills and orders. A repeat adds nothing, the first writer wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Generic, TypeVar

from levibot.errors import UsageError
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline
from levibot.trading.ledger import Order, ShadowFill, SignalRow

BATCH_ROWS = 5_000
MAX_READ = 10_000

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class LedgerTable(Generic[Row]):
    """How records lie in a table.

    columns: the record's fields with their SQL types. key: what makes a record one, beside the market.
    time: the column that reads go by.
    """

    name: str
    record: type[Row]
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    time: str

    @property
    def insert(self) -> str:
        """$1 is the market, then one array a column."""
        names = ", ".join(name for name, _ in self.columns)
        arrays = ", ".join(f"${k}::{kind}[]" for k, (_, kind) in enumerate(self.columns, 2))
        return (
            f"INSERT INTO {self.name} (market_id, {names}) SELECT $1, * FROM unnest({arrays}) "
            "ON CONFLICT DO NOTHING"
        )

    @property
    def select(self) -> str:
        """$1 the market, $2 the symbol or NULL for all, $3 and $4 the bounds, $5 how many; newest first."""
        names = ", ".join(name for name, _ in self.columns)
        order = ", ".join(f"{name} DESC" for name in (self.time, *self.key))
        return (
            f"SELECT {names} FROM {self.name} WHERE market_id = $1 AND ($2::text IS NULL OR symbol = $2) "
            f"AND ($3::timestamptz IS NULL OR {self.time} >= $3) "
            f"AND ($4::timestamptz IS NULL OR {self.time} < $4) ORDER BY {order} LIMIT $5"
        )


SIGNALS = LedgerTable(
    "signals",
    SignalRow,
    (
        ("symbol", "text"),
        ("as_of", "timestamptz"),
        ("model_version", "text"),
        ("view_version", "text"),
        ("source", "text"),
        ("probability_up", "float8"),
        ("target_position", "float8"),
        ("expected_return", "float8"),
        ("trace_id", "text"),
    ),
    ("symbol", "as_of", "model_version"),
    "as_of",
)
SHADOW_FILLS = LedgerTable(
    "shadow_fills",
    ShadowFill,
    (
        ("symbol", "text"),
        ("ts", "timestamptz"),
        ("account", "text"),
        ("model_version", "text"),
        ("units", "float8"),
        ("price", "float8"),
        ("fee", "float8"),
        ("slippage", "float8"),
        ("funding", "float8"),
        ("equity", "float8"),
    ),
    ("symbol", "ts", "account"),
    "ts",
)
ORDERS = LedgerTable(
    "orders",
    Order,
    (
        ("order_id", "text"),
        ("symbol", "text"),
        ("at", "timestamptz"),
        ("side", "text"),
        ("units", "float8"),
        ("source", "text"),
        ("limit_price", "float8"),
        ("trace_id", "text"),
    ),
    ("order_id",),
    "at",
)


class Ledger(Generic[Row]):
    """One table of records by market. State: none beside the client's pool. Errors as in `TickStore`."""

    def __init__(self, client: PostgresClient, table: LedgerTable[Row]) -> None:
        self._client = client
        self._table = table

    async def write_many(self, market_id: str, rows: Sequence[Row]) -> int:
        """Add records, all or none; returns how many were new.

        A record whose key is there already stays as it is. Raises DataError for a value that the table does
        not take, such as NaN.
        """
        # One order for all writers: two that add the same records cannot lock each other out.
        ordered = sorted(rows, key=attrgetter(*self._table.key))
        n_new = 0
        if not ordered:
            return n_new
        async with (
            self._client.connection(f"write_{self._table.name}") as (db, deadline),
            db.transaction(),
        ):
            for at in range(0, len(ordered), BATCH_ROWS):
                part = ordered[at : at + BATCH_ROWS]
                columns = [[getattr(row, name) for row in part] for name, _ in self._table.columns]
                status = await db.execute(self._table.insert, market_id, *columns)
                n_new += int(status.rsplit(" ", 1)[1])
                deadline.extend()
        return n_new

    async def read(
        self,
        market_id: str,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        limit: int = 1000,
        allows_lag: bool = False,
    ) -> list[Row]:
        """The newest records in [start, end), newest first; at most `limit`.

        allows_lag: a replica may answer. Raises UsageError on a limit outside 1 to 10,000.
        """
        if not 1 <= limit <= MAX_READ:
            raise UsageError(
                f"{limit} {self._table.name} cannot be read at once.",
                hint=f"Ask for 1 to {MAX_READ}, and go on with `end` where the last answer stopped.",
            )

        async def body(db: Any, _: Deadline) -> Sequence[Any]:
            found: Sequence[Any] = await db.fetch(self._table.select, market_id, symbol, start, end, limit)
            return found

        found = await self._client.read(f"read_{self._table.name}", body, allows_lag=allows_lag)
        return [self._table.record(**row) for row in found]
