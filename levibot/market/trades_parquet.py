"""Recorded trades: a folder with one Parquet file a symbol, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from levibot.errors import UnknownSymbol, UsageError
from levibot.market.parquet_file import translated
from levibot.market.screening import Screened
from levibot.market.tick_screening import NO_ID, NO_SIDE, screen_ticks
from levibot.market.ticks import COLUMNS, Ticks

FOLDER = "trades"
BATCH_ROWS = 20_000
# What exchanges call the columns that go by another name here.
ALIASES = {"size": "qty"}
_NOTHING = {"trade_id": NO_ID, "is_buyer_maker": NO_SIDE}


class ParquetTrades:
    """Trades of `<folder>/trades/<SYMBOL>.parquet`. A file may be larger than the memory.

    Columns: ts (timestamp; without a zone it is UTC), price, size (or qty), trade_id, is_buyer_maker.
    Raises UsageError when there is no such folder, UnknownSymbol when a symbol has no file.
    """

    def __init__(self, folder: Path, symbols: tuple[str, ...], *, batch_rows: int = BATCH_ROWS) -> None:
        self._folder = folder / FOLDER
        self._batch_rows = batch_rows
        self.symbols = symbols
        if not self._folder.is_dir():
            raise UsageError(
                f"The market folder {folder} holds no trades: there is no {self._folder}.",
                hint="It has one file a symbol, like trades/BTCUSDT.parquet.",
            )
        for symbol in symbols:
            if not self._path(symbol).is_file():
                there = ", ".join(sorted(path.stem for path in self._folder.glob("*.parquet"))) or "nothing"
                raise UnknownSymbol(
                    f"The recorded market has no file {self._path(symbol)}.",
                    hint=f"Set LEVIBOT_SYMBOLS (or --symbols) to what is there: {there}.",
                )

    def batches(self, symbol: str) -> Iterator[Screened[Ticks]]:
        """All rows of a file, in its order, told apart piece by piece.

        Raises SourceUnavailable (the file is gone), and DataError where the file cannot be read or lacks a
        column; what came before stays good.
        """
        path = self._path(symbol)
        with translated(path), pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            names = {name: ALIASES.get(name, name) if name not in there else name for name in COLUMNS}
            known = [name for name in names.values() if name in there]
            for batch in file.iter_batches(self._batch_rows, columns=known):
                columns = {
                    name: _column(batch.column(stored), name)
                    for name, stored in names.items()
                    if stored in there
                }
                yield screen_ticks(symbol, columns, str(path))

    def _path(self, symbol: str) -> Path:
        return self._folder / f"{symbol}.parquet"


def _column(values: Any, name: str) -> npt.NDArray[Any]:
    """A column as an array; where it has nothing stands what the screening knows for nothing."""
    if name == "is_buyer_maker" and pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if name in _NOTHING and values.null_count and pa.types.is_integer(values.type):
        values = pc.fill_null(values, _NOTHING[name])
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array
