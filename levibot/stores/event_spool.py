"""Events on disk that wait for ClickHouse: append-only segment files, read again in their order.

An append returns when its events are synced to the disk, so they survive the process and a power cut. A
record is `magic, length, CRC-32, JSON`. What kill -9 leaves half written at the end is cut off: nobody was
told that it is kept. A record that has gone bad since is set aside in `corrupt/` and reported.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from levibot.errors import StoreError, StoreUnavailable
from levibot.stores.event import MAX_EVENT_BYTES, EventRow

MAGIC = b"LvEv"
HEADER = struct.Struct("<4sII")
SEGMENT_BYTES = 4 * 1024 * 1024
# JSON escapes a control character with six bytes.
MAX_RECORD_BYTES = 6 * MAX_EVENT_BYTES + 1024
log = structlog.get_logger()


@dataclass(slots=True)
class Segment:
    """One file. done: bytes at its beginning that were replayed. n_events: those that were not."""

    path: Path
    n_bytes: int
    n_events: int
    done: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """The oldest events of the spool, to be given to `drop` once they are stored. end: their place."""

    rows: tuple[EventRow, ...]
    segment: Path
    end: int


class EventSpool:
    """The spool of one folder. Not safe to call from two threads at once."""

    def __init__(self, folder: Path, limit_bytes: int, lock: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max(1, limit_bytes // 4))
        self._lock = lock
        self._file: int | None = None
        self._segments: deque[Segment] = deque()
        self._next_number = 1

    @classmethod
    def open(cls, folder: Path, limit_bytes: int) -> Self:
        """The spool with what an earlier process left in it.

        limit_bytes: what the segments may take on disk.
        Raises StoreError when the folder cannot be written, or another process has it open.
        """
        try:
            (folder / "corrupt").mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StoreError(f"The event spool in {folder} cannot be opened: {exc}.") from exc
        spool = cls(folder, limit_bytes, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            spool._recover()
        except BlockingIOError as exc:
            os.close(lock)
            raise StoreError(f"The event spool in {folder} is in use by another process.") from exc
        except OSError as exc:
            os.close(lock)
            raise StoreError(f"The event spool in {folder} cannot be read: {exc}.") from exc
        return spool

    @property
    def n_events(self) -> int:
        """How many events wait."""
        return sum(segment.n_events for segment in self._segments)

    @property
    def n_bytes(self) -> int:
        """What the segments take on disk."""
        return sum(segment.n_bytes for segment in self._segments)

    @property
    def n_corrupt(self) -> int:
        """How many stretches were set aside and are still there to be looked at."""
        return sum(1 for _ in (self._folder / "corrupt").iterdir())

    def append(self, rows: Sequence[EventRow]) -> None:
        """Keep the events; returns when they are on the disk. All of them, or an error and none.

        Raises StoreUnavailable when the spool is full, StoreError when the disk does not take them.
        """
        data = b"".join(_record(row) for row in rows)
        if self.n_bytes + len(data) > self._limit_bytes:
            raise StoreUnavailable(
                f"The event spool in {self._folder} is full: {self.n_bytes} of {self._limit_bytes} bytes.",
                hint="Bring ClickHouse back, or raise LEVIBOT_EVENT_SPOOL_MB.",
            )
        try:
            segment, file = self._writable()
            self._write(segment, file, data)
        except OSError as exc:
            # The next append must not write behind half a record, nor leave an empty file at each attempt.
            self._close_file()
            if self._segments and not self._segments[-1].n_bytes:
                self._segments.pop().path.unlink(missing_ok=True)
            raise StoreError(f"The event spool in {self._folder} cannot be written: {exc}.") from exc
        segment.n_bytes += len(data)
        segment.n_events += len(rows)

    def oldest(self, n_events: int) -> Waiting | None:
        """Up to so many events in the order in which they were appended; None when there are none.

        Raises StoreError when they cannot be read.
        """
        while self._segments:
            segment = self._segments[0]
            rows: list[EventRow] = []
            end = segment.done
            try:
                data = segment.path.read_bytes()[: segment.n_bytes]
                for piece in _pieces(data, segment.done):
                    if piece.row is None:
                        self._set_aside(segment.path, data, piece)
                    else:
                        rows.append(piece.row)
                    end = piece.end
                    if len(rows) == n_events:
                        break
            except OSError as exc:
                raise StoreError(f"The event spool in {self._folder} cannot be read: {exc}.") from exc
            if rows:
                return Waiting(tuple(rows), segment.path, end)
            # All that was left of it has gone bad.
            self._remove_oldest()
        return None

    def drop(self, waiting: Waiting) -> None:
        """Forget what `oldest` gave: it is stored."""
        segment = self._segments[0]
        if segment.path != waiting.segment or waiting.end <= segment.done:
            raise StoreError(f"{waiting.segment} up to {waiting.end} is not the oldest of the event spool.")
        segment.done = waiting.end
        segment.n_events = max(0, segment.n_events - len(waiting.rows))
        if segment.done >= segment.n_bytes:
            self._remove_oldest()

    def close(self) -> None:
        """Let go of the folder; what waits stays on disk."""
        self._close_file()
        os.close(self._lock)

    def _recover(self) -> None:
        paths = sorted(self._folder.glob("*.events"))
        for path in paths:
            data = path.read_bytes()
            pieces = list(_pieces(data, 0))
            if path == paths[-1] and pieces and pieces[-1].is_torn:
                end = pieces.pop().start
                log.warning("a torn record was cut off", file=str(path), n_bytes=len(data) - end)
                data = data[:end]
                os.truncate(path, end)
            for piece in pieces:
                if piece.row is None:
                    self._set_aside(path, data, piece)
            n_events = sum(piece.row is not None for piece in pieces)
            if n_events:
                self._segments.append(Segment(path, len(data), n_events))
            else:
                path.unlink()
        self._next_number = int(paths[-1].stem) + 1 if paths else 1

    def _writable(self) -> tuple[Segment, int]:
        if self._file is not None and self._segments and self._segments[-1].n_bytes < self._segment_bytes:
            return self._segments[-1], self._file
        self._close_file()
        path = self._folder / f"{self._next_number:012}.events"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._next_number += 1
        self._segments.append(Segment(path, 0, 0))
        self._file = file
        _sync_folder(self._folder)
        return self._segments[-1], file

    def _write(self, segment: Segment, file: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(file, view) :]
            os.fdatasync(file)
        except OSError:
            os.ftruncate(file, segment.n_bytes)
            raise

    def _remove_oldest(self) -> None:
        segment = self._segments.popleft()
        if not self._segments:
            self._close_file()
        # Should it come back after a power cut, it is replayed again: that does no harm.
        segment.path.unlink(missing_ok=True)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _set_aside(self, path: Path, data: bytes, piece: _Piece) -> None:
        target = self._folder / "corrupt" / f"{path.stem}-{piece.start}.bin"
        if not target.exists():
            n_bytes = piece.end - piece.start
            log.error("a corrupt record of the event spool is set aside", file=str(target), n_bytes=n_bytes)
        target.write_bytes(data[piece.start : piece.end])


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a segment: a record, or bytes that are none. is_torn: they may be one's beginning."""

    start: int
    end: int
    row: EventRow | None
    is_torn: bool = False


