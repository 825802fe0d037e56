"""Reading a page of five million events and appending to them, against the bare client on the same engine.

`page_*`: one page of 100 by `EventStore.page`, over nine pages that differ in their filters; the reference is
the bare query without a look at the hourly counts. `append_*`: batches as the event log writes them; the
reference inserts a ready Arrow table. Both at the store: HTTP and the actor in between are not part of it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median

import pyarrow as pa

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, p95, report
from benchmarks.event_table import SYMBOLS, EventTable
from levibot.stores.event import Event, EventRow
from levibot.stores.event_query import EventCursor, EventQuery
from levibot.stores.events import EventStore
from levibot.stores.query_profile import QueryProfile

N_ROWS, QUICK_ROWS = 5_000_000, 200_000
N_ROUNDS, QUICK_ROUNDS = 20, 3
BATCH, N_BATCHES = 5_000, 10


class Workload:
    """The same pages and the same batches for both sides."""

    def __init__(self, table: EventTable, n_rounds: int) -> None:
        self._client = table.client
        self._store = EventStore(table.client, table.where, QueryProfile())
        self._n_rounds = n_rounds
        self._numbers = count()
        middle = table.event_at(table.n_rows // 2)
        cursor = EventCursor(middle.ts, middle.event_id)
        since = table.end - timedelta(days=1)
        self._queries = [
            EventQuery(),
            EventQuery(event_type="signal"),
            EventQuery(symbol="BTCUSDT"),
            EventQuery(event_type="drift", symbol="BTCUSDT"),
            EventQuery(event_type="model_refused"),
            EventQuery(since=since),
            EventQuery(since=since, event_type="signal", symbol="ETHUSDT"),
            EventQuery(after=cursor),
            EventQuery(after=cursor, event_type="signal", symbol="BTCUSDT"),
        ]

    def ours(self) -> Mapping[str, float]:
        """A page and a batch as the event log reads and writes them."""
        rates = []
        for _ in range(N_BATCHES):
            events = self._batch()
            started = time.perf_counter()
            self._store.append(events)
            rates.append(BATCH / (time.perf_counter() - started))
        seconds = []
        for query in self._queries * self._n_rounds:
            started = time.perf_counter()
            self._store.page(query)
            seconds.append(time.perf_counter() - started)
        measured = _measured(seconds, rates)
        return {**measured, "slowest_query_p95_ms": self._slowest_p95_ms(seconds)}

    def reference(self) -> Mapping[str, float]:
        """The bare query, and an insert of a table that is ready."""
        rates = []
        for _ in range(N_BATCHES):
            table = _arrow([EventRow.of(event) for event in self._batch()])
            started = time.perf_counter()
            self._client.insert_arrow("events", table)
            rates.append(BATCH / (time.perf_counter() - started))
        seconds = []
        for query in self._queries * self._n_rounds:
            started = time.perf_counter()
            self._client.query(query.sql(), parameters=query.parameters(query.limit + 1))
            seconds.append(time.perf_counter() - started)
        return _measured(seconds, rates)

    def _slowest_p95_ms(self, seconds: list[float]) -> float:
        n_queries = len(self._queries)
        return max(1000 * p95(seconds[i::n_queries]) for i in range(n_queries))

    def _batch(self) -> list[Event]:
        now = datetime.now(UTC)
        return [
            Event(
                "signal",
                SYMBOLS[i % len(SYMBOLS)],
                now,
                {"probability_up": 0.5 + i / 1e5, "target_position": 0.25, "model_version": "v1.0.2"},
                event_id=f"{next(self._numbers):032x}",
            )
            for i in range(BATCH)
        ]


def _measured(seconds: list[float], rates: list[float]) -> dict[str, float]:
    return {
        "page_p50_ms": 1000 * median(seconds),
        "page_p95_ms": 1000 * p95(seconds),
        "append_rows_per_s": median(rates),
    }


def _arrow(rows: list[EventRow]) -> pa.Table:
    names = EventRow._fields
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    table = {name: pa.array(values) for name, values in columns.items() if name != "ts_us"}
    return pa.table({**table, "ts": pa.array(columns["ts_us"], pa.timestamp("us", tz="UTC"))})


def main() -> None:
    given = arguments("Pages and appends of the event store, against the bare client.")
    n_rows = QUICK_ROWS if given.quick else N_ROWS
    with tempfile.TemporaryDirectory(prefix="levibot-events-") as folder:
        table = EventTable(Path(folder), n_rows, with_before=False)
        try:
            work = Workload(table, QUICK_ROUNDS if given.quick else N_ROUNDS)
            result = compare(
                "events",
                work.ours,
                work.reference,
                what="bare clickhouse-connect on the same engine: the query without a window, insert_arrow",
                goal={
                    "slowest_query_p95_ms": ("<=", 50.0),
                    # Most pages are the same query on both sides: what is left is what we do around it.
                    "page_p50_ms": ("<=", 1.2),
                    "append_rows_per_s": (">=", 0.2),
                },
                repeats=QUICK_REPEATS if given.quick else REPEATS,
                packages=("chdb", "clickhouse-connect"),
                notes={"n_rows": n_rows, "batch": BATCH, "measured_at": "the store, in process"},
            )
        finally:
            table.close()
    report(result, as_json=given.json)


if __name__ == "__main__":
    main()
