"""Tells the sound rows of a set from the others, so that one broken row does not hold the rest up."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import FIELDS, Bars, TimeArray, to_datetime64
from levibot.market.validation import BoolArray, bar_rows, frozen, is_impossible

T = TypeVar("T")

REASONS = (
    "no_instant",
    "impossible_instant",
    "off_grid",
    "no_id",
    "no_side",
    "not_finite",
    "not_positive",
    "too_small_or_large",
    "high_low",
    "conflict",
    "out_of_order",
    "from_the_future",
)
NO_REASON = -1


@dataclass(frozen=True, slots=True)
class Rejects:
    """The rows of a set that did not pass, in the set's order.

    reason: (N,) index into REASONS, the first rule that the row breaks. place: (N,) datetime64[us], the range
    that the row belongs to: its own instant, or that of the row before it where it has none, within those of
    the sound rows. columns: the values as they came, by name, each (N,).
    """

    symbol: str
    reason: npt.NDArray[np.int8]
    place: TimeArray
    columns: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.reason)

    def take(self, rows: slice | BoolArray) -> Rejects:
        """Some of them."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Rejects(self.symbol, self.reason[rows], self.place[rows], columns)

    def reasons(self) -> Counter[str]:
        """How many rows each reason has."""
        return Counter(REASONS[code] for code in self.reason.tolist())

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row's reason and its values, as JSON holds them: what JSON has no number for is a text."""
        for row in range(len(self)):
            values = {name: _as_json(column[row]) for name, column in self.columns.items()}
            yield REASONS[self.reason[row]], values


@dataclass(frozen=True, slots=True)
class Screened(Generic[T]):
    """A set of rows, told apart: each row is sound, or repeats a sound one, or is rejected.

    repeated: (N,) the instants of the rows that repeat an earlier row of the set, value for value.
    """

    sound: T
    rejects: Rejects
    repeated: TimeArray

    @classmethod
    def passed(cls, symbol: str, sound: T) -> Screened[T]:
        """A set without any other row."""
        nothing = np.empty(0, "datetime64[us]")
        return cls(sound, Rejects(symbol, np.empty(0, np.int8), nothing, {}), nothing)


def screen_bars(
    symbol: str, interval: timedelta, columns: Mapping[str, npt.ArrayLike], where: str
) -> Screened[Bars]:
    """The bars among the rows in `columns`, oldest first, and the rows that are none.

    The rules are those of `check_bars`, each row against them by itself. Of several rows of one instant the
    first sound one counts, as in the store; one with other values is a `conflict`. A row that breaks the
    order is `out_of_order`; where it could be this row or that, as few as possible are.
    Raises DataError when the set is broken and not its rows: a column is missing or of another type, there is
    no row, or more rows are out of order than not.
    """
    rows = bar_rows(symbol, interval, columns, where)
    faults = (*rows.instant_faults(), *rows.number_faults())
    reason = first_broken(len(rows.ts), ((fault.reason, fault.is_broken) for fault in faults))
    kept = np.flatnonzero(reason == NO_REASON)
    values = [rows.fields[name] for name in FIELDS]
    repeats = mark_repeats(reason, kept, rows.ts.astype(np.int64), values)
    kept = kept[~repeats[kept] & (reason[kept] == NO_REASON)]
    disorder = _out_of_order(rows.ts[kept].astype(np.int64))
    if 2 * disorder.sum() > len(kept):
        raise DataError(
            f"{symbol} in {where} has {int(disorder.sum())} of {len(kept)} rows out of order.",
            hint="Sort the rows by ts, oldest first.",
        )
    reason[kept[disorder]] = REASONS.index("out_of_order")
    kept = kept[~disorder]
    fields = {name: frozen(rows.fields[name][kept]) for name in FIELDS}
    sound = Bars(symbol, interval, frozen(rows.ts[kept]), **fields)
    raw = {name: np.asarray(columns[name]) for name in ("ts", *FIELDS)}
    return Screened(sound, rejects_of(symbol, reason, rows.ts, sound.ts, raw), rows.ts[repeats])