def _record(row: EventRow) -> bytes:
    body = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    return HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body


def _pieces(data: bytes, start: int) -> Iterator[_Piece]:
    """The segment from `start` on, without gaps."""
    at = start
    while at < len(data):
        end, row = _read_record(data, at)
        if row is not None:
            yield _Piece(at, end, row)
            at = end
            continue
        after = data.find(MAGIC, at + 1)
        while after != -1 and _read_record(data, after)[1] is None:
            after = data.find(MAGIC, after + 1)
        end = after if after != -1 else len(data)
        yield _Piece(at, end, None, is_torn=after == -1 and _is_beginning(data, at))
        at = end


def _read_record(data: bytes, at: int) -> tuple[int, EventRow | None]:
    """Where the record ends, and what it holds: None for what is not a whole and sound record."""
    if len(data) - at < HEADER.size:
        return len(data), None
    magic, length, checksum = HEADER.unpack_from(data, at)
    begin = at + HEADER.size
    end = begin + length
    if magic != MAGIC or length > MAX_RECORD_BYTES or end > len(data):
        return end, None
    body = data[begin:end]
    if zlib.crc32(body) != checksum:
        return end, None
    try:
        event_type, symbol, ts_us, event_id, trace_id, payload = json.loads(body)
    except ValueError:
        return end, None
    return end, EventRow(event_type, symbol, ts_us, event_id, trace_id, payload)


def _is_beginning(data: bytes, at: int) -> bool:
    """Whether the bytes up to the end may be a record that was being written."""
    head = data[at : at + HEADER.size]
    if len(head) < HEADER.size:
        return MAGIC.startswith(head[:4])
    magic, length, _ = HEADER.unpack(head)
    return bool(magic == MAGIC) and at + HEADER.size + length > len(data)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
