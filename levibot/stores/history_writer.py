"""How rows get into the feature history: what is new of them, into segments or into the database."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.stores.event import instant
from levibot.stores.history_catalogue import Catalogue, NewSegment
from levibot.stores.history_rows import Known, Piece, Rows, Series
from levibot.stores.segments import MicrosArray, write_segment

# So many rows of a symbol and a year make a file at once; fewer wait in the database for their month's end.
SEGMENT_ROWS = 512
# A year of minutes is more than one file should hold.
MAX_SEGMENT_ROWS = 16_384

BoolArray = npt.NDArray[np.bool_]


class HistoryWriter:
    """Writes one batch inside the caller's transaction. written: the files that it has made so far.

    name: in the names of its files, of no other batch.
    """

    def __init__(self, catalogue: Catalogue, folder: Path, name: str) -> None:
        self.written: list[Path] = []
        self._catalogue = catalogue
        self._folder = folder
        self._name = name
        self._n_parts = 0

    def add(self, rows: Rows, now_us: int, *, same_within: float, is_reconstructed: bool) -> int:
        """Add what is new of the rows; returns how many that was. See `OfflineStore.write`."""
        _check_known(rows, now_us)
        series_id = self._catalogue.make(rows.series)
        new = self._new_rows(series_id, rows, same_within, is_reconstructed)
        available_us = new.known_us if is_reconstructed else np.full(len(new.event_us), now_us)
        piece = Piece(new.event_us, available_us, values=new.values)
        rest = self._write_segments(series_id, rows.series, rows.symbol, piece, SEGMENT_ROWS)
        if rest.any():
            symbol = np.full(int(rest.sum()), rows.symbol, dtype=object)
            self._catalogue.add_newest(
                series_id, rows.series, symbol, new.event_us[rest], available_us[rest], new.values[rest]
            )
        return len(new.event_us)

    def seal(self, series: Series, before_us: int) -> int:
        """Move the months that ended by `before_us` from the database into segments; returns the rows."""
        moved = 0
        series_id = self._catalogue.need(series)
        for symbol, event_us in self._catalogue.newest_times(series_id):
            for start_us, end_us in _ended_months(event_us, before_us):
                piece = self._catalogue.take_newest(series_id, symbol, start_us, end_us)
                self._write_segments(series_id, series, symbol, piece, 1)
                moved += len(piece.event_us)
        return moved

    def _new_rows(self, series_id: int, rows: Rows, same_within: float, is_reconstructed: bool) -> Rows:
        """Those that the stored version does not say already. Raises DataError on a contradiction."""
        if not len(rows.event_ts):
            return rows
        event_us = rows.event_us
        start_us, end_us = int(event_us[0]), int(event_us[-1]) + 1
        pieces = self._catalogue.pieces(series_id, (rows.symbol,), start_us, end_us, None)[rows.symbol]
        latest_us = np.iinfo(np.int64).max
        stored = Known.at(pieces, latest_us, start_us, end_us, earliest=is_reconstructed)
        _, ours, theirs = np.intersect1d(event_us, stored.event_us, assume_unique=True, return_indices=True)
        if not len(ours):
            return rows
        old = np.empty((len(rows.series.columns), len(theirs)))
        stored.fill(theirs, range(len(rows.series.columns)), old)
        is_same = np.isclose(rows.values[ours], old.T, rtol=same_within, atol=0.0, equal_nan=True).all(axis=1)
        if is_reconstructed and not is_same.all():
            at = instant(int(event_us[ours[~is_same][0]]))
            raise DataError(
                f"The {rows.series} of {rows.symbol} at {at.isoformat()} is stored with other values: "
                "what was known cannot be declared anew.",
                hint="Write it without declaring it reconstructed; it is then a new version from now on.",
            )
        kept = np.ones(len(event_us), dtype=np.bool_)
        if is_reconstructed:
            # What was found later than it could be known is declared to have been known then.
            is_same &= stored.available_us[theirs] <= rows.known_us[ours]
        kept[ours[is_same]] = False
        return Rows(rows.series, rows.symbol, rows.event_ts[kept], rows.known_at[kept], rows.values[kept])

    def _write_segments(
        self,
        series_id: int,
        series: Series,
        symbol: str,
        piece: Piece,
        at_least: int,
    ) -> BoolArray:
        """A segment for each year or part of it with `at_least` rows; returns which rows are in none."""
        rest = np.zeros(len(piece.event_us), dtype=np.bool_)
        if piece.values is None or not len(rest):
            return rest
        self._n_parts += 1
        segments: list[NewSegment] = []
        for year, rows in _parts(piece.event_us):
            if rows.stop - rows.start < at_least:
                rest[rows] = True
                continue
            name = f"{year}-{self._name}-{self._n_parts}-{len(segments)}.arrow"
            path = f"segments/{series_id}/{quote(symbol, safe='')}/{name}"
            self.written.append(self._folder / path)
            event_us, available_us = piece.event_us[rows], piece.available_us[rows]
            layout, sha256 = write_segment(
                self._folder / path, series.columns, event_us, available_us, piece.values[rows]
            )
            span = int(event_us[0]), int(event_us[-1]), int(available_us.min())
            segments.append(NewSegment(symbol, path, layout, sha256, *span))
        self._catalogue.add_segments(series_id, segments)
        return rest


def _check_known(rows: Rows, now_us: int) -> None:
    if len(rows.known_at) and int(rows.known_us.max()) > now_us:
        late = instant(int(rows.known_us.max()))
        raise DataError(
            f"The {rows.series} of {rows.symbol} has a row that is known from {late.isoformat()} on, "
            f"which is later than now, {instant(now_us).isoformat()}."
        )


def _parts(event_us: MicrosArray) -> Iterator[tuple[str, slice]]:
    """Years, in stretches of at most MAX_SEGMENT_ROWS."""
    years = event_us.astype("datetime64[us]").astype("datetime64[Y]")
    edges = [0, *(np.flatnonzero(years[1:] != years[:-1]) + 1).tolist(), len(event_us)]
    for begin, end in pairwise(edges):
        for first in range(begin, end, MAX_SEGMENT_ROWS):
            yield str(years[first]), slice(first, min(end, first + MAX_SEGMENT_ROWS))


def _ended_months(event_us: MicrosArray, before_us: int) -> Iterator[tuple[int, int]]:
    """[begin, end) of each month of the rows that is over."""
    months = np.unique(event_us.astype("datetime64[us]").astype("datetime64[M]"))
    edges = np.stack([months, months + 1]).astype("datetime64[us]").astype(np.int64)
    for begin, end in edges.T.tolist():
        if end <= before_us:
            yield begin, end
