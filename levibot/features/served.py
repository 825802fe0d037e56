"""A feature vector as a reader got it, in the form that the event log keeps: what parity is measured on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from levibot.errors import DataError
from levibot.stores.event import Event, microseconds

EVENT_TYPE = "features_served"


@dataclass(frozen=True, slots=True)
class ServedVector:
    """One symbol's newest feature row at the moment it was served.

    event_time: close of the bar that the row belongs to. served_at: when a reader got it. Both aware, on the
    market's clock. values: by feature name; a missing value is absent, or NaN, which means the same.
    Raises DataError on an instant without a time zone and on an infinite value.
    """

    symbol: str
    market_id: str
    view: str
    view_version: str
    event_time: datetime
    served_at: datetime
    values: Mapping[str, float]

    def __post_init__(self) -> None:
        for name in ("event_time", "served_at"):
            instant = getattr(self, name)
            if instant.tzinfo is None:
                raise DataError(
                    f"{name} of a served vector of {self.symbol} is {instant}, without a time zone."
                )
        for name, value in self.values.items():
            if math.isinf(value):
                raise DataError(
                    f"Feature {name} of {self.symbol} was served as {value}: no feature is infinite."
                )

    def to_event(self) -> Event:
        """The event of this serving. The same vector gives the same event, so that a repeat is one event."""
        identity = (
            f"{self.market_id}\n{self.symbol}\n{self.view}\n{self.view_version}\n"
            f"{microseconds(self.event_time)}\n{microseconds(self.served_at)}"
        )
        return Event(
            event_type=EVENT_TYPE,
            symbol=self.symbol,
            ts=self.served_at,
            payload={
                "market_id": self.market_id,
                "view": self.view,
                "view_version": self.view_version,
                "event_time": self.event_time.isoformat(),
                # JSON writes the shortest text that gives the same float again.
                "values": {name: float(v) for name, v in self.values.items() if not math.isnan(v)},
            },
            event_id=hashlib.sha256(identity.encode()).hexdigest()[:32],
        )

    @classmethod
    def from_event(cls, event: Event) -> Self:
        """The vector that `to_event` wrote. Raises DataError on any other event."""
        if event.event_type != EVENT_TYPE:
            raise DataError(f"Event {event.event_id} is of type {event.event_type!r}, not {EVENT_TYPE!r}.")
        payload = event.payload
        try:
            values = payload["values"]
            if not all(type(value) in {int, float} for value in values.values()):
                raise ValueError("a value is no number")
            return cls(
                symbol=event.symbol,
                market_id=_text(payload["market_id"]),
                view=_text(payload["view"]),
                view_version=_text(payload["view_version"]),
                event_time=datetime.fromisoformat(payload["event_time"]),
                served_at=event.ts,
                values={_text(name): float(value) for name, value in values.items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as exc:
            raise DataError(
                f"Event {event.event_id} holds no served vector: {type(exc).__name__}: {exc}."
            ) from exc


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
