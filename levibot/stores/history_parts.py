"""Rows of the feature history as files: what a backfill computes, for the history's owner to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from levibot.errors import DataError
from levibot.stores.history_rows import Rows, Series
from levibot.stores.offline import OfflineStore

# Two windows give the same value but for rounding; a correction moves it by more.
SAME_WITHIN = 1e-9


def load_parts(store: OfflineStore, folder: Path, *, assume_available_at_close: bool = False) -> int:
    """Add the rows of every file to the history, one write a file; returns how many were new.

    assume_available_at_close: declare that each row was known as soon as it could be: see `write`.
    Raises DataError where there is no file, or one holds something else.
    """
    paths = sorted(folder.glob("step-*.arrow"))
    if not paths:
        raise DataError(f"{folder} holds no step of a backfill.")
    n_rows = 0
    for path in paths:
        batch = store.write(
            list(decode(path.read_bytes())),
            reason=f"backfill {path.name}",
            is_reconstructed=assume_available_at_close,
            same_within=SAME_WITHIN,
        )
        n_rows += batch.n_rows
    return n_rows


def encode(rows: Sequence[Rows]) -> bytes:
    """Rows as one Arrow stream: a batch for each symbol and series, told apart by its metadata."""
    sink = pa.BufferOutputStream()
    parts = []
    for some in rows:
        series = some.series
        head = {"kind": series.kind, "name": series.name, "version": series.version, "symbol": some.symbol}
        columns = {"event_ts": pa.array(some.event_ts), "known_at": pa.array(some.known_at)}
        columns |= {
            name: pa.array(np.ascontiguousarray(some.values[:, k])) for k, name in enumerate(series.columns)
        }
        table = pa.table(columns).replace_schema_metadata(head)
        with pa.BufferOutputStream() as part:
            with pa.ipc.new_stream(part, table.schema) as writer:
                writer.write_table(table)
            parts.append(part.getvalue().to_pybytes())
    with pa.ipc.new_stream(sink, pa.schema([("part", pa.binary())])) as writer:
        writer.write_batch(pa.record_batch([pa.array(parts, pa.binary())], names=["part"]))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode(data: bytes) -> Iterator[Rows]:
    """The rows that `encode` wrote. Raises DataError on anything else."""
    try:
        for part in pa.ipc.open_stream(data).read_all()["part"].to_pylist():
            table = pa.ipc.open_stream(part).read_all()
            head = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
            names = tuple(table.column_names[2:])
            series = (
                Series("features", head["name"], head["version"], names)
                if head["kind"] == "features"
                else Series.of_label(head["name"])
            )
            columns = [table[name].to_numpy() for name in names]
            event_ts, known_at = (
                table[name].to_numpy().astype("datetime64[us]") for name in ("event_ts", "known_at")
            )
            yield Rows(series, head["symbol"], event_ts, known_at, np.stack(columns, axis=1))
    except (pa.ArrowException, KeyError, TypeError, AttributeError) as exc:
        raise DataError(f"A step of a backfill cannot be read: {exc}.") from exc
