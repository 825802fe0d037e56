"""Everything that happens, in ClickHouse: a server, or the real engine inside this process.

The engine in process allows one engine a process and one process a folder, so one actor owns this store.
It is synchronous: the owner calls it from one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from clickhouse_connect.driver.client import Client

from levibot.errors import StoreError, UsageError
from levibot.stores.clickhouse import open_clickhouse, translated
from levibot.stores.clickhouse_migrations import migrate_clickhouse
from levibot.stores.event import Event, EventRow, instant, microseconds
from levibot.stores.event_query import MAX_READ, EventCursor, EventPage, EventQuery
from levibot.stores.query_profile import PROFILE, QueryProfile

__all__ = ["MAX_READ", "Event", "EventCursor", "EventPage", "EventQuery", "EventStore", "HourlyCount"]

HOURLY = (
    "SELECT toUnixTimestamp64Micro(toDateTime64(hour, 6, 'UTC')), event_type, uniqExactMerge(ids) "
    "FROM events_hourly WHERE hour >= toStartOfHour(fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')) "
    "GROUP BY hour, event_type ORDER BY hour, event_type"
)

# A page is some thousand rows. A second thread has more to do with being woken than with reading.
_READING = {"max_threads": 1}

_COLUMNS = ("event_type", "symbol", "ts", "event_id", "trace_id", "payload")


@dataclass(frozen=True, slots=True)
class HourlyCount:
    """How many events of a type an hour of the market's time has. hour: its beginning, UTC."""

    hour: datetime
    event_type: str
    n_events: int


class EventStore:
    """The events of one run. Not safe to call from two threads at once."""

    def __init__(self, client: Client, where: str, profile: QueryProfile = PROFILE) -> None:
        self._client = client
        self._where = where
        self._profile = profile

    @classmethod
    def open(cls, clickhouse: str, *, timeout_s: float = 10.0) -> Self:
        """The store at `chdb:///absolute/folder`, or at a server's http(s) URL; brings its tables up to date.

        timeout_s bounds each call to a server; the engine in process has no network to wait for.
        Raises SettingsError on another kind of URL, StoreError when another process holds the folder,
        StoreUnavailable when the server does not answer.
        """
        store = cls(*open_clickhouse(clickhouse, timeout_s=timeout_s))
        try:
            migrate_clickhouse(store._client, store._where)
        except StoreError:
            store.close()
            raise
        return store

    def append(self, events: Sequence[Event]) -> None:
        """Write events; returns when they are on disk. Readers see an event once, however often appended.

        Raises DataError, with nothing written, when one of them cannot be stored.
        """
        self.append_rows([EventRow.of(event) for event in events])

    def append_rows(self, rows: Sequence[EventRow]) -> None:
        """Write events that were checked already."""
        if not rows:
            return
        with self._asking("append"):
            self._client.insert("events", list(zip(*rows, strict=True)), _COLUMNS, column_oriented=True)

    def read(
        self,
        limit: int,
        event_type: str | None = None,
        symbol: str | None = None,
        since: datetime | None = None,
    ) -> list[Event]:
        """The newest events first, each once. since: the oldest `ts` to show, aware.

        Raises UsageError when `limit` is not in 1 … 10 000 or `since` has no time zone.
        """
        return [row.event() for row in self._find(EventQuery(limit, event_type, symbol, since), limit)]

    def page(self, query: EventQuery) -> EventPage:
        """One page of the list, and where the next one begins.

        Whoever follows the cursors sees each event that was there at the first page once and none twice,
        whatever is appended meanwhile.
        """
        # One more than asked tells whether there is a next page.
        rows = self._find(query, query.limit + 1)
        shown = tuple(rows[: query.limit])
        if len(rows) == len(shown):
            return EventPage(shown, None)
        return EventPage(shown, EventCursor(instant(shown[-1].ts_us), shown[-1].event_id))

    def hourly(self, since: datetime) -> list[HourlyCount]:
        """Events an hour and type from the hour of `since` on, oldest first. A repeated append counts once.

        Raises UsageError when `since` has no time zone.
        """
        if since.tzinfo is None:
            raise UsageError(f"since is {since}, without a time zone.", hint="UTC is written with a Z.")
        with self._asking("hourly"):
            rows = self._client.query(HOURLY, parameters={"since_us": microseconds(since)}).result_rows
        return [HourlyCount(instant(hour_us), event_type, n) for hour_us, event_type, n in rows]

    def count(self) -> int:
        """How many events are stored, each once."""
        with self._asking("count"):
            return int(self._client.query("SELECT uniqExact(event_id) FROM events").result_rows[0][0])

    def ping(self) -> float:
        """Seconds of one round trip."""
        start = time.perf_counter()
        with self._asking("ping"):
            self._client.query("SELECT 1")
        return time.perf_counter() - start

    def close(self) -> None:
        """Give the folder free for another process."""
        self._client.close()

    def _find(self, query: EventQuery, n_events: int) -> list[EventRow]:
        """The newest rows, each event once."""
        n_rows = n_events
        while True:
            # Repeats are rare. A LIMIT 1 BY would sort the whole table on every read.
            rows = self._newest_rows(query, n_rows)
            once: dict[str, EventRow] = {}
            for row in rows:
                once.setdefault(row.event_id, row)
            if len(once) >= n_events or len(rows) < n_rows:
                return list(once.values())[:n_events]
            n_rows *= 2

    def _newest_rows(self, query: EventQuery, n_rows: int) -> list[EventRow]:
        """The newest rows, repeats among them; fewer than asked for only when there are no more."""
        if not query.has_window:
            return self._rows(query.name, query.sql(), query.parameters(n_rows))[0]
        rows, window_us = self._rows(query.name, query.sql(in_window=True), query.parameters(n_rows))
        if len(rows) < n_rows:
            parameters = query.parameters(n_rows - len(rows))
            if window_us is not None:
                parameters["window_us"] = window_us
            older = query.sql(is_older=window_us is not None)
            rows += self._rows(f"{query.name} behind the window", older, parameters)[0]
        return rows

    def _rows(self, name: str, sql: str, parameters: dict[str, Any]) -> tuple[list[EventRow], int | None]:
        """The rows, and where the window begins that they lie in, where they say so."""
        with self._asking("read", name):
            rows = self._client.query(sql, parameters=parameters, settings=_READING).result_rows
        has_window = bool(rows) and len(rows[0]) > len(EventRow._fields)
        return [EventRow(*row[: len(EventRow._fields)]) for row in rows], rows[0][-1] if has_window else None

    @contextmanager
    def _asking(self, what: str, query: str = "") -> Iterator[None]:
        """Translate the errors of one call, and add it to the profile."""
        with translated(self._where, what), self._profile.measure("clickhouse", query or what):
            yield
