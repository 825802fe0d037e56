"""Everything that happens, in ClickHouse: a server, or the real engine inside this process.

The engine in process allows one engine a process and one process a folder, so one actor owns this store.
It is synchronous: the owner calls it from one thread.
"""

from __future__ import annotations

import fcntl
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from levibot.errors import DataError, SettingsError, StoreError, StoreUnavailable, UsageError
from levibot.stores.migrations import sql_files

MAX_READ = 10_000

_COLUMNS = ("event_type", "symbol", "ts", "event_id", "trace_id", "payload")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    ts: aware, the market's time. symbol: empty when it is of no single symbol. payload: JSON values, no NaN.
    event_id: the same for a repeated append of the same event.
    """

    event_type: str
    symbol: str
    ts: datetime
    payload: Mapping[str, Any]
    trace_id: str = ""
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class EventStore:
    """The events of one run. Not safe to call from two threads at once."""

    def __init__(self, client: Client, where: str) -> None:
        self._client = client
        self._where = where

    @classmethod
    def open(cls, clickhouse: str, *, timeout_s: float = 10.0) -> Self:
        """The store at `chdb:///absolute/folder`, or at the http(s) URL of a server; makes its table.

        timeout_s bounds each call to a server; the engine in process has no network to wait for.
        Raises SettingsError on another kind of URL, StoreError when another process holds the folder,
        StoreUnavailable when the server does not answer.
        """
        folder = clickhouse.removeprefix("chdb://")
        if folder != clickhouse and folder.startswith("/"):
            store = cls(_open_engine(Path(folder)), f"the ClickHouse engine in {folder}")
        else:
            store = cls(*_connect(clickhouse, timeout_s))
        try:
            store._make_tables()
        except StoreError:
            store.close()
            raise
        return store

    def append(self, events: Sequence[Event]) -> None:
        """Write events; returns when they are on disk. Readers see an event once, however often appended.

        Raises DataError, with nothing written, when an event has no time zone or its payload is not JSON.
        """
        rows = [_row(event) for event in events]
        if rows:
            with _translated(self._where, "append"):
                self._client.insert("events", rows, column_names=_COLUMNS)

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
        if not 1 <= limit <= MAX_READ:
            raise UsageError(f"limit is {limit}, not in 1 … {MAX_READ}.")
        if since is not None and since.tzinfo is None:
            raise UsageError(f"since is {since}, without a time zone.")
        conditions = ["1"]
        values: dict[str, Any] = {}
        if event_type is not None:
            conditions.append("event_type = {event_type:String}")
            values["event_type"] = event_type
        if symbol is not None:
            conditions.append("symbol = {symbol:String}")
            values["symbol"] = symbol
        if since is not None:
            conditions.append("ts >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')")
            values["since_us"] = _microseconds(since)
        query = (
            "SELECT event_type, symbol, toUnixTimestamp64Micro(ts), event_id, trace_id, payload FROM events "
            f"WHERE {' AND '.join(conditions)} ORDER BY ts DESC, event_id DESC LIMIT {{n_rows:UInt64}}"
        )
        n_rows = limit
        while True:
            # Repeats are rare. A LIMIT 1 BY would sort the whole table on every read.
            with _translated(self._where, "read"):
                rows = self._client.query(query, parameters={**values, "n_rows": n_rows}).result_rows
            once: dict[str, Sequence[Any]] = {}
            for row in rows:
                once.setdefault(row[3], row)
            if len(once) >= limit or len(rows) < n_rows:
                return [_event(row) for row in list(once.values())[:limit]]
            n_rows *= 2

    def count(self) -> int:
        """How many events are stored, each once."""
        with _translated(self._where, "count"):
            return int(self._client.query("SELECT uniqExact(event_id) FROM events").result_rows[0][0])

    def ping(self) -> float:
        """Seconds of one round trip."""
        start = time.perf_counter()
        with _translated(self._where, "ping"):
            self._client.query("SELECT 1")
        return time.perf_counter() - start

    def close(self) -> None:
        """Give the folder free for another process."""
        self._client.close()

    def _make_tables(self) -> None:
        with _translated(self._where, "make the tables"):
            for path in sql_files("clickhouse"):
                # The engine takes one statement a call. In these files one ends with a semicolon and a line.
                for statement in path.read_text().split(";\n"):
                    if statement.strip():
                        self._client.command(statement)


def _connect(clickhouse: str, timeout_s: float) -> tuple[Client, str]:
    url = urlsplit(clickhouse)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError(
            f"The event store's URL has the scheme {url.scheme!r} and the host {url.hostname!r}.",
            hint="Use chdb:///absolute/folder or http(s)://host:port/database.",
        )
    where = f"ClickHouse at {url.hostname}"
    with _translated(where, "connect"):
        client = clickhouse_connect.get_client(
            dsn=clickhouse,
            interface=url.scheme,
            connect_timeout=timeout_s,
            send_receive_timeout=timeout_s,
            autogenerate_session_id=False,
        )
    return client, where


def _open_engine(folder: Path) -> Client:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return clickhouse_connect.get_client(interface="chdb", path=str(folder))
    except ClickHouseError as exc:
        if _is_held(folder):
            raise StoreError(
                f"The event store in {folder} is in use by another process.",
                hint="Read through its owner, or set LEVIBOT_CLICKHOUSE_URL to a server.",
            ) from exc
        raise StoreError(f"The event store in {folder} cannot be opened: {exc}.") from exc


def _is_held(folder: Path) -> bool:
    # The engine keeps this lock for its life, but tells its reason for failing only on stderr.
    try:
        with (folder / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


@contextmanager
def _translated(where: str, what: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as exc:
        raise StoreUnavailable(f"No answer from {where} ({what}).") from exc
    except ClickHouseError as exc:
        raise StoreError(f"{where} refused to {what}: {exc}.") from exc


def _row(event: Event) -> tuple[object, ...]:
    if event.ts.tzinfo is None:
        raise DataError(f"The time of event {event.event_type} is {event.ts}, without a time zone.")
    try:
        payload = json.dumps(dict(event.payload), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as exc:
        raise DataError(f"The payload of event {event.event_type} is not JSON: {exc}.") from exc
    return event.event_type, event.symbol, event.ts.astimezone(UTC), event.event_id, event.trace_id, payload


def _event(row: Sequence[Any]) -> Event:
    event_type, symbol, ts_us, event_id, trace_id, payload = row
    ts = _EPOCH + timedelta(microseconds=ts_us)
    return Event(event_type, symbol, ts, json.loads(payload), trace_id, event_id)


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND
