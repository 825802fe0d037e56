"""Observations from outside, as they are stored: said of one instant, and known here from another one on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from levibot.errors import UsageError
from levibot.market.bars import BoolArray, FloatArray, TimeArray, to_datetime64
from levibot.market.screening import NO_REASON, Screened, first_broken, mark_repeats, rejects_of
from levibot.market.side_series import DEX_SPREAD, FUNDING_RATE, NEWS_SENTIMENT, NFT_FLOOR
from levibot.market.validation import frozen, instants, is_impossible, numbers

# What a series can be, both ends included. A rate, or a gap to the exchange's price, beyond these is a slip
# of a unit or another token.
LIMITS: Mapping[str, tuple[float, float]] = {
    FUNDING_RATE: (-0.5, 0.5),
    DEX_SPREAD: (-0.5, 0.5),
    NFT_FLOOR: (1e-12, 1e9),
    NEWS_SENTIMENT: (-1.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One value that a source gave, or None: nothing is known any more. symbol: None for the whole market.

    event_ts: when it is true, aware. published_at: when everybody could know it, for what is read long after;
    None: it is known when it is read.
    """

    name: str
    symbol: str | None
    event_ts: datetime
    value: float | None
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Observations:
    """What one source said of one series. symbol: None for the whole market.

    event_ts: (N,) datetime64[us] UTC, when it is true. available_ts: (N,), from when on it is known here,
    never before the event. value: (N,), NaN for "nothing is known any more", otherwise within LIMITS.
    Ordered by available_ts, then event_ts; no pair of instants twice.
    """

    source: str
    name: str
    symbol: str | None
    event_ts: TimeArray
    available_ts: TimeArray
    value: FloatArray

    def __len__(self) -> int:
        return len(self.value)

    def rows(self, rows: BoolArray) -> Observations:
        """Some of them."""
        columns = (self.event_ts[rows], self.available_ts[rows], self.value[rows])
        return Observations(self.source, self.name, self.symbol, *columns)


def screen_observations(
    source: str, name: str, symbol: str | None, columns: Mapping[str, npt.ArrayLike]
) -> Screened[Observations]:
    """The observations among the rows in `columns`, and the rows that are none.

    columns: event_ts, available_ts and value, each (N,), in any order. Of several rows of one pair of
    instants the first sound one counts, as in the store; one with another value is a `conflict`.
    Raises UsageError on a series that features do not know, DataError on a column that is none.
    """
    if name not in LIMITS:
        raise UsageError(f"There is no side series {name!r}.", hint=f"Known: {', '.join(sorted(LIMITS))}.")
    lowest, highest = LIMITS[name]
    where = f"what {source} says of {name}"
    label = symbol or "the market"
    event, available = (
        instants(label, where, columns[key]).astype("datetime64[us]") for key in ("event_ts", "available_ts")
    )
    value = numbers(label, where, "value", columns["value"])
    is_dated = ~(np.isnat(event) | np.isnat(available))
    is_possible = is_dated & ~is_impossible(event) & ~is_impossible(available)
    reason = first_broken(
        len(value),
        (
            ("no_instant", ~is_dated),
            ("impossible_instant", ~is_possible),
            ("from_the_future", is_possible & (event > available)),
            ("not_finite", np.isinf(value)),
            ("not_positive", (value <= 0.0) & (lowest > 0.0)),
            ("too_small_or_large", (value < lowest) | (value > highest)),
        ),
    )
    kept = np.flatnonzero(reason == NO_REASON)
    pairs = np.column_stack([event.astype(np.int64), available.astype(np.int64)])
    _, key = np.unique(pairs, axis=0, return_inverse=True)
    # NaN is no repeat of NaN.
    comparable = np.where(np.isnan(value), np.inf, value)
    repeats = mark_repeats(reason, kept, key.reshape(-1).astype(np.int64), [comparable])
    kept = kept[~repeats[kept] & (reason[kept] == NO_REASON)]
    kept = kept[np.lexsort((event[kept], available[kept]))]
    sound = Observations(source, name, symbol, *(frozen(c[kept]) for c in (event, available, value)))
    n = len(value)
    # Not when it was read: the same broken row is one row in quarantine, however often it comes.
    raw = {
        "source": np.full(n, source),
        "name": np.full(n, name),
        "event_ts": np.asarray(columns["event_ts"]),
        "value": np.asarray(columns["value"]),
    }
    rejects = rejects_of(symbol or "", reason, event, sound.event_ts, raw)
    return Screened(sound, rejects, event[repeats])


def by_series(readings: Sequence[Reading]) -> dict[tuple[str, str | None], list[Reading]]:
    """The readings by series and symbol, each in its order."""
    found: dict[tuple[str, str | None], list[Reading]] = {}
    for reading in readings:
        found.setdefault((reading.name, reading.symbol), []).append(reading)
    return found


def screen_readings(
    source: str, readings: Sequence[Reading], known_by: datetime
) -> list[Screened[Observations]]:
    """As `screen_observations`, for what a poll gave; one set a series and symbol.

    known_by: from when on what has no `published_at` is known.
    """
    return [
        screen_observations(
            source,
            name,
            symbol,
            {
                "event_ts": _instants(reading.event_ts for reading in rows),
                "available_ts": _instants(reading.published_at or known_by for reading in rows),
                "value": np.array(
                    [np.nan if reading.value is None else reading.value for reading in rows], np.float64
                ),
            },
        )
        for (name, symbol), rows in by_series(readings).items()
    ]


def _instants(values: Iterable[datetime]) -> TimeArray:
    return np.array([to_datetime64(value) for value in values], "datetime64[us]")
