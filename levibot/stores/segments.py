"""Immutable files of history: the rows of one series, one symbol and one period, a column after the other.

A segment is an Arrow IPC file, not compressed, of one record batch without nulls: any Arrow reader opens it.
Its columns are `event_ts`, `available_ts` and the values, and lie at equal distances. So whoever knows where
the first one lies reads the columns that are wanted with one call into memory that is there already: for a
thousand small files that is five times as fast as mapping them, and parses no header.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from levibot.errors import StoreError
from levibot.market.bars import FloatArray

# (N,) microseconds since 1970, UTC.
MicrosArray = npt.NDArray[np.int64]
TIME_COLUMNS = ("event_ts", "available_ts")


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
        with self._opened() as file:
            memory = np.empty(2 * self.layout.stride // 8)
            both = self._columns(file, 0, 2, memory).view(np.int64)
        return both[0], both[1]

    def values(self, columns: Sequence[int], scratch: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
        """The wanted values, in runs of neighbouring columns: (place among the wanted, (run, N)).

        scratch: memory to read into, at least `scratch_floats`; each run overwrites the one before.
        """
        with self._opened() as file:
            first = 0
            while first < len(columns):
                last = first + 1
                while last < len(columns) and columns[last] == columns[last - 1] + 1:
                    last += 1
                begin = columns[first] + len(TIME_COLUMNS)
                yield slice(first, last), self._columns(file, begin, last - first, scratch)
                first = last

    @property
    def scratch_floats(self) -> int:
        return self.layout.n_columns * self.layout.stride // 8

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

    def _columns(self, file: int, first: int, n: int, memory: FloatArray) -> FloatArray:
        layout = self.layout
        width = layout.stride // 8
        # The last column of the file may have no padding behind it.
        wanted = memory[: (n - 1) * width + layout.n_rows].data.cast("B")
        offset = layout.columns_at + first * layout.stride
        done = 0
        while done < len(wanted):
            try:
                n_read = os.preadv(file, [wanted[done:]], offset + done)
            except OSError as exc:
                raise StoreError(f"Segment {self.path} cannot be read: {exc}.") from exc
            if n_read == 0:
                raise StoreError(f"Segment {self.path} ends too early.")
            done += n_read
        return memory[: n * width].reshape(n, width)[:, : layout.n_rows]


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
