"""The binary form of feature rows: what the serving path reads from Redis in one piece.

Layout: words of 8 bytes, little-endian, so that one array operation reads a field of many vectors.

    word      field
    0         stamp: the server's clock at the time of word 7, microseconds since 1970; the script writes it
    1         the stamp's negative: the check of what the script wrote
    2         checksum of all words after it
    3         b"LVFV", format version 3
    4, 5      identity: a digest of the market's id, the view's version and the names of its features
    6         event time, microseconds since 1970 UTC
    7         the writer's market time at the write, microseconds
    8         time to live from the stamp on, microseconds
    9, 10     rows R, columns F
    11        values with a time of their own K
    12 …      R·F float64, row after row, oldest row first; NaN = missing
    …         K times: column, time of the value (microseconds), its life (microseconds, -1: no end),
              how often such a value comes (microseconds)

The names are not in it: they would be longer than the values, and whoever knows the identity has them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import FloatArray

IntArray = npt.NDArray[np.int64]

FORMAT_VERSION = 3
HEADER_WORDS = 12

_MAGIC = int.from_bytes(b"LVFV" + FORMAT_VERSION.to_bytes(4, "little"), "little")
_HEADER = struct.Struct("<12q")
_WORD, _NUMBER = np.dtype("<i8"), np.dtype("<f8")
_OWN_WORDS = 4
_NO_END = -1
NO_OWN_TIMES: IntArray = np.empty((0, _OWN_WORDS), dtype=np.int64)
# Odd, so that a change of any one word changes the sum: Dietzfelbinger 1996, multiply and add modulo 2^64.
_GOLDEN = 0x9E3779B97F4A7C15
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ValueTime:
    """The time of a value that is not as old as the bars: data from outside.

    source_time: aware UTC, when it was true. life: how long after that it may be used at all; beyond it the
    value is missing. None: for ever. every: how often its source has a new one. So long after `source_time`
    nothing newer can be known, and the value is as fresh as the bars.
    """

    source_time: datetime
    life: timedelta | None = None
    every: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureWindow:
    """The newest rows of one symbol's features.

    event_time: aware UTC, the close of the newest bar: when the last row became known.
    names: (F,) unique, not empty, no line break, no leading underscore.
    rows: (R, F), R >= 1, oldest first; NaN = missing, never infinite.
    own_times: of the newest row's values that are not as old as the bars, by name.
    """

    symbol: str
    event_time: datetime
    names: tuple[str, ...]
    rows: FloatArray
    own_times: Mapping[str, ValueTime] = field(default_factory=dict)


class Identity(NamedTuple):
    """What a packed vector must begin with to be of this market and view. names: (F,)."""

    market_id: str
    view_version: str
    names: tuple[str, ...]
    words: tuple[int, int, int]

    @classmethod
    def of(cls, market_id: str, view_version: str, names: Sequence[str]) -> Identity:
        """Raises DataError on names that no view has."""
        check_names(tuple(names))
        text = "\0".join((market_id, view_version, *names))
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return cls(market_id, view_version, tuple(names), (_MAGIC, *struct.unpack("<2q", digest)))

    @property
    def prefix(self) -> bytes:
        """The words as they lie in a packed vector."""
        return struct.pack("<3q", *self.words)


class Unpacked(NamedTuple):
    """One packed vector or window, as it was written. Instants: microseconds. rows: (R, F), read-only.

    own: (K, 4): column, time of the value, its life or -1, how often such a value comes.
    """

    stamp_us: int
    event_us: int
    written_us: int
    ttl_us: int
    rows: FloatArray
    own: IntArray


class UnpackedMany(NamedTuple):
    """Many vectors of one size. Each array (N, …); is_known: of the identity asked for.

    values: (N, F), read-only. Of what is not known nothing else means anything.
    """

    is_known: npt.NDArray[np.bool_]
    stamp_us: IntArray
    event_us: IntArray
    written_us: IntArray
    ttl_us: IntArray
    values: FloatArray

    def at(self, row: int) -> Unpacked:
        """One of them."""
        return Unpacked(
            int(self.stamp_us[row]),
            int(self.event_us[row]),
            int(self.written_us[row]),
            int(self.ttl_us[row]),
            self.values[row : row + 1],
            NO_OWN_TIMES,
        )


@lru_cache(maxsize=256)
def check_names(names: tuple[str, ...]) -> None:
    """Raises DataError when a name cannot stand in the hash, or stands twice."""
    if len(set(names)) != len(names):
        raise DataError("The window names a feature twice.")
    for name in names:
        if not name or name.startswith("_") or "\n" in name or "\0" in name:
            raise DataError(f"{name!r} is no feature name: empty, a line break or a leading underscore.")


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
    check_names(names)
    for name, own in window.own_times.items():
        if name not in names:
            raise DataError(f"{window.symbol} has a time for {name!r}, which is none of its features.")
        if own.source_time.tzinfo is None:
            raise DataError(f"{name} of {window.symbol} is of {own.source_time}, without a time zone.")
        if own.life is not None and own.life <= timedelta(0):
            raise DataError(f"{name} of {window.symbol} lives for {own.life}, which is no time.")
        if own.every < timedelta(0):
            raise DataError(f"{name} of {window.symbol} comes every {own.every}, which is no time.")


def microseconds(instant: datetime) -> int:
    """Whole microseconds since 1970 UTC, without a float on the way."""
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(instant_us: int) -> datetime:
    """The instant so many microseconds after 1970, UTC."""
    return _EPOCH + timedelta(microseconds=instant_us)


def pack(window: FeatureWindow, identity: Identity, *, rows: int, written_at: datetime, ttl_us: int) -> bytes:
    """The newest `rows` rows as bytes, without the stamp: the script inside the server writes it."""
    values = np.ascontiguousarray(window.rows[-rows:], dtype="<f8")
    own = [
        (
            window.names.index(name),
            microseconds(time.source_time),
            _NO_END if time.life is None else time.life // _MICROSECOND,
            time.every // _MICROSECOND,
        )
        for name, time in window.own_times.items()
    ]
    n_rows, n_columns = values.shape
    words = np.empty(HEADER_WORDS + values.size + _OWN_WORDS * len(own), dtype="<i8")
    words[3:6] = identity.words
    words[6:HEADER_WORDS] = (
        microseconds(window.event_time),
        microseconds(written_at),
        ttl_us,
        n_rows,
        n_columns,
        len(own),
    )
    words[HEADER_WORDS : HEADER_WORDS + values.size] = values.view("<i8").ravel()
    words[HEADER_WORDS + values.size :] = np.array(own, dtype="<i8").ravel()
    words[2] = words[3:] @ _weights(len(words) - 3)
    return words[2:].tobytes()


def unpack(data: bytes, identity: Identity) -> Unpacked | None:
    """What is in `data`, None when it is of another market or view.

    Raises ValueError with the reason when it is no packed vector, whole and unchanged.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"{len(data)} bytes are too few for a header")
    header = _HEADER.unpack_from(data)
    stamp_us, minus_stamp_us, checksum, magic, first, second = header[:6]
    event_us, written_us, ttl_us, n_rows, n_columns, n_own = header[6:]
    if magic != _MAGIC:
        raise ValueError(f"it begins with {data[24:32]!r}, not {_MAGIC.to_bytes(8, 'little')!r}")
    n_values = n_rows * n_columns
    n_words = HEADER_WORDS + n_values + _OWN_WORDS * n_own
    if min(n_rows, n_columns) < 1 or n_own < 0 or len(data) != 8 * n_words:
        raise ValueError(f"it has {len(data)} bytes, its header says {8 * n_words}")
    words = np.frombuffer(data, _WORD, n_words - 3, 24)
    if int(words.dot(_weights(n_words - 3))) != checksum or stamp_us + minus_stamp_us:
        raise ValueError("its checksum does not match")
    if (magic, first, second) != identity.words:
        return None
    if n_columns != len(identity.names):
        raise ValueError(f"it has {n_columns} columns for {len(identity.names)} names")
    rows: FloatArray = np.frombuffer(data, _NUMBER, n_values, _HEADER.size).reshape(n_rows, n_columns)
    own = words[HEADER_WORDS - 3 + n_values :].reshape(n_own, _OWN_WORDS) if n_own else NO_OWN_TIMES
    return Unpacked(stamp_us, event_us, written_us, ttl_us, rows, own)


