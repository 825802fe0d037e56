"""Trades in PostgreSQL's binary COPY format, and back: encoded column by column, not row by row."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import datetime

import numpy as np
import numpy.typing as npt

from levibot.errors import StoreError
from levibot.market.bars import TimeArray, to_datetime
from levibot.market.ticks import COLUMNS, Ticks

# A header, rows of length-prefixed big-endian fields, a trailer.
HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
BLOCK_BYTES = 1 << 20

_POSTGRES_EPOCH = np.datetime64("2000-01-01", "us")
_ONE_US = np.timedelta64(1, "us")
_FIELDS = (("ts", ">i8"), ("price", ">f8"), ("size", ">f8"), ("trade_id", ">i8"), ("is_buyer_maker", "u1"))
_ID_ROW = np.dtype([("n_fields", ">i2"), ("n", ">i4"), ("trade_id", ">i8")])


def encode(market_id: str, ticks: Ticks) -> bytes:
    """The rows (market_id, symbol, and the columns of `Ticks`), without header and trailer."""
    keys = (("market_id", market_id.encode()), ("symbol", ticks.symbol.encode()))
    # A text of no bytes has no dtype; no market and no symbol is called so.
    kinds = [*((name, f"S{len(text)}") for name, text in keys), *_FIELDS]
    row = np.dtype(_prefixed(kinds))
    rows = np.empty(len(ticks), row)
    rows["n_fields"] = len(kinds)
    for name, kind in kinds:
        rows[f"n_{name}"] = np.dtype(kind).itemsize
    for name, text in keys:
        rows[name] = text
    rows["ts"] = (ticks.ts - _POSTGRES_EPOCH).view(np.int64)
    for name in COLUMNS[1:]:
        rows[name] = getattr(ticks, name)
    return rows.tobytes()


def blocks(rows: bytes) -> Iterator[bytes]:
    """Whole COPY data of encoded rows, in pieces that a client can send one by one."""
    yield HEADER
    for at in range(0, len(rows), BLOCK_BYTES):
        yield rows[at : at + BLOCK_BYTES]
    yield TRAILER


def decode(symbol: str, received: bytearray) -> Ticks:
    """The trades of COPY data with the columns of `Ticks`. Raises StoreError on a broken length."""
    rows = _rows(received, np.dtype(_prefixed(list(_FIELDS))))
    return Ticks(
        symbol,
        _POSTGRES_EPOCH + rows["ts"].astype(np.int64) * _ONE_US,
        rows["price"].astype(np.float64),
        rows["size"].astype(np.float64),
        rows["trade_id"].astype(np.int64),
        rows["is_buyer_maker"].astype(np.bool_),
    )


def decode_ids(received: bytearray) -> npt.NDArray[np.int64]:
    """The one int8 column of COPY data."""
    ids: npt.NDArray[np.int64] = _rows(received, _ID_ROW)["trade_id"].astype(np.int64)
    return ids


def instants(values: TimeArray) -> list[datetime]:
    """As asyncpg takes them: aware."""
    return [to_datetime(value) for value in values]


def _rows(received: bytearray, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
    n_rows, rest = divmod(len(received) - len(HEADER) - len(TRAILER), row.itemsize)
    if rest:
        raise StoreError(f"PostgreSQL sent {len(received)} bytes, which is no whole number of trades.")
    return np.frombuffer(received, row, count=n_rows, offset=len(HEADER))


def _prefixed(kinds: list[tuple[str, str]]) -> list[tuple[str, str]]:
    fields = [field for name, kind in kinds for field in ((f"n_{name}", ">i4"), (name, kind))]
    return [("n_fields", ">i2"), *fields]
