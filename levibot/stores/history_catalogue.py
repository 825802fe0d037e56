"""The tables of the feature history's database: which series, segments, batches and newest rows there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from levibot.errors import UsageError
from levibot.stores.history_rows import Kind, Piece, Series
from levibot.stores.segments import Layout, MicrosArray, Segment

SCHEMA = """
CREATE SEQUENCE IF NOT EXISTS series_ids;
CREATE TABLE IF NOT EXISTS series (
    series_id INTEGER PRIMARY KEY, market_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, name VARCHAR NOT NULL,
    version VARCHAR NOT NULL, columns VARCHAR[] NOT NULL, UNIQUE (market_id, kind, name, version)
);
CREATE TABLE IF NOT EXISTS batches (
    batch_id BIGINT PRIMARY KEY, market_id VARCHAR NOT NULL, written_ts TIMESTAMP NOT NULL,
    is_reconstructed BOOLEAN NOT NULL, reason VARCHAR NOT NULL, n_rows BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS segments (
    series_id INTEGER NOT NULL, symbol VARCHAR NOT NULL,
    path VARCHAR NOT NULL UNIQUE, n_rows BIGINT NOT NULL, n_columns INTEGER NOT NULL,
    columns_at BIGINT NOT NULL, stride BIGINT NOT NULL,
    n_bytes BIGINT NOT NULL, sha256 VARCHAR NOT NULL,
    first_event_us BIGINT NOT NULL, last_event_us BIGINT NOT NULL, first_available_us BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS marks (
    market_id VARCHAR NOT NULL, name VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY (market_id, name)
);
"""


@dataclass(frozen=True, slots=True)
class NewSegment:
    """A segment to be listed. path: relative to the history's folder."""

    symbol: str
    path: str
    layout: Layout
    sha256: str
    first_event_us: int
    last_event_us: int
    first_available_us: int


class Catalogue:
    """What one market's history consists of. Changes belong into a transaction, which is the caller's."""

    def __init__(self, db: duckdb.DuckDBPyConnection, folder: Path, market_id: str) -> None:
        self._db = db
        self._folder = folder
        self._market_id = market_id

    def prepare(self) -> None:
        """Make the tables that are not there yet."""
        self._db.execute(SCHEMA)

    def find(self, series: Series) -> int | None:
        """Number of the series, None where nothing was ever written. Raises UsageError on other columns."""
        found = self._db.execute(
            "SELECT series_id, columns FROM series "
            "WHERE market_id = ? AND kind = ? AND name = ? AND version = ?",
            [self._market_id, series.kind, series.name, series.version],
        ).fetchone()
        if found is None:
            return None
        if tuple(found[1]) != series.columns:
            raise UsageError(f"The {series} is stored with other columns than these {len(series.columns)}.")
        return int(found[0])

    def need(self, series: Series) -> int:
        """Number of the series. Raises UsageError where nothing was ever written, and says what there is."""
        number = self.find(series)
        if number is None:
            known = [str(one) for one in self.all() if one.kind == series.kind]
            there = f"There is: {', '.join(known)}." if known else "Nothing was written yet."
            raise UsageError(f"The history has no {series}.", hint=there)
        return number

    def all(self) -> list[Series]:
        """Every series of the market, in the order of their first row."""
        rows = self._db.execute(
            "SELECT kind, name, version, columns FROM series WHERE market_id = ? ORDER BY series_id",
            [self._market_id],
        ).fetchall()
        return [Series(_kind(kind), name, version, tuple(columns)) for kind, name, version, columns in rows]

    def make(self, series: Series) -> int:
        """Number of the series, which is made where there is none."""
        number = self.find(series)
        if number is not None:
            return number
        (number,) = self._row("SELECT nextval('series_ids')")
        self._db.execute(
            "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?)",
            [number, self._market_id, series.kind, series.name, series.version, list(series.columns)],
        )
        columns = ", ".join(f"{_quoted(name)} DOUBLE NOT NULL" for name in series.columns)
        self._db.execute(
            f"CREATE TABLE {_table(number)} (symbol VARCHAR NOT NULL, event_ts TIMESTAMP NOT NULL, "
            f"available_ts TIMESTAMP NOT NULL, {columns})"
        )
        return int(number)

    def symbols(self, series_id: int) -> tuple[str, ...]:
        """The symbols that have rows."""
        rows = self._db.execute(
            f"SELECT symbol FROM segments WHERE series_id = ? UNION SELECT symbol FROM {_table(series_id)} "
            "ORDER BY symbol",
            [series_id],
        ).fetchall()
        return tuple(symbol for (symbol,) in rows)

    def pieces(
        self,
        series_id: int,
        symbols: Sequence[str],
        start_us: int | None,
        end_us: int | None,
        as_of_us: int | None,
    ) -> dict[str, list[Piece]]:
        """What each symbol has in [start, end), in the order of time; every symbol has an entry.

        A piece may hold rows outside of it, and such as were not available by `as_of`.
        """
        pieces: dict[str, list[Piece]] = {symbol: [] for symbol in symbols}
        bounds = [list(symbols), start_us, start_us, end_us, end_us, as_of_us, as_of_us]
        listed = self._db.execute(
            "SELECT symbol, path, n_rows, n_columns, columns_at, stride, n_bytes FROM segments "
            "WHERE series_id = ? AND list_contains(?, symbol) AND (?::BIGINT IS NULL OR last_event_us >= ?) "
            "AND (?::BIGINT IS NULL OR first_event_us < ?) "
            "AND (?::BIGINT IS NULL OR first_available_us <= ?) ORDER BY symbol, first_event_us, path",
            [series_id, *bounds],
        ).fetchall()
        for symbol, path, *layout in listed:
            segment = Segment(self._folder / path, Layout(*layout))
            pieces[symbol].append(Piece(*segment.times(), segment=segment))
        newest = self._db.execute(
            f"SELECT * FROM {_table(series_id)} WHERE list_contains(?, symbol) "
            "AND (?::BIGINT IS NULL OR event_ts >= make_timestamp(?)) "
            "AND (?::BIGINT IS NULL OR event_ts < make_timestamp(?)) "
            "AND (?::BIGINT IS NULL OR available_ts <= make_timestamp(?)) "
            "ORDER BY symbol, event_ts, available_ts",
            bounds,
        ).fetchnumpy()
        for symbol, piece in _by_symbol(newest):
            pieces[symbol].append(piece)
        return pieces

    def add_newest(
        self,
        series_id: int,
        series: Series,
        symbol: npt.NDArray[np.object_],
        event_us: MicrosArray,
        available_us: MicrosArray,
        values: npt.NDArray[np.float64],
    ) -> None:
        """Rows into the database. values: (N, C)."""
        columns = {
            "symbol": pa.array(symbol, pa.string()),
            "event_ts": pa.array(event_us).cast(pa.timestamp("us")),
            "available_ts": pa.array(available_us).cast(pa.timestamp("us")),
            **{name: pa.array(np.ascontiguousarray(values[:, k])) for k, name in enumerate(series.columns)},
        }
        self._db.register("new_rows", pa.table(columns))
        try:
            self._db.execute(f"INSERT INTO {_table(series_id)} SELECT * FROM new_rows")
        finally:
            self._db.unregister("new_rows")

    def take_newest(self, series_id: int, symbol: str, start_us: int, end_us: int) -> Piece:
        """Rows of [start, end) out of the database, in order."""
        where = "WHERE symbol = ? AND event_ts >= make_timestamp(?) AND event_ts < make_timestamp(?)"
        bounds = [symbol, start_us, end_us]
        found = self._db.execute(
            f"SELECT * FROM {_table(series_id)} {where} ORDER BY event_ts, available_ts", bounds
        ).fetchnumpy()
        ((_, piece),) = _by_symbol(found)
        self._db.execute(f"DELETE FROM {_table(series_id)} {where}", bounds)
        return piece

    def newest_times(self, series_id: int) -> list[tuple[str, MicrosArray]]:
        """By symbol the event times of the rows that lie in the database."""
        found = self._db.execute(
            f"SELECT symbol, event_ts FROM {_table(series_id)} ORDER BY symbol, event_ts"
        ).fetchnumpy()
        event_us = _us(found["event_ts"])
        return [(symbol, event_us[rows]) for symbol, rows in _runs(found["symbol"])]

    def add_segments(self, series_id: int, segments: Iterable[NewSegment]) -> None:
        rows = []
        for new in segments:
            layout = new.layout
            where = (layout.n_rows, layout.n_columns, layout.columns_at, layout.stride, layout.n_bytes)
            span = (new.first_event_us, new.last_event_us, new.first_available_us)
            rows.append((series_id, new.symbol, new.path, *where, new.sha256, *span))
        if rows:
            columns = zip(*rows, strict=True)
            names = [f"c{k}" for k in range(len(rows[0]))]
            self._db.register("new_segments", pa.table(dict(zip(names, map(list, columns), strict=True))))
            try:
                self._db.execute("INSERT INTO segments SELECT * FROM new_segments")
            finally:
                self._db.unregister("new_segments")

    def paths(self) -> set[str]:
        """Every segment of every market in this folder."""
        return {path for (path,) in self._db.execute("SELECT path FROM segments").fetchall()}

    def checksums(self) -> list[tuple[Segment, str]]:
        """Every segment of this market, with the SHA-256 of what was written."""
        rows = self._db.execute(
            "SELECT path, sha256, n_rows, n_columns, columns_at, stride, n_bytes FROM segments "
            "JOIN series USING (series_id) WHERE market_id = ?",
            [self._market_id],
        ).fetchall()
        return [(Segment(self._folder / path, Layout(*layout)), sha256) for path, sha256, *layout in rows]

    def newest_batch(self) -> tuple[int, int]:
        """Number of the newest batch, and when this market's newest was written: 0 before the first."""
        (number,) = self._row("SELECT max(batch_id) FROM batches")
        us = self._db.execute(
            "SELECT epoch_us(max(written_ts)) FROM batches WHERE market_id = ?", [self._market_id]
        ).fetchone()
        return int(number or 0), int((us or (None,))[0] or 0)

    def add_batch(
        self, batch_id: int, written_us: int, *, is_reconstructed: bool, reason: str, n_rows: int
    ) -> None:
        self._db.execute(
            "INSERT INTO batches VALUES (?, ?, make_timestamp(?), ?, ?, ?)",
            [batch_id, self._market_id, written_us, is_reconstructed, reason, n_rows],
        )

    def mark(self, name: str) -> str | None:
        found = self._db.execute(
            "SELECT value FROM marks WHERE market_id = ? AND name = ?", [self._market_id, name]
        ).fetchone()
        return None if found is None else str(found[0])

    def set_mark(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", [self._market_id, name, value])

    def _row(self, query: str) -> tuple[Any, ...]:
        row = self._db.execute(query).fetchone()
        assert row is not None
        return row


def _by_symbol(found: dict[str, npt.NDArray[Any]]) -> list[tuple[str, Piece]]:
    symbol, event, available, *columns = found.values()
    values = np.stack(columns, axis=1) if len(symbol) else np.empty((0, len(columns)))
    return [
        (name, Piece(_us(event[rows]), _us(available[rows]), values=np.ma.getdata(values[rows])))
        for name, rows in _runs(symbol)
    ]


def _runs(symbol: npt.NDArray[Any]) -> list[tuple[str, slice]]:
    """The stretches of equal names."""
    edges = np.flatnonzero(np.append(True, symbol[1:] != symbol[:-1])) if len(symbol) else np.empty(0, int)
    ends = [*edges[1:], len(symbol)]
    return [(str(symbol[first]), slice(first, last)) for first, last in zip(edges, ends, strict=False)]


def _us(ts: npt.NDArray[Any]) -> MicrosArray:
    return np.ma.getdata(ts).astype("datetime64[us]").astype(np.int64)


def _table(series_id: int) -> str:
    return f"newest_{series_id}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _kind(text: str) -> Kind:
    return "features" if text == "features" else "label"