def unpack_many(stored: Sequence[bytes | None], identity: Identity) -> UnpackedMany | None:
    """As `unpack`, for vectors of one row and one size without times of their own; None when they are others.

    Whoever gets None unpacks one by one, and learns what is wrong with which.
    """
    n_columns = len(identity.names)
    n_words = HEADER_WORDS + n_columns
    whole = [data for data in stored if data is not None and len(data) == 8 * n_words]
    if not whole or len(whole) != len(stored):
        return None
    words = np.frombuffer(b"".join(whole), "<i8").reshape(len(whole), n_words)
    body = words[:, 3:]
    is_whole = (
        (body @ _weights(n_words - 3) == words[:, 2])
        & (words[:, 0] + words[:, 1] == 0)
        & (words[:, 3] == _MAGIC)
        & (words[:, 9] == 1)
        & (words[:, 10] == n_columns)
        & (words[:, 11] == 0)
    )
    if not is_whole.all():
        return None
    return UnpackedMany(
        is_known=(words[:, 3:6] == _as_array(identity.words)).all(axis=1),
        stamp_us=words[:, 0],
        event_us=words[:, 6],
        written_us=words[:, 7],
        ttl_us=words[:, 8],
        values=words[:, HEADER_WORDS:].view(np.float64),
    )


@lru_cache(maxsize=64)
def _as_array(words: tuple[int, int, int]) -> IntArray:
    return np.array(words, dtype="<i8")


@lru_cache(maxsize=64)
def _weights(n_words: int) -> IntArray:
    weights = (np.arange(1, n_words + 1, dtype=np.uint64) * np.uint64(_GOLDEN)) | np.uint64(1)
    weights.flags.writeable = False
    return weights.view(np.int64)
