"""What can be asked of the events, and the place in the list where the next page begins."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from levibot.errors import UsageError
from levibot.stores.event import Event, EventRow, instant, microseconds

MAX_READ = 10_000

_COLUMNS = "event_type, symbol, toUnixTimestamp64Micro(ts), event_id, trace_id, payload"


@dataclass(frozen=True, slots=True)
class EventCursor:
    """The last event of a page. The next page holds what lies behind it, whatever was appended meanwhile."""

    ts: datetime
    event_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The cursor that `text()` wrote. Raises UsageError on anything else."""
        try:
            packed = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            ts_us, event_id = json.loads(packed)
            if type(ts_us) is not int or type(event_id) is not str:
                raise ValueError("not an instant and an id")
            event_id.encode()
            return cls(instant(ts_us), event_id)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise UsageError(
                f"{text[:100]!r} is not a cursor of the events.", hint="Give the next_cursor of an answer."
            ) from exc

    def text(self) -> str:
        """Opaque, and safe in a URL."""
        packed = json.dumps([microseconds(self.ts), self.event_id], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to read, newest first. None: any.

    since: the oldest `ts` to show, aware. after: what lies behind this place of the list.
    Raises UsageError when `limit` is not in 1 … 10 000 or `since` has no time zone.
    """

    limit: int = 100
    event_type: str | None = None
    symbol: str | None = None
    since: datetime | None = None
    trace_id: str | None = None
    after: EventCursor | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_READ:
            raise UsageError(f"limit is {self.limit}, not in 1 … {MAX_READ}.")
        if self.since is not None and self.since.tzinfo is None:
            raise UsageError(f"since is {self.since}, without a time zone.", hint="UTC is written with a Z.")

    @property
    def name(self) -> str:
        """What the profile calls it: the filters, never their values."""
        filters = ("event_type", "symbol", "since", "trace_id", "after")
        return " ".join(["read", *(name for name in filters if getattr(self, name) is not None)])

    @property
    def is_listed(self) -> bool:
        """Whether a list of its own (`events_listed`) holds just the events that are asked for."""
        filters = (self.event_type, self.symbol)
        return self.trace_id is None and "" not in filters and filters != (None, None)

    @property
    def has_window(self) -> bool:
        """Whether the hourly counts tell how far back the events lie that are asked for."""
        return self.trace_id is None and not self.is_listed

    def sql(self, *, in_window: bool = False, is_older: bool = False) -> str:
        """The query, with the names of `parameters` for its values.

        in_window: look back only as far as the hourly counts say is enough. They are an estimate: an answer
        that is short of rows says nothing of what lies further back. Each row then ends with the beginning of
        the window. is_older: what lies before the window that begins at `window_us`.
        """
        columns = _COLUMNS
        table, conditions = "events", self._conditions()
        if self.is_listed:
            table, conditions = "events_listed", self._list()
        if in_window:
            window = f"({self._window()})"
            columns += f", toUnixTimestamp64Micro(CAST({window} AS DateTime64(6, 'UTC')))"
            conditions.append(f"ts >= {window}")
        if is_older:
            conditions.append("ts < fromUnixTimestamp64Micro({window_us:Int64}, 'UTC')")
        if self.trace_id is not None:
            conditions.append("trace_id = {trace_id:String}")
        if self.since is not None:
            conditions.append("ts >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')")
        if self.after is not None:
            # Twice the same bound: the first is what the sorting key can use.
            bound = "fromUnixTimestamp64Micro({after_us:Int64}, 'UTC')"
            conditions.append(f"ts <= {bound} AND (ts < {bound} OR event_id < {{after_id:String}})")
        return (
            f"SELECT {columns} FROM {table} WHERE {' AND '.join(conditions)} "
            "ORDER BY ts DESC, event_id DESC LIMIT {n_rows:UInt64}"
        )

    def _list(self) -> list[str]:
        """The list that is read; '' is any."""
        return [
            "listed_type = " + ("{event_type:String}" if self.event_type else "''"),
            "listed_symbol = " + ("{symbol:String}" if self.symbol else "''"),
        ]

    def _conditions(self) -> list[str]:
        """Those that the hourly counts know too."""
        conditions = ["1"]
        if self.event_type is not None:
            conditions.append("event_type = {event_type:String}")
        if self.symbol is not None:
            conditions.append("symbol = {symbol:String}")
        return conditions

    def _window(self) -> str:
        """The hour from which on there are enough events: twice as many, since repeats are counted too."""
        conditions = self._conditions()
        if self.since is not None:
            conditions.append("hour > fromUnixTimestamp64Micro({since_us:Int64}, 'UTC') - INTERVAL 1 HOUR")
        if self.after is not None:
            # Of the cursor's own hour it is not known what lies behind the cursor.
            conditions.append("hour <= fromUnixTimestamp64Micro({after_us:Int64}, 'UTC') - INTERVAL 1 HOUR")
        return (
            "SELECT min(hour) FROM (SELECT hour, sum(sum(n_rows)) OVER (ORDER BY hour DESC "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS n_newer FROM events_hourly "
            f"WHERE {' AND '.join(conditions)} GROUP BY hour) WHERE n_newer < 2 * {{n_rows:UInt64}}"
        )

    def parameters(self, n_rows: int) -> dict[str, Any]:
        """The values of `sql`. n_rows: rows to read, which may be repeats of each other."""
        values: dict[str, Any] = {"n_rows": n_rows}
        for name in ("event_type", "symbol", "trace_id"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        if self.since is not None:
            values["since_us"] = microseconds(self.since)
        if self.after is not None:
            values |= {"after_us": microseconds(self.after.ts), "after_id": self.after.event_id}
        return values


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, newest first. next_cursor: where the next page begins, None on the last one.

    Kept as rows, whose payload is text: between processes a page of rows costs a tenth of what its events do.
    """

    rows: tuple[EventRow, ...]
    next_cursor: EventCursor | None

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that the rows were made of; made anew at each call."""
        return tuple(row.event() for row in self.rows)
