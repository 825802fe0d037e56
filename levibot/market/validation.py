"""What bars must fulfil before anything else sees them.

`check_bars` refuses a set with its first fault: what a backtest rests on is whole. `screening.py` applies the
same rules row by row, for the ingest: one broken row does not hold the others up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError, UnknownSymbol, UsageError
from levibot.market.bars import FIELDS, Bars, FloatArray, TimeArray, to_datetime
from levibot.settings import YEARS

BoolArray = npt.NDArray[np.bool_]

COLUMNS = ("ts", *FIELDS)
PRICES = ("open", "high", "low", "close")

_Kind = TypeVar("_Kind", bound=np.generic)

_FIX_ROW = "Rows count from 0. Load the row again or take it out: an outage is a missing row."
_FIX_GRID = "Rows count from 0. ts is the opening instant in UTC; is LEVIBOT_BAR_INTERVAL right?"
_FIX_ORDER = "Rows count from 0. Sort the rows by ts and keep one row an instant."


def check_bars(symbol: str, interval: timedelta, columns: Mapping[str, npt.ArrayLike], where: str) -> Bars:
    """The bars in `columns`, or the first fault in them.

    columns: `ts` and the five fields, each (T,), T >= 1. `ts` is datetime64 in UTC on the interval's grid
    (whole intervals since 1970), strictly increasing; the fields are numbers without NaN or infinity,
    prices > 0, volume >= 0, low <= open, close <= high. where: what the rows came from, for the message.
    Returns read-only copies: the caller's arrays stay its own.
    Raises DataError, one sentence with the row, its instant and the value.
    """
    rows = bar_rows(symbol, interval, columns, where)
    for fault in rows.instant_faults():
        rows.refuse(fault)
    rows.refuse_disorder()
    for fault in rows.number_faults():
        rows.refuse(fault)
    return Bars(symbol, interval, rows.ts, **rows.fields)


def bar_rows(symbol: str, interval: timedelta, columns: Mapping[str, npt.ArrayLike], where: str) -> BarRows:
    """The rows in `columns`, of the right types and not looked at any further.

    columns, where: as for `check_bars`. The arrays of the answer are read-only copies.
    Raises DataError when a column is missing, of another type or of another length, or there is no row.
    """
    for name in COLUMNS:
        if name not in columns:
            raise DataError(
                f"{symbol} in {where} has no column {name!r}.",
                hint=f"Bars need the columns {', '.join(COLUMNS)}; found {', '.join(columns) or 'none'}.",
            )
    raw_ts = instants(symbol, where, columns["ts"])
    fields = {name: frozen(numbers(symbol, where, name, columns[name])) for name in FIELDS}
    for name, values in fields.items():
        if len(values) != len(raw_ts):
            raise DataError(
                f"{symbol} in {where} has {len(raw_ts)} values of ts but {len(values)} of {name}.",
                hint="Every column needs one value a row.",
            )
    if not len(raw_ts):
        raise DataError(f"{symbol} in {where} holds no bars.", hint="Load at least one bar.")
    ts = frozen(raw_ts.astype("datetime64[us]"))
    return BarRows(symbol, interval, where, ts, ts.astype(raw_ts.dtype) == raw_ts, fields)


def check_request(symbol: str, symbols: tuple[str, ...], start: datetime, end: datetime, where: str) -> None:
    """Refuse a symbol that the source does not have, and instants without a time zone.

    Raises UnknownSymbol and UsageError.
    """
    if symbol not in symbols:
        raise UnknownSymbol(
            f"{where} has no symbol {symbol!r}.", hint=f"It has {', '.join(symbols)}; see LEVIBOT_SYMBOLS."
        )
    for name, instant in (("start", start), ("end", end)):
        if instant.tzinfo is None:
            raise UsageError(
                f"{name} {instant.isoformat()} has no time zone.", hint="Pass an aware datetime, in UTC."
            )


def empty_bars(symbol: str, interval: timedelta) -> Bars:
    """No bars: the answer for a range in which the market has none."""
    nothing = frozen(np.empty(0))
    return Bars(
        symbol, interval, frozen(np.empty(0, "datetime64[us]")), nothing, nothing, nothing, nothing, nothing
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule, and the rows that break it. reason: its code, as the quarantine and the metrics carry it.

    is_broken: (T,). says: the rest of the sentence about a row; field and limit: whose values it names.
    """

    reason: str
    is_broken: BoolArray
    says: str
    hint: str = _FIX_ROW
    field: str | None = None
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class BarRows:
    """Rows that want to be bars. ts: (T,) datetime64[us]. is_exact: (T,) false where microseconds round it.

    fields: by name, (T,) float64, any value.
    """

    symbol: str
    interval: timedelta
    where: str
    ts: TimeArray
    is_exact: BoolArray
    fields: Mapping[str, FloatArray]

    def instant_faults(self) -> Iterator[Fault]:
        """The rules for `ts`, row by row."""
        yield Fault("no_instant", np.isnat(self.ts), "has no ts")
        yield Fault("impossible_instant", is_impossible(self.ts), "lies outside the years that can be")
        micros = self.ts.astype(np.int64)
        off_grid = (micros % (self.interval // timedelta(microseconds=1)) != 0) | ~self.is_exact
        yield Fault("off_grid", off_grid, f"does not open on the grid of {self.interval} bars", _FIX_GRID)

    def number_faults(self) -> Iterator[Fault]:
        """The rules for the numbers of a row, each by itself and against each other."""
        fields = self.fields
        for name, values in fields.items():
            yield Fault("not_finite", ~np.isfinite(values), "is not a finite number", field=name)
        for name in PRICES:
            yield Fault("not_positive", fields[name] <= 0.0, "is not a price above 0", field=name)
        yield Fault("not_positive", fields["volume"] < 0.0, "is below 0", field="volume")
        for name in ("open", "close", "low"):
            broken = fields["high"] < fields[name]
            yield Fault("high_low", broken, "is below its " + name, field="high", limit=name)
        for name in ("open", "close"):
            broken = fields["low"] > fields[name]
            yield Fault("high_low", broken, "is above its " + name, field="low", limit=name)

    def refuse(self, fault: Fault) -> None:
        """Raise DataError for the first row that breaks the rule, if any does."""
        if not fault.is_broken.any():
            return
        row = int(np.argmax(fault.is_broken))
        at = f"{self.symbol} in {self.where}: row {row}" if np.isnat(self.ts[row]) else self._at(row)
        value = "" if fault.field is None else f": {fault.field} {self.fields[fault.field][row]:.12g}"
        against = "" if fault.limit is None else f" {self.fields[fault.limit][row]:.12g}"
        raise DataError(f"{at}{value} {fault.says}{against}.", hint=fault.hint)

    def refuse_disorder(self) -> None:
        """Raise DataError for the first row that does not open after the one before it, if any does not."""
        step = np.diff(self.ts.astype(np.int64))
        if (step == 0).any():
            row = int(np.argmax(step == 0)) + 1
            raise DataError(f"{self._at(row)} repeats the instant of row {row - 1}.", hint=_FIX_ORDER)
        if (step < 0).any():
            row = int(np.argmax(step < 0)) + 1
            raise DataError(
                f"{self._at(row)} opens before row {row - 1} ({_text(self.ts[row - 1])}).", hint=_FIX_ORDER
            )

    def _at(self, row: int) -> str:
        return f"{self.symbol} in {self.where}: row {row} ({_text(self.ts[row])})"


def is_impossible(ts: TimeArray) -> BoolArray:
    """Which instants lie outside the years that LeviBot reckons with, and would overflow further down."""
    first, end = np.datetime64(f"{YEARS.start}-01-01", "us"), np.datetime64(f"{YEARS.stop}-01-01", "us")
    return np.asarray((ts < first) | (ts >= end))


def instants(symbol: str, where: str, values: npt.ArrayLike) -> TimeArray:
    """A column of instants as it is, in its own unit. Raises DataError when it is none."""
    array = np.asarray(values)
    if array.dtype.kind != "M" or array.ndim != 1:
        raise DataError(
            f"{symbol} in {where}: ts is {array.dtype} with {array.ndim} dimension(s), not a column of "
            "instants.",
            hint="Store ts as a timestamp in UTC (datetime64), the opening instant of the bar.",
        )
    return array


def numbers(symbol: str, where: str, name: str, values: npt.ArrayLike) -> FloatArray:
    """A column of numbers as a copy in float64. Raises DataError when it is none."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise DataError(
            f"{symbol} in {where}: {name} is {array.dtype} with {array.ndim} dimension(s), "
            "not a column of numbers.",
            hint=f"Store {name} as a floating-point column.",
        )
    return array.astype(np.float64)


def frozen(array: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
    """The same array, read-only from now on."""
    array.flags.writeable = False
    return array


def _text(instant: np.datetime64) -> str:
    # Years that datetime cannot hold are still worth a clear message.
    if not np.datetime64("0001-01-01") <= instant <= np.datetime64("9999-12-31"):
        return f"{instant}Z"
    return to_datetime(instant).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").replace(".000000Z", "Z")