def between(bars: Screened[Bars], start: datetime, end: datetime) -> Screened[Bars]:
    """What of a set belongs to [start, end): the bars that open in it, and the other rows placed in it."""
    first, last = to_datetime64(start), to_datetime64(end)
    rejects = bars.rejects.take((first <= bars.rejects.place) & (bars.rejects.place < last))
    repeated = bars.repeated[(first <= bars.repeated) & (bars.repeated < last)]
    return Screened(bars.sound.between(start, end), rejects, repeated)


def first_broken(n: int, rules: Iterable[tuple[str, BoolArray]]) -> npt.NDArray[np.int8]:
    """(n,) the reason of the first rule that each row breaks, or NO_REASON. rules: reason and broken rows."""
    reason = np.full(n, NO_REASON, np.int8)
    for name, is_broken in rules:
        if is_broken.any():
            reason[(reason == NO_REASON) & is_broken] = REASONS.index(name)
    return reason


def mark_repeats(
    reason: npt.NDArray[np.int8],
    kept: npt.NDArray[np.int64],
    key: npt.NDArray[np.int64],
    values: Iterable[npt.NDArray[Any]],
) -> BoolArray:
    """Which rows repeat the first one of their key; those with other values get their reason at once.

    kept: the rows that are looked at. key, values: of all rows.
    """
    repeats = np.zeros(len(reason), np.bool_)
    if (np.diff(key[kept]) > 0).all():
        return repeats
    order = kept[np.argsort(key[kept], kind="stable")]
    is_first = np.append(True, np.diff(key[order]) != 0)
    first = order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
    later = order[~is_first]
    is_same = np.ones(len(later), np.bool_)
    for column in values:
        is_same &= column[later] == column[first[~is_first]]
    repeats[later[is_same]] = True
    reason[later[~is_same]] = REASONS.index("conflict")
    return repeats


def _out_of_order(key: npt.NDArray[np.int64]) -> BoolArray:
    """The fewest rows without which `key`, whose values differ, grows from row to row."""
    n = len(key)
    disorder = np.zeros(n, np.bool_)
    if (np.diff(key) > 0).all():
        return disorder
    # Patience sorting: the end of the best run of each length, and each row's predecessor in its run.
    ends: list[int] = []
    end_keys: list[int] = []
    before: list[int] = []
    for row, value in enumerate(key.tolist()):
        length = bisect_left(end_keys, value)
        before.append(ends[length - 1] if length else -1)
        if length == len(ends):
            ends.append(row)
            end_keys.append(value)
        else:
            ends[length], end_keys[length] = row, value
    disorder[:] = True
    row = ends[-1]
    while row >= 0:
        disorder[row] = False
        row = before[row]
    return disorder


def rejects_of(
    symbol: str,
    reason: npt.NDArray[np.int8],
    ts: TimeArray,
    sound_ts: TimeArray,
    columns: Mapping[str, npt.NDArray[Any]],
) -> Rejects:
    """The rows that have a reason. ts: (T,) of all rows. sound_ts: of those that passed."""
    rejected = np.flatnonzero(reason != NO_REASON)
    place = ts[rejected]
    dated = np.flatnonzero(~np.isnat(ts) & ~is_impossible(ts)) if len(rejected) else rejected
    if len(dated):
        place = ts[dated[np.maximum(np.searchsorted(dated, rejected, side="right") - 1, 0)]]
    if len(sound_ts):
        # Who reads the set from its first to its last sound row meets every other row.
        place = np.clip(place, sound_ts.min(), sound_ts.max())
    return Rejects(symbol, reason[rejected], place, {name: v[rejected] for name, v in columns.items()})


def _as_json(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else f"{value}Z"
    plain = value.item() if isinstance(value, np.generic) else value
    return str(plain) if isinstance(plain, float) and not np.isfinite(plain) else plain
