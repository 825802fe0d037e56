"""The binary form of a feature window: what the serving path reads from Redis in one piece.

Layout, little-endian, no padding:

    size      field
    4         b"LVFW"
    2         format version, 1
    2 + 2     length of the market's id and of the view's version, bytes
    …         market id, view version (UTF-8)             ← up to here: `prefix(market_id, view_version)`
    8         event time, microseconds since 1970 UTC (signed)
    4 + 4     rows R, columns F
    4         length of the names, bytes
    4         CRC-32 of everything else
    …         F names (UTF-8), one a line
    8·R·F     float64, row after row, oldest row first; NaN = missing

The prefix comes first and the event time right after it, so that a script inside Redis can compare two
windows without knowing the rest.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray

MAGIC = b"LVFW"
FORMAT_VERSION = 1

_HEAD = struct.Struct("<4sHHH")
_BODY = struct.Struct("<qIII")
_CRC = struct.Struct("<I")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureWindow:
    """The newest rows of one symbol's features.

    event_time: aware UTC, the close of the newest bar: when the last row became known.
    names: (F,) unique, not empty, no line break, no leading underscore.
    rows: (R, F), R >= 1, oldest first; NaN = missing, never infinite.
    """

    symbol: str
    event_time: datetime
    names: tuple[str, ...]
    rows: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class UnpackedWindow:
    """What a packed window says of itself. rows: (R, F), read-only."""

    market_id: str
    view_version: str
    event_time: datetime
    names: tuple[str, ...]
    rows: FloatArray


def check_window(window: FeatureWindow) -> None:
    """Raises DataError when the window breaks its schema."""
    rows, names = window.rows, window.names
    if window.event_time.tzinfo is None:
        raise DataError(f"The event time of {window.symbol} is {window.event_time}, without a time zone.")
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != len(names) or not names:
        raise DataError(f"The window of {window.symbol} has shape {rows.shape} for {len(names)} names.")
    if np.isinf(rows).any():
        name = names[int(np.argmax(np.isinf(rows).any(axis=0)))]
        raise DataError(f"{name} of {window.symbol} is infinite; a missing value is NaN.")
    if len(set(names)) != len(names):
        raise DataError(f"The window of {window.symbol} names a feature twice.")
    for name in names:
        if not name or name.startswith("_") or "\n" in name:
            raise DataError(f"{name!r} is no feature name: empty, a line break or a leading underscore.")


def microseconds(instant: datetime) -> int:
    """Whole microseconds since 1970 UTC, without a float on the way."""
    return (instant - _EPOCH) // _MICROSECOND


def prefix(market_id: str, view_version: str) -> bytes:
    """The bytes that every packed window of this market and view begins with."""
    market, view = market_id.encode(), view_version.encode()
    return _HEAD.pack(MAGIC, FORMAT_VERSION, len(market), len(view)) + market + view


def pack(window: FeatureWindow, identity: bytes) -> bytes:
    """The window as bytes. identity: `prefix(…)` of its market and view."""
    names = "\n".join(window.names).encode()
    n_rows, n_columns = window.rows.shape
    body = _BODY.pack(microseconds(window.event_time), n_rows, n_columns, len(names))
    values = np.ascontiguousarray(window.rows, dtype="<f8").tobytes()
    crc = zlib.crc32(values, zlib.crc32(names, zlib.crc32(body, zlib.crc32(identity))))
    return b"".join((identity, body, _CRC.pack(crc), names, values))


def unpack(data: bytes) -> UnpackedWindow:
    """The window in `data`. Raises ValueError with the reason when it is not one, whole and unchanged."""
    if len(data) < _HEAD.size:
        raise ValueError(f"{len(data)} bytes are too few for a header")
    magic, version, market_size, view_size = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"it begins with {magic!r}, not {MAGIC!r}")
    if version != FORMAT_VERSION:
        raise ValueError(f"its format version is {version}, this code reads {FORMAT_VERSION}")
    body_at = _HEAD.size + market_size + view_size
    crc_at = body_at + _BODY.size
    names_at = crc_at + _CRC.size
    if len(data) < names_at:
        raise ValueError(f"{len(data)} bytes are too few for a header of {names_at}")
    event_us, n_rows, n_columns, names_size = _BODY.unpack_from(data, body_at)
    values_at = names_at + names_size
    if len(data) != values_at + 8 * n_rows * n_columns:
        raise ValueError(f"it has {len(data)} bytes, its header says {values_at + 8 * n_rows * n_columns}")
    view_of = memoryview(data)
    if zlib.crc32(view_of[names_at:], zlib.crc32(view_of[:crc_at])) != _CRC.unpack_from(data, crc_at)[0]:
        raise ValueError("its checksum does not match")
    names = _split_names(data[names_at:values_at])
    if len(names) != n_columns or n_rows < 1:
        raise ValueError(f"it has {n_rows} rows and {len(names)} names for {n_columns} columns")
    market_at = _HEAD.size
    rows = np.frombuffer(data, dtype="<f8", offset=values_at).reshape(n_rows, n_columns).astype(np.float64)
    rows.flags.writeable = False
    return UnpackedWindow(
        market_id=data[market_at : market_at + market_size].decode(),
        view_version=data[market_at + market_size : body_at].decode(),
        event_time=_EPOCH + timedelta(microseconds=event_us),
        names=names,
        rows=rows,
    )


@lru_cache(maxsize=64)
def _split_names(joined: bytes) -> tuple[str, ...]:
    # One view has one list of names: splitting it once saves half of the read.
    return tuple(joined.decode().split("\n"))
