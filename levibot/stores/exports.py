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
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from levibot.errors import DataError, UsageError
from levibot.market.bars import FIELDS, Bars, FloatArray, TimeArray
from levibot.stores.history_rows import Series, ViewOfFeatures, instant_us
from levibot.stores.offline import OfflineStore
from levibot.stores.segments import write_whole

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


def write_export(
    store: OfflineStore,
    folder: Path,
    view: ViewOfFeatures,
    labels: Sequence[str],
    start: datetime,
    end: datetime,
    as_of: datetime,
    *,
    market_id: str,
    bars: Mapping[str, Bars],
) -> Manifest:
    """Write the features and labels of the events in [start, end), as known at `as_of`, to `folder`.

    bars: of each symbol, those that the features were made of; the ones that closed by `as_of` go along.
    A label that was not known is NaN. The same question gives the same files, and the same data hash.
    Raises UsageError when the folder is there already, and as `OfflineStore.get_training_set` does.
    """
    if folder.exists():
        raise UsageError(f"{folder} is there already.", hint="An export is never written over.")
    half = folder.with_name(f"{HALF}{folder.name}")
    shutil.rmtree(half, ignore_errors=True)
    files: list[ExportedFile] = []
    for symbol in bars:
        table = _table(store, view, labels, symbol, start, end, as_of)
        files += _write_months(half, "features", symbol, "event_ts", table)
        known = bars[symbol].closed_by(as_of)
        columns = {name: pa.array(getattr(known, name)) for name in ("ts", *FIELDS)}
        files += _write_months(half, "bars", symbol, "ts", pa.table(columns))
    some = next(iter(bars.values()))
    head: dict[str, Any] = {
        "market_id": market_id,
        "interval_s": some.interval.total_seconds(),
        "view": view.name,
        "view_version": view.version,
        "columns": view.names,
        "labels": tuple(labels),
        "symbols": tuple(bars),
    }
    manifest = Manifest(
        **head,
        start=start.isoformat(),
        end=end.isoformat(),
        as_of=as_of.isoformat(),
        rows=sum(file.rows for file in files if file.part == "features"),
        data_hash=_hash(head, files),
        files=tuple(files),
    )
    write_whole(half / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    half.rename(folder)
    _sync(folder.parent)
    return manifest


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

    def features(self, view: ViewOfFeatures, closes_at: TimeArray) -> FloatArray:
        """(T, S, F) features of the rows that close then, S as in the manifest, NaN where there is no row.

        Raises DataError where the export is of another view, or a file is not the one written.
        """
        manifest = self.manifest
        if (manifest.view, manifest.view_version, manifest.columns) != (view.name, view.version, view.names):
            raise DataError(
                f"The export holds view {manifest.view} of version {manifest.view_version}, "
                f"not {view.name} of version {view.version}.",
                hint="Write one of the view as it is now.",
            )
        out = np.full((len(closes_at), len(manifest.symbols), len(view.names)), np.nan)
        for column, symbol in enumerate(manifest.symbols):
            table = self._read("features", symbol, ("event_ts", *view.names))
            event_ts = table["event_ts"].to_numpy().astype("datetime64[us]")
            _, rows, ours = np.intersect1d(closes_at, event_ts, assume_unique=True, return_indices=True)
            for k, name in enumerate(view.names):
                out[rows, column, k] = table[name].to_numpy()[ours]
        return out

    def event_ts(self, symbol: str) -> TimeArray:
        """(N,) the times of the feature rows of one symbol, datetime64[us] UTC. Raises as `bars` does."""
        column = self._read("features", symbol, ("event_ts",))["event_ts"].to_numpy()
        return np.asarray(column, dtype="datetime64[us]")

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
            pq.read_table(pa.BufferReader(self._bytes(file)), columns=list(columns))
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
    return next(iter(_newest_first(folder)), None)


def prune_exports(folder: Path, keep: int) -> int:
    """Remove all but the `keep` exports with the latest `as_of`; returns how many."""
    old = _newest_first(folder)[keep:]
    for export in old:
        half = export.folder.with_name(f"{HALF}{export.folder.name}")
        # Killed in between, it must not look whole either.
        export.folder.rename(half)
        shutil.rmtree(half)
    return len(old)


def _newest_first(folder: Path) -> list[Export]:
    places = [path.parent for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith(HALF)]
    exports = [Export(place) for place in places]
    return sorted(exports, key=lambda e: datetime.fromisoformat(e.manifest.as_of), reverse=True)


def _table(
    store: OfflineStore,
    view: ViewOfFeatures,
    labels: Sequence[str],
    symbol: str,
    start: datetime,
    end: datetime,
    as_of: datetime,
) -> pa.Table:
    span = {"start": start, "end": end, "as_of": as_of}
    if instant_us("start", start) >= instant_us("end", end):
        raise UsageError(f"The export would end at {end} and begin at {start}.")
    series = Series.of_view(view)
    known = store.read(series, (symbol,), **span)[symbol]
    values = known.values(range(len(series.columns)))
    columns = {"event_ts": pa.array(known.event_us.astype("datetime64[us]"))}
    columns |= {name: pa.array(values[:, k]) for k, name in enumerate(series.columns)}
    for label in labels:
        of = store.read(Series.of_label(label), (symbol,), **span)[symbol]
        found = np.full(len(known), np.nan)
        _, rows, theirs = np.intersect1d(known.event_us, of.event_us, assume_unique=True, return_indices=True)
        found[rows] = of.values([0])[theirs, 0]
        columns[label] = pa.array(found)
    return pa.table(columns)


def _write_months(
    folder: Path, part: str, symbol: str, time_column: str, table: pa.Table
) -> Iterator[ExportedFile]:
    ts = table[time_column].to_numpy()
    months = np.datetime_as_string(ts.astype("datetime64[M]"))
    names, first, count = np.unique(months, return_index=True, return_counts=True)
    for month, begin, n in zip(names.tolist(), first.tolist(), count.tolist(), strict=True):
        path = f"{part}/symbol={quote(symbol, safe='')}/month={month}.parquet"
        data = io.BytesIO()
        pq.write_table(table.slice(begin, n), data, compression="lz4", use_dictionary=False)
        write_whole(folder / path, data.getbuffer())
        yield ExportedFile(part, path, symbol, month, n, hashlib.sha256(data.getbuffer()).hexdigest())


def _hash(head: Mapping[str, Any], files: Sequence[ExportedFile]) -> str:
    """Of what is in it, not of when it was asked: an export of the same rows has the same hash."""
    content = {**head, "files": [(file.path, file.sha256) for file in files]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
