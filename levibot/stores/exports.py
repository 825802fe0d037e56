"""Exports of the feature history: Parquet files that training jobs read, whole or not at all.

    EXPORT/manifest.json
    EXPORT/features/symbol=BTCUSDT/month=2024-05.parquet    event_ts, features, labels
    EXPORT/bars/symbol=BTCUSDT/month=2024-05.parquet        ts, open, high, low, close, volume

An export is written beside its place and gets its name last, the manifest before that: what a killed process
leaves has another name, and no reader takes it. The reader compares every file that it reads with the
manifest's checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from levibot.errors import DataError, UsageError
from levibot.market.bars import FIELDS, Bars, BoolArray, FloatArray, TimeArray
from levibot.stores.history_rows import ViewOfFeatures

FORMAT = 1
MANIFEST = "manifest.json"
HALF = ".half-"


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file. part: features or bars. path: relative to the export."""

    part: str
    path: str
    symbol: str
    month: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export holds. start, end, as_of: ISO instants. data_hash: over everything that is in it."""

    market_id: str
    interval_s: float
    view: str
    view_version: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    symbols: tuple[str, ...]
    start: str
    end: str
    as_of: str
    rows: int
    data_hash: str
    files: tuple[ExportedFile, ...]
    format: int = FORMAT

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises DataError on anything but a manifest of this format."""
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is {fields['format']!r}, not {FORMAT}")
            lists = {name: tuple(fields[name]) for name in ("columns", "labels", "symbols")}
            files = tuple(ExportedFile(**file) for file in fields["files"])
            return cls(**(fields | lists | {"files": files}))
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"The manifest of the export cannot be read: {exc}.") from exc


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Exported rows beside their bars. features: (T, S, F), labels: (T, S, L), both NaN where unknown.

    has_row: (T, S), whether there is a row; one may have no known value.
    """

    features: FloatArray
    labels: FloatArray
    has_row: BoolArray


class Export:
    """A whole export, for reading. `manifest` says what it holds."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where there is no whole export."""
        self.folder = folder
        if folder.name.startswith(HALF):
            raise DataError(f"{folder} is an export that was never finished.", hint="Write it again.")
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except OSError as exc:
            raise DataError(f"{folder} is no export: {exc.strerror or exc}.") from exc
        self.manifest = Manifest.parse(text)

    def bars(self) -> dict[str, Bars]:
        """The bars of each symbol, oldest first. Raises DataError where a file is not the one written."""
        interval = timedelta(seconds=self.manifest.interval_s)
        found = {}
        for symbol in self.manifest.symbols:
            table = self._read("bars", symbol, ("ts", *FIELDS))
            ts = table["ts"].to_numpy().astype("datetime64[us]")
            found[symbol] = Bars(symbol, interval, ts, *(table[f].to_numpy() for f in FIELDS))
        return found

    def grid(self, view: ViewOfFeatures, labels: Sequence[str], closes_at: TimeArray) -> Grid:
        """The rows that close then; S as in the manifest.

        Raises DataError where the export is of another view or lacks a label, or a file is not the one
        written.
        """
        manifest = self.manifest
        if (manifest.view, manifest.view_version, manifest.columns) != (view.name, view.version, view.names):
            raise DataError(
                f"The export holds view {manifest.view} of version {manifest.view_version}, "
                f"not {view.name} of version {view.version}.",
                hint="Write one of the view as it is now.",
            )
        lacking = [name for name in labels if name not in manifest.labels]
        if lacking:
            raise DataError(f"The export has no labels {lacking[0]}.", hint="Write one with them.")
        n_symbols, columns = len(manifest.symbols), (*view.names, *labels)
        values = np.full((len(closes_at), n_symbols, len(columns)), np.nan, order="F")
        has_row = np.zeros((len(closes_at), n_symbols), dtype=np.bool_)
        for column, symbol in enumerate(manifest.symbols):
            table = self._read("features", symbol, ("event_ts", *columns))
            event_ts = table["event_ts"].to_numpy().astype("datetime64[us]")
            _, rows, ours = np.intersect1d(closes_at, event_ts, assume_unique=True, return_indices=True)
            has_row[rows, column] = True
            for k, name in enumerate(columns):
                values[rows, column, k] = table[name].to_numpy()[ours]
        n_features = len(view.names)
        return Grid(values[:, :, :n_features], values[:, :, n_features:], has_row)

    def table(self, symbol: str) -> pa.Table:
        """event_ts, features and labels of one symbol. Raises as `bars` does."""
        manifest = self.manifest
        return self._read("features", symbol, ("event_ts", *manifest.columns, *manifest.labels))

    def check(self) -> None:
        """Compare every file with its checksum. Raises DataError."""
        for file in self.manifest.files:
            self._bytes(file)

    def _read(self, part: str, symbol: str, columns: Sequence[str]) -> pa.Table:
        if symbol not in self.manifest.symbols:
            raise UsageError(
                f"The export has no symbol {symbol}.", hint=f"It has {', '.join(self.manifest.symbols)}."
            )
        tables = [
            # A file has some hundred rows: a reader that is made for one costs less than the threads.
            pq.ParquetFile(pa.BufferReader(self._bytes(file))).read(list(columns), use_threads=False)
            for file in self.manifest.files
            if (file.part, file.symbol) == (part, symbol)
        ]
        if tables:
            return pa.concat_tables(tables)
        times = {name: pa.array([], pa.timestamp("us")) for name in columns[:1]}
        return pa.table(times | {name: pa.array([], pa.float64()) for name in columns[1:]})

    def _bytes(self, file: ExportedFile) -> bytes:
        try:
            data = (self.folder / file.path).read_bytes()
        except OSError as exc:
            raise DataError(f"{file.path} of the export is missing: {exc.strerror or exc}.") from exc
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise DataError(f"{file.path} of the export has changed: SHA-256 {found}, not {file.sha256}.")
        return data


def newest_export(folder: Path) -> Export | None:
    """The export in `folder` with the latest `as_of`, None where there is no whole one."""
    return next(iter(newest_first(folder)), None)


def newest_first(folder: Path) -> list[Export]:
    """The whole exports in `folder`, the latest `as_of` first."""
    places = [path.parent for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith(HALF)]
    exports = [Export(place) for place in places]
    return sorted(exports, key=lambda e: datetime.fromisoformat(e.manifest.as_of), reverse=True)
