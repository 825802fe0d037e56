"""Immutable files of history: rows of one series and one symbol, a column after the other.

A segment is an Arrow IPC file, not compressed, of one record batch without nulls: any Arrow reader opens it.
Its columns are `event_ts`, `available_ts` and the values, and lie at equal distances. So whoever knows where
the first one lies reads the columns that are wanted with one call into memory that is there already, without
a copy in between: that is three times as fast as mapping the files, and parses no header.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from levibot.errors import StoreError
from levibot.market.bars import FloatArray

# (N,) microseconds since 1970, UTC.
MicrosArray = npt.NDArray[np.int64]
TIME_COLUMNS = ("event_ts", "available_ts")
# What Linux takes in one call.
MAX_PARTS = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a segment's numbers lie. columns_at: byte of the first column. stride: bytes between columns."""

    n_rows: int
    n_columns: int
    columns_at: int
    stride: int
    n_bytes: int


def write_segment(
    path: Path, names: Sequence[str], event_us: MicrosArray, available_us: MicrosArray, values: FloatArray
) -> tuple[Layout, str]:
    """Write a new file and sync it; returns its layout and SHA-256. The file has its name only when whole.

    names: of the values. values: (N, C). Rows are sorted by event, then by availability.
    """
    times = [pa.array(us).cast(pa.timestamp("us", "UTC")) for us in (event_us, available_us)]
    columns = [pa.array(np.ascontiguousarray(values[:, k])) for k in range(len(names))]
    batch = pa.record_batch([*times, *columns], names=[*TIME_COLUMNS, *names])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue()
    layout = _layout(data)
    write_whole(path, data)
    return layout, hashlib.sha256(data).hexdigest()


def write_whole(path: Path, data: bytes | memoryview | pa.Buffer) -> None:
    """Write a file under another name, sync it and its folder, and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class Segment:
    """A written segment. It is opened for each reading only: a history has more of them than a process files.

    Every reading raises StoreError when the file is not there, has another length or cannot be read.
    """

    path: Path
    layout: Layout

    def times(self) -> tuple[MicrosArray, MicrosArray]:
        """event_ts and available_ts of every row."""
        layout = self.layout
        out = np.empty((2, layout.n_rows), dtype=np.int64)
        with self._opened() as file:
            for k in range(2):
                self._read(file, [out[k]], layout.columns_at + k * layout.stride)
        return out[0], out[1]

    def read_into(self, columns: Sequence[int], first: int, out: FloatArray) -> None:
        """out[:, i] = the wanted columns of row first + i. out: (K, n), each of its rows in one stretch."""
        layout, n = self.layout, out.shape[1]
        is_whole = n == layout.n_rows and layout.stride == 8 * n
        with self._opened() as file:
            for run in _runs(columns, MAX_PARTS if is_whole else 1):
                parts = [out[k] for k in range(run.start, run.stop)]
                begin = layout.columns_at + (columns[run.start] + len(TIME_COLUMNS)) * layout.stride
                self._read(file, parts, begin + 8 * first)

    def read(self, columns: Sequence[int]) -> FloatArray:
        """(K, N) the wanted columns of all rows."""
        out = np.empty((len(columns), self.layout.n_rows))
        self.read_into(columns, 0, out)
        return out

    def check(self, sha256: str) -> None:
        """Raises StoreError where the file is not the one that was written."""
        with self._opened() as file, open(file, "rb", closefd=False) as data:
            found = hashlib.file_digest(data, "sha256").hexdigest()
        if found != sha256:
            raise StoreError(f"Segment {self.path} has changed: its SHA-256 is {found}, not {sha256}.")

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError as exc:
            raise StoreError(f"A segment of the history cannot be opened: {exc}.") from exc
        try:
            n_bytes = os.fstat(file).st_size
            if n_bytes != self.layout.n_bytes:
                raise StoreError(
                    f"Segment {self.path} has {n_bytes} bytes, and {self.layout.n_bytes} were written."
                )
            yield file
        finally:
            os.close(file)

    def _read(self, file: int, parts: list[npt.NDArray[Any]], offset: int) -> None:
        """Fill the parts with what lies there one behind the other."""
        try:
            n_read = os.preadv(file, [part.data for part in parts], offset)
        except OSError as exc:
            raise StoreError(f"Segment {self.path} cannot be read: {exc}.") from exc
        if n_read != sum(part.nbytes for part in parts):
            raise StoreError(f"Segment {self.path} ends too early: {n_read} bytes were read.")


def _runs(columns: Sequence[int], longest: int) -> Iterator[slice]:
    """Stretches of neighbouring columns, at most so many in each: where they are among the wanted."""
    first = 0
    for last in range(1, len(columns) + 1):
        is_end = last == len(columns) or columns[last] != columns[last - 1] + 1 or last - first == longest
        if is_end:
            yield slice(first, last)
            first = last


def _layout(data: pa.Buffer) -> Layout:
    """Where Arrow has put the columns. Raises StoreError if not at equal distances and without nulls."""
    batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    at = []
    for column in batch.columns:
        validity, numbers = column.buffers()
        if validity is not None or column.offset:
            raise StoreError("A segment was written with nulls.")
        at.append(numbers.address - data.address)
    distances = {second - first for first, second in pairwise(at)}
    stride = distances.pop()
    if distances or stride % 8:
        raise StoreError("A segment's columns do not lie at equal distances.")
    return Layout(batch.num_rows, batch.num_columns, at[0], stride, data.size)
