"""Writes exports of the feature history, and removes old ones. What an export is: see `exports`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from levibot.errors import UsageError
from levibot.market.bars import FIELDS, Bars
from levibot.stores.exports import HALF, MANIFEST, ExportedFile, Manifest, newest_first
from levibot.stores.history_rows import Series, ViewOfFeatures, instant_us
from levibot.stores.offline import OfflineStore
from levibot.stores.segments import write_whole

# Each file is synced: several wait for the disk together.
WRITERS = 4


def export_once(
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
    keep: int,
) -> Path:
    """The export in `folder` that answers this question: the one that is there, or a new one.

    keep: of all exports in the folder, so many stay. Raises as `write_export` does.
    """
    place = folder / "_".join(f"{at:%Y%m%dT%H%M%S.%f}" for at in (as_of, start, end))
    if not place.exists():
        write_export(store, place, view, labels, start, end, as_of, market_id=market_id, bars=bars)
        prune_exports(folder, keep)
    return place


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
    with ThreadPoolExecutor(WRITERS) as pool:
        for symbol in bars:
            table = _table(store, view, labels, symbol, start, end, as_of)
            files += _write_months(pool, half, "features", symbol, "event_ts", table)
            known = bars[symbol].closed_by(as_of)
            columns = {name: pa.array(getattr(known, name)) for name in ("ts", *FIELDS)}
            files += _write_months(pool, half, "bars", symbol, "ts", pa.table(columns))
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


def prune_exports(folder: Path, keep: int) -> int:
    """Remove all but the `keep` exports with the latest `as_of`; returns how many."""
    old = newest_first(folder)[keep:]
    for export in old:
        half = export.folder.with_name(f"{HALF}{export.folder.name}")
        # Killed in between, it must not look whole either.
        export.folder.rename(half)
        shutil.rmtree(half)
    return len(old)


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
    pool: ThreadPoolExecutor, folder: Path, part: str, symbol: str, time_column: str, table: pa.Table
) -> Iterator[ExportedFile]:
    ts = table[time_column].to_numpy()
    months, first, count = np.unique(ts.astype("datetime64[M]"), return_index=True, return_counts=True)

    def write(month: str, begin: int, n: int) -> ExportedFile:
        path = f"{part}/symbol={quote(symbol, safe='')}/month={month}.parquet"
        data = io.BytesIO()
        rows = table.slice(begin, n)
        # Of a month nobody skips a part by its values: only its time is worth statistics.
        pq.write_table(rows, data, compression="lz4", use_dictionary=False, write_statistics=[time_column])
        write_whole(folder / path, data.getbuffer())
        return ExportedFile(part, path, symbol, month, n, hashlib.sha256(data.getbuffer()).hexdigest())

    return pool.map(write, months.astype(str).tolist(), first.tolist(), count.tolist())


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
