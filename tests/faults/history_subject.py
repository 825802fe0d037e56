"""The feature history under fault: an item is one batch, in the database or in a file of its own."""

from __future__ import annotations

import asyncio
import errno
from datetime import datetime
from pathlib import Path

import numpy as np

from levibot.clock import ManualClock
from levibot.errors import StoreError, StoreUnavailable
from levibot.stores.history_rows import Rows, Series
from levibot.stores.history_writer import SEGMENT_ROWS
from levibot.stores.offline import OfflineStore
from tests.faults.subject import MARKET_ID, NOON, VIEW, Item

SERIES = Series("features", "small", VIEW, ("a", "b"))
BEGINS = datetime(2000, 1, 1)  # noqa: DTZ001 - numpy's instants have no zone
FEW_ROWS, MANY_ROWS = 3, SEGMENT_ROWS + 8
# Every so many items is a file, the others are rows of the database.
FILE_EVERY = 4
# And so often what lies in the database moves into files.
SEAL_EVERY = 10
STEP = np.timedelta64(1, "m")


class HistorySubject:
    """The owner of one history. where: its folder."""

    def __init__(self, store: OfflineStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, where: str) -> HistorySubject:
        return cls(OfflineStore.open(Path(where), MARKET_ID, ManualClock(NOON)))

    async def write(self, item: Item) -> None:
        # Its owner writes from one thread too.
        try:
            self._store.write([rows_of(item)], reason=f"drill {item}")
            if item[1] % SEAL_EVERY == SEAL_EVERY - 1:
                self._store.seal(NOON)
        except StoreError as exc:
            # A full disk is no passing reason by itself. In a drill it is: the disk gets room again.
            if is_full(exc):
                raise StoreUnavailable(exc.message, hint=exc.hint) from exc
            raise
        # The other streams of the process.
        await asyncio.sleep(0)

    async def stored(self, streams: int, n: int) -> list[Item]:
        """Every version counts: a row that was added twice would be there twice."""
        self._store.check()
        series_id = self._store._catalogue.need(SERIES)
        symbols = tuple(f"W{stream}" for stream in range(streams))
        found: list[Item] = []
        pieces_of = self._store._catalogue.pieces(series_id, symbols, None, None, None)
        for stream, pieces in enumerate(pieces_of[symbol] for symbol in symbols):
            event_us = np.concatenate([piece.event_us for piece in pieces])
            for number in range(n):
                expected = rows_of((stream, number)).event_us
                counts = np.array([np.count_nonzero(event_us == us) for us in expected[[0, -1]]])
                assert counts[0] == counts[1], "a batch is stored in part"
                found += [(stream, number)] * int(counts[0])
        return found

    async def close(self) -> None:
        self._store.close()


def rows_of(item: Item) -> Rows:
    stream, number = item
    n_rows = MANY_ROWS if number % FILE_EVERY == FILE_EVERY - 1 else FEW_ROWS
    event_ts = np.datetime64(BEGINS, "us") + (number * MANY_ROWS + np.arange(n_rows)) * STEP
    values = np.stack([np.full(n_rows, float(number)), np.arange(n_rows, dtype=float)], axis=1)
    return Rows(SERIES, f"W{stream}", event_ts, event_ts, values)


def is_full(exc: StoreError) -> bool:
    """Whether it was the disk: Python's own error says so by its number, DuckDB's by its words."""
    cause = exc.__cause__
    return getattr(cause, "errno", None) == errno.ENOSPC or "No space left on device" in str(cause)
