"""What bars must fulfil before anything else sees them. Every source and the ingest call `check_bars`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError, UnknownSymbol, UsageError
from levibot.market.bars import FIELDS, Bars, FloatArray, TimeArray, to_datetime

COLUMNS = ("ts", *FIELDS)
PRICES = ("open", "high", "low", "close")

_Kind = TypeVar("_Kind", bound=np.generic)

_FIX_ROW = "Rows count from 0. Load the row again or take it out: an outage is a missing row."
_FIX_ORDER = "Rows count from 0. Sort the rows by ts and keep one row an instant."


def check_bars(symbol: str, interval: timedelta, columns: Mapping[str, npt.ArrayLike], where: str) -> Bars:
    """The bars in `columns`, or the first fault in them.

    columns: `ts` and the five fields, each (T,), T >= 1. `ts` is datetime64 in UTC on the interval's grid
    (whole intervals since 1970), strictly increasing; the fields are numbers without NaN or infinity,
    prices > 0, volume >= 0, low <= open, close <= high. where: what the rows came from, for the message.
    Returns read-only copies: the caller's arrays stay its own.
    Raises DataError, one sentence with the row, its instant and the value.
    """
    for name in COLUMNS:
        if name not in columns:
            raise DataError(
                f"{symbol} in {where} has no column {name!r}.",
                hint=f"Bars need the columns {', '.join(COLUMNS)}; found {', '.join(columns) or 'none'}.",
            )
    raw_ts = _instants(symbol, where, columns["ts"])
    fields = {name: _numbers(symbol, where, name, columns[name]) for name in FIELDS}
    for name, values in fields.items():
        if len(values) != len(raw_ts):
            raise DataError(
                f"{symbol} in {where} has {len(raw_ts)} values of ts but {len(values)} of {name}.",
                hint="Every column needs one value a row.",
            )
    if not len(raw_ts):
        raise DataError(f"{symbol} in {where} holds no bars.", hint="Load at least one bar.")
    ts = _frozen(raw_ts.astype("datetime64[us]"))
    rows = _Rows(symbol, where, ts)
    rows.check_instants(interval, is_exact=ts.astype(raw_ts.dtype) == raw_ts)
    rows.check_numbers(fields)
    rows.check_consistency(fields)
    return Bars(symbol, interval, ts, **fields)


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
    nothing = _frozen(np.empty(0))
    return Bars(
        symbol, interval, _frozen(np.empty(0, "datetime64[us]")), nothing, nothing, nothing, nothing, nothing
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows under check: finds the first faulty one and says so."""

    symbol: str
    where: str
    ts: TimeArray

    def check_instants(self, interval: timedelta, is_exact: npt.NDArray[np.bool_]) -> None:
        no_instant = np.isnat(self.ts)
        if no_instant.any():
            row = int(np.argmax(no_instant))
            raise DataError(f"{self.symbol} in {self.where}: row {row} has no ts.", hint=_FIX_ROW)
        micros = self.ts.astype(np.int64)
        off_grid = (micros % (interval // timedelta(microseconds=1)) != 0) | ~is_exact
        if off_grid.any():
            row = int(np.argmax(off_grid))
            raise DataError(
                f"{self._at(row)} does not open on the grid of {interval} bars.",
                hint="Rows count from 0. ts is the opening instant in UTC; is LEVIBOT_BAR_INTERVAL right?",
            )
        step = np.diff(micros)
        if (step == 0).any():
            row = int(np.argmax(step == 0)) + 1
            raise DataError(f"{self._at(row)} repeats the instant of row {row - 1}.", hint=_FIX_ORDER)
        if (step < 0).any():
            row = int(np.argmax(step < 0)) + 1
            raise DataError(
                f"{self._at(row)} opens before row {row - 1} ({_text(self.ts[row - 1])}).", hint=_FIX_ORDER
            )

    def check_numbers(self, fields: Mapping[str, FloatArray]) -> None:
        for name, values in fields.items():
            self._refuse(~np.isfinite(values), name, values, "is not a finite number")
        for name in PRICES:
            self._refuse(fields[name] <= 0.0, name, fields[name], "is not a price above 0")
        self._refuse(fields["volume"] < 0.0, "volume", fields["volume"], "is below 0")

    def check_consistency(self, fields: Mapping[str, FloatArray]) -> None:
        for name in ("open", "close", "low"):
            limit = fields[name]
            self._refuse(fields["high"] < limit, "high", fields["high"], "is below its " + name, limit)
        for name in ("open", "close"):
            limit = fields[name]
            self._refuse(fields["low"] > limit, "low", fields["low"], "is above its " + name, limit)

    def _refuse(
        self,
        is_fault: npt.NDArray[np.bool_],
        name: str,
        values: FloatArray,
        fault: str,
        limit: FloatArray | None = None,
    ) -> None:
        if is_fault.any():
            row = int(np.argmax(is_fault))
            against = "" if limit is None else f" {limit[row]:.12g}"
            raise DataError(f"{self._at(row)}: {name} {values[row]:.12g} {fault}{against}.", hint=_FIX_ROW)

    def _at(self, row: int) -> str:
        return f"{self.symbol} in {self.where}: row {row} ({_text(self.ts[row])})"


def _instants(symbol: str, where: str, values: npt.ArrayLike) -> TimeArray:
    array = np.asarray(values)
    if array.dtype.kind != "M" or array.ndim != 1:
        raise DataError(
            f"{symbol} in {where}: ts is {array.dtype} with {array.ndim} dimension(s), not a column of "
            "instants.",
            hint="Store ts as a timestamp in UTC (datetime64), the opening instant of the bar.",
        )
    return array


def _numbers(symbol: str, where: str, name: str, values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise DataError(
            f"{symbol} in {where}: {name} is {array.dtype} with {array.ndim} dimension(s), "
            "not a column of numbers.",
            hint=f"Store {name} as a floating-point column.",
        )
    return _frozen(array.astype(np.float64))


def _frozen(array: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
    array.flags.writeable = False
    return array


def _text(instant: np.datetime64) -> str:
    # Years that datetime cannot hold are still worth a clear message.
    if not np.datetime64("0001-01-01") <= instant <= np.datetime64("9999-12-31"):
        return f"{instant}Z"
    return to_datetime(instant).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").replace(".000000Z", "Z")
