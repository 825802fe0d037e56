"""One event: what happened, and the checked row that stores and spool keep of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from levibot.errors import DataError
from levibot.settings import YEARS

MAX_EVENT_BYTES = 256 * 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    ts: aware, the market's time. symbol: empty when it is of no single symbol. payload: JSON values, no NaN.
    event_id: the same for a repeated append of the same event, which then has the same ts.
    """

    event_type: str
    symbol: str
    ts: datetime
    payload: Mapping[str, Any]
    trace_id: str = ""
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class EventRow(NamedTuple):
    """An event that was checked: no store refuses it. ts_us: microseconds since 1970. payload: JSON text."""

    event_type: str
    symbol: str
    ts_us: int
    event_id: str
    trace_id: str
    payload: str

    @classmethod
    def of(cls, event: Event) -> Self:
        """Raises DataError: no time zone, a year out of range, a payload that is not JSON, text that is not
        Unicode, or more than MAX_EVENT_BYTES.
        """
        if event.ts.tzinfo is None:
            raise DataError(f"The time of event {event.event_type} is {event.ts}, without a time zone.")
        if event.ts.year not in YEARS:
            raise DataError(
                f"The time of event {event.event_type} is {event.ts}, not in {YEARS[0]} to {YEARS[-1]}."
            )
        try:
            payload = json.dumps(dict(event.payload), allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as exc:
            raise DataError(f"The payload of event {event.event_type} is not JSON: {exc}.") from exc
        row = cls(
            event.event_type, event.symbol, microseconds(event.ts), event.event_id, event.trace_id, payload
        )
        try:
            n_bytes = row.n_bytes
        except UnicodeEncodeError as exc:
            raise DataError(f"An event of type {event.event_type!r} has text that is not Unicode.") from exc
        if n_bytes > MAX_EVENT_BYTES:
            raise DataError(
                f"An event of type {event.event_type[:100]} has {n_bytes} bytes, more than {MAX_EVENT_BYTES}."
            )
        return row

    @property
    def n_bytes(self) -> int:
        """What its text takes, in UTF-8."""
        texts = (self.event_type, self.symbol, self.event_id, self.trace_id, self.payload)
        return sum(len(text.encode()) for text in texts)

    def event(self) -> Event:
        """The event that the row was made of, its time in UTC."""
        return Event(
            self.event_type,
            self.symbol,
            instant(self.ts_us),
            json.loads(self.payload),
            self.trace_id,
            self.event_id,
        )


def microseconds(ts: datetime) -> int:
    """Since 1970, of an aware instant."""
    return (ts - _EPOCH) // _MICROSECOND


def instant(ts_us: int) -> datetime:
    """The instant so many microseconds after 1970, UTC."""
    return _EPOCH + timedelta(microseconds=ts_us)
