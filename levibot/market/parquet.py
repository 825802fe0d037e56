"""A recorded market: a folder with one Parquet file a symbol."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from levibot.errors import DataError, UnknownSymbol, UsageError
from levibot.market.bars import Bars, to_datetime
from levibot.market.parquet_file import translated
from levibot.market.screening import Screened, between, screen_bars
from levibot.market.side_series import FUNDING_FOLDER, FUNDING_RATE, SideSeries, read_funding
from levibot.market.validation import COLUMNS, check_bars, check_request
from levibot.settings import INTERVALS, SourceName


class ParquetSource:
    """Bars of `<folder>/bars_<interval>/<SYMBOL>.parquet`, or of `<folder>/<SYMBOL>.parquet`.

    Columns: ts (timestamp; without a zone it is UTC), open, high, low, close, volume. A file is read and
    checked once, at its first use. Safe to call from several threads. A file with a row that is no bar has no
    `bars`, but can be `read`.
    Raises UsageError when there is no such folder, UnknownSymbol when a symbol has no file.
    """

    def __init__(self, folder: Path, symbols: tuple[str, ...], interval: timedelta) -> None:
        self._interval = interval
        self._symbols = symbols
        self._market = folder
        self._folder = _folder_of(folder, interval)
        self._lock = threading.Lock()
        self._files: dict[str, _File] = {}
        for symbol in symbols:
            if not self._path(symbol).is_file():
                there = ", ".join(sorted(path.stem for path in self._folder.glob("*.parquet")))
                raise UnknownSymbol(
                    f"The recorded market has no file {self._path(symbol)}.",
                    hint=f"Set LEVIBOT_SYMBOLS to what is there: {there}.",
                )

    @property
    def name(self) -> SourceName:
        return "parquet"

    @property
    def interval(self) -> timedelta:
        return self._interval

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._symbols

    def extent(self) -> tuple[datetime, datetime | None]:
        """The first open and the last close of a sound bar over all symbols; reads every file."""
        recorded = [self._file_of(symbol).rows.sound for symbol in self._symbols]
        first = min(bars.ts[0] for bars in recorded)
        last = max(bars.ts[-1] for bars in recorded)
        return to_datetime(first), to_datetime(last) + self._interval

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        """The recorded bars that open in [start, end).

        Raises UnknownSymbol, SourceUnavailable (the file is gone) and DataError.
        """
        check_request(symbol, self._symbols, start, end, "The recorded market")
        file = self._file_of(symbol)
        if file.fault is not None:
            # A copy: each raise would lengthen the traceback of the one that is kept.
            raise DataError(file.fault.message, hint=file.fault.hint)
        return file.rows.sound.between(start, end)

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        """As `bars`, with the rows of the file that are no bars beside them."""
        check_request(symbol, self._symbols, start, end, "The recorded market")
        return between(self._file_of(symbol).rows, start, end)

    def side_series(self, names: Sequence[str], start: datetime, end: datetime) -> list[SideSeries]:
        """The recorded funding rates of the symbols that have a file of them in `<folder>/funding`."""
        if FUNDING_RATE not in names:
            return []
        folder = self._market / FUNDING_FOLDER
        recorded = [symbol for symbol in self._symbols if (folder / f"{symbol}.parquet").is_file()]
        if not recorded:
            return []
        return [series.between(start, end) for series in read_funding(self._market, recorded)]

    def _file_of(self, symbol: str) -> _File:
        with self._lock:
            if symbol not in self._files:
                self._files[symbol] = _read_file(self._path(symbol), symbol, self._interval)
            return self._files[symbol]

    def _path(self, symbol: str) -> Path:
        return self._folder / f"{symbol}.parquet"


def _folder_of(folder: Path, interval: timedelta) -> Path:
    if not folder.is_dir():
        raise UsageError(f"There is no market folder {folder}.", hint="Set LEVIBOT_MARKET (or --path).")
    of_interval = folder / f"bars_{_name_of(interval)}"
    if of_interval.is_dir():
        return of_interval
    if any(folder.glob("*.parquet")):
        return folder
    there = ", ".join(sorted(path.name for path in folder.glob("bars_*"))) or "none"
    raise UsageError(
        f"The market folder {folder} holds neither {of_interval.name}/ nor SYMBOL.parquet files.",
        hint=f"Folders of bars there: {there}; set LEVIBOT_BAR_INTERVAL to one of them.",
    )


def _name_of(interval: timedelta) -> str:
    for name, length in INTERVALS.items():
        if length == interval:
            return name
    raise UsageError(f"There is no bar interval of {interval}.", hint=f"Choose from {', '.join(INTERVALS)}.")


@dataclass(frozen=True, slots=True)
class _File:
    """What a file holds, and its first fault, if it has any."""

    rows: Screened[Bars]
    fault: DataError | None


def _read_file(path: Path, symbol: str, interval: timedelta) -> _File:
    columns = _read_columns(path)
    rows = screen_bars(symbol, interval, columns, str(path))
    fault = None
    if len(rows.rejects) or len(rows.repeated):
        try:
            check_bars(symbol, interval, columns, str(path))
        except DataError as exc:
            # Without its traceback, which would keep the columns.
            fault = DataError(exc.message, hint=exc.hint)
    bars = rows.sound
    if fault is not None and not len(bars):
        raise fault
    # Bars of a longer interval lie on the grid of a shorter one: without this each would count as an outage.
    if len(bars) > 2 and np.diff(bars.ts).min() > np.timedelta64(interval):
        raise DataError(
            f"{symbol} in {path} has no two bars that are {interval} apart: its bars are longer.",
            hint="Set LEVIBOT_BAR_INTERVAL to the interval of the file.",
        )
    return _File(rows, fault)


def _read_columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    with translated(path), pq.ParquetFile(path) as file:
        table = file.read(columns=[name for name in COLUMNS if name in file.schema_arrow.names])
    return {name: table[name].to_numpy() for name in table.column_names}
