"""A month of events by the million, and what the ten queries that are really asked read of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import chdb
from clickhouse_connect.driver.client import Client

from levibot.stores.clickhouse import open_clickhouse
from levibot.stores.clickhouse_migrations import migrate_clickhouse
from levibot.stores.event import Event, EventRow
from levibot.stores.event_query import EventCursor, EventQuery
from levibot.stores.events import HOURLY
from levibot.stores.migrations import sql_files

DAYS = 30
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")
COLUMNS = "event_type, symbol, ts, event_id, trace_id, payload, arrived_at"
# Signals are most of what happens; a refused model is one event in fifty thousand.
ROWS = f"""
SELECT
    multiIf(number % 50000 = 49999, 'model_refused', h % 10 < 7, 'signal', h % 10 < 9, 'bars', 'drift')
        AS event_type,
    if(event_type IN ('signal', 'drift'), {list(SYMBOLS)}[1 + intDiv(h, 10) % 6], '') AS symbol,
    end - toIntervalMicrosecond(toInt64((n_rows - number) / n_rows * {DAYS - 1} * 86400000000)) AS ts,
    lower(hex(sipHash128(number))) AS event_id,
    lower(hex(sipHash128(intDiv(number, 5), 'trace'))) AS trace_id,
    concat('{{"probability_up":', toString(h / 18446744073709551615), ',"target_position":0.25,"n":',
           toString(number), '}}') AS payload,
    toDateTime(ts, 'UTC') AS arrived_at
FROM (
    SELECT number, cityHash64(number) AS h, {{n_rows:UInt64}} AS n_rows,
           fromUnixTimestamp64Micro({{end_us:Int64}}, 'UTC') AS end
    FROM numbers({{n_rows:UInt64}})
)
"""


# A query of today on the one table that there was.
_BEFORE = {
    "FROM events ": "FROM events_before ",
    "FROM events_listed ": "FROM events_before ",
    "listed_type = ''": "1",
    "listed_symbol = ''": "1",
    "listed_type": "event_type",
    "listed_symbol": "symbol",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One query: who asks it, on the table of version 0.1.0 and on today's."""

    name: str
    by: str
    before: str
    after: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a query reads. parts, granules: what EXPLAIN selects. n_rows: what the engine then read."""

    parts: int
    granules: int
    n_rows: int


class EventTable:
    """Today's tables, and beside them `events_before`, the one of version 0.1.0, with the same rows.

    batch: rows an insert, as a writer appends them in the course of a month; None loads all of them at once.
    """

    def __init__(
        self, folder: Path, n_rows: int, *, with_before: bool = True, batch: int | None = None
    ) -> None:
        self.n_rows = n_rows
        self.client, self.where = open_clickhouse(f"chdb://{folder}", timeout_s=10.0)
        # The engine tells what it has read only through its own module.
        self._engine = chdb.connect(str(folder))
        migrate_clickhouse(self.client, self.where)
        self.end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        self._values = {"n_rows": n_rows, "end_us": int(self.end.timestamp()) * 1_000_000}
        tables = ["events"]
        if with_before:
            first = sql_files("clickhouse")[0].read_text().rstrip().rstrip(";")
            self.client.command(first.replace("EXISTS events\n", "EXISTS events_before\n"))
            tables.append("events_before")
        for table in tables:
            for number in range(0, n_rows, batch or n_rows):
                rows = _numbered(number, min(batch or n_rows, n_rows - number))
                self.client.command(f"INSERT INTO {table} ({COLUMNS}) {rows}", parameters=self._values)

    def let_age(self) -> None:
        """Merge the partitions that have ended, as the engine does an hour after their last row."""
        for table in ("events", "events_listed"):
            partitions = self.client.query(
                f"SELECT partition FROM system.parts WHERE active AND table = '{table}' "
                "GROUP BY partition ORDER BY partition"
            ).result_rows
            for (partition,) in partitions[:-1]:
                self.client.command(f"OPTIMIZE TABLE {table} PARTITION '{partition}' FINAL")

    def close(self) -> None:
        self._engine.close()
        self.client.close()

    def queries(self) -> list[Asked]:
        """The ten. `GET /events` asks with one row more than it shows."""
        middle = self.event_at(self.n_rows // 2)
        cursor = EventCursor(middle.ts, middle.event_id)
        since = self.end - timedelta(days=1)
        asked = [
            _read("newest", "/events", EventQuery()),
            _read("newest of a type", "/events?event_type=", EventQuery(event_type="signal")),
            _read("newest of a symbol", "/events?symbol=", EventQuery(symbol="BTCUSDT")),
            _read(
                "newest of a type and symbol",
                "/events?event_type=&symbol=",
                EventQuery(event_type="drift", symbol="BTCUSDT"),
            ),
            _read("newest since an instant", "/events?since=", EventQuery(since=since)),
            _read("page after a cursor", "/events?after=", EventQuery(after=cursor)),
            _read(
                "page of a type and symbol",
                "/events?event_type=&symbol=&after=",
                EventQuery(event_type="signal", symbol="BTCUSDT", after=cursor),
            ),
            _read("newest refused models", "dashboard", EventQuery(event_type="model_refused")),
            _read("events of one request", "operator", EventQuery(trace_id=middle.trace_id)),
        ]
        before = (
            "SELECT toStartOfHour(ts) AS hour, event_type, uniqExact(event_id) FROM events_before "
            "WHERE ts >= toStartOfHour(fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')) "
            "GROUP BY hour, event_type ORDER BY hour, event_type"
        )
        since_us = int(since.timestamp()) * 1_000_000
        hourly = Asked(
            "events an hour and type, one day", "dashboard", before, HOURLY, {"since_us": since_us}
        )
        return [*asked, hourly]

    def reading(self, sql: str, parameters: Mapping[str, Any]) -> Reading:
        """What the engine plans to read of the query, and what it then reads."""
        explained = self.client.query(f"EXPLAIN indexes = 1 {sql}", parameters=dict(parameters)).result_rows
        # The last index of the plan has the last word.
        parts, granules = 0, 0
        for (line,) in explained:
            if found := re.search(r"Parts: (\d+)/", line):
                parts = int(found[1])
            elif found := re.search(r"Granules: (\d+)/", line):
                granules = int(found[1])
        texts = {name: str(value) for name, value in parameters.items()}
        result = self._engine.query(sql, "Null", params=texts)
        return Reading(parts, granules, int(result.storage_rows_read()))

    def event_at(self, number: int) -> Event:
        """The event of that number, 0 is the oldest."""
        sql = f"SELECT {COLUMNS}, toUnixTimestamp64Micro(ts) FROM ({_numbered(number, 1)})"
        (row,) = self.client.query(sql, parameters=self._values).result_rows
        event_type, symbol, _, event_id, trace_id, payload, _, ts_us = row
        return EventRow(event_type, symbol, ts_us, event_id, trace_id, payload).event()


def _numbered(first: int, n_rows: int) -> str:
    """The rows of these numbers."""
    return ROWS.replace("numbers({n_rows:UInt64})", f"numbers({first}, {n_rows})")


def _read(name: str, by: str, query: EventQuery) -> Asked:
    sql = query.sql(in_window=query.has_window)
    before = query.sql()
    for now, then in _BEFORE.items():
        before = before.replace(now, then)
    return Asked(name, by, before, sql, query.parameters(query.limit + 1))


def granule_rows(client: Client, table: str) -> int:
    """How many rows a granule of the table holds."""
    created = str(client.command(f"SHOW CREATE TABLE {table}"))
    found = re.search(r"index_granularity = (\d+)", created)
    return int(found[1]) if found else 8192
