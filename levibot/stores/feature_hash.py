"""The public form of a feature vector: the fields of the hash `SYMBOL:features`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from levibot.stores.packed import FeatureWindow, Identity


@dataclass(frozen=True, slots=True)
class FeatureHash:
    """fields: name, value, name, value … early: of each value that ends before the others do, its name and
    the milliseconds that are left to it on the server's clock.
    """

    fields: tuple[str, ...]
    early: tuple[str | int, ...]


def hash_of(
    window: FeatureWindow, identity: Identity, *, written_at: datetime, ttl_us: int, rate: float
) -> FeatureHash:
    """The newest row as text, each number in full precision. A value that is missing or over is no field.

    rate: seconds of the market in one of the server; at 0 no value ends before the hash does.
    """
    fields = [
        *("_event_time", instant_text(window.event_time)),
        *("_market", identity.market_id),
        *("_view", identity.view_version),
        *("_written_at", instant_text(written_at)),
    ]
    early: list[str | int] = []
    for name, value in zip(window.names, window.rows[-1].tolist(), strict=True):
        if math.isnan(value):
            continue
        own = window.own_times.get(name)
        if own is not None and own.life is not None:
            left_s = (own.life - (written_at - own.source_time)).total_seconds()
            if left_s <= 0.0:
                continue
            if left_s * 1e6 < ttl_us * rate:
                early += (name, max(1, int(left_s / rate * 1000)))
        fields += (name, repr(value))
    return FeatureHash(tuple(fields), tuple(early))


def instant_text(instant: datetime) -> str:
    """ISO 8601 in UTC, of one width: the order of the texts is that of time."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")
