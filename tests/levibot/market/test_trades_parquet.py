"""Recorded trades are read piece by piece, under the names that exchanges use, and say what they lack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levibot.errors import DataError, SourceUnavailable, UnknownSymbol, UsageError
from levibot.market.ticks import COLUMNS, Ticks, joined
from levibot.market.trades_parquet import ParquetTrades

N = 250


def table(n: int = N, **columns: Any) -> pa.Table:
    ts = np.datetime64("2024-08-09", "ms") + np.arange(n) * np.timedelta64(40, "ms")
    return pa.table(
        {
            "ts": pa.array(ts).cast(pa.timestamp("ms", "UTC")),
            "price": 60_000.0 + np.arange(n) / 8,
            "qty": 0.5 + np.arange(n) / 16,
            "trade_id": 900 + np.arange(n),
            "is_buyer_maker": np.arange(n) % 2 == 0,
        }
        | columns
    )


def write(folder: Path, trades: pa.Table, symbol: str = "BTCUSDT", **options: Any) -> Path:
    (folder / "trades").mkdir(exist_ok=True)
    path = folder / "trades" / f"{symbol}.parquet"
    pq.write_table(trades, path, **options)
    return path


def source(folder: Path, batch_rows: int = 100) -> ParquetTrades:
    return ParquetTrades(folder, ("BTCUSDT",), batch_rows=batch_rows)


def sound(recorded: ParquetTrades) -> Ticks:
    return joined(rows.sound for rows in recorded.batches("BTCUSDT"))


def test_a_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    write(tmp_path, table())
    assert [len(rows.sound) for rows in source(tmp_path).batches("BTCUSDT")] == [100, 100, 50]


WAYS = {
    "size": table().rename_columns(["ts", "price", "size", "trade_id", "is_buyer_maker"]),
    "more columns in another order": table()
    .append_column("event_ts", table()["ts"])
    .select([5, 4, 3, 2, 1, 0]),
    "no zone": table().set_column(0, "ts", table()["ts"].cast(pa.timestamp("us"))),
    "another zone": table().set_column(0, "ts", table()["ts"].cast(pa.timestamp("ns", "Asia/Kolkata"))),
    "small ids": table().set_column(3, "trade_id", table()["trade_id"].cast(pa.uint16())),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_trades_written_another_way_are_the_same_trades(tmp_path: Path, way: str) -> None:
    write(tmp_path, table())
    plain = sound(source(tmp_path))
    write(tmp_path, WAYS[way])
    other = sound(source(tmp_path))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ts", "no_instant"),
        ("price", "not_finite"),
        ("qty", "not_finite"),
        ("trade_id", "no_id"),
        ("is_buyer_maker", "no_side"),
    ],
)
def test_a_row_without_a_value_is_rejected_and_no_other(tmp_path: Path, name: str, reason: str) -> None:
    whole = table()
    values = whole[name].to_pylist()
    values[7] = None
    column = pa.array(values, whole.schema.field(name).type)
    write(tmp_path, whole.set_column(whole.column_names.index(name), name, column))
    first = next(source(tmp_path).batches("BTCUSDT"))
    assert (len(first.sound), first.rejects.reasons()) == (99, {reason: 1})


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (table().drop_columns("qty"), "has no column 'size'"),
        (table().drop_columns("trade_id"), "has no column 'trade_id'"),
        (table(price=["1"] * N), "price is object"),
        (table(trade_id=np.arange(float(N))), "trade_id is float64"),
        (table(is_buyer_maker=["sell"] * N), "is_buyer_maker is object"),
        (table(ts=np.arange(N)), "ts is int64"),
    ],
)
def test_a_file_of_another_schema_is_refused_as_a_whole(
    tmp_path: Path, broken: pa.Table, sentence: str
) -> None:
    path = write(tmp_path, broken)
    with pytest.raises(DataError, match=f"BTCUSDT in {path}.*{sentence}"):
        next(source(tmp_path).batches("BTCUSDT"))


def test_what_comes_before_a_damaged_piece_stays_good(tmp_path: Path) -> None:
    path = write(tmp_path, table(), row_group_size=100, compression="zstd")
    damage(path, row_group=1)
    batches = source(tmp_path).batches("BTCUSDT")
    assert len(next(batches).sound) == 100
    with pytest.raises(DataError, match=r"BTCUSDT\.parquet cannot be read as Parquet"):
        next(batches)


def test_no_trades_is_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path, table(0))
    assert sum(len(rows.sound) for rows in source(tmp_path).batches("BTCUSDT")) == 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no trades: there is no .*trades"):
        source(tmp_path)
    path = write(tmp_path, table(), "ETHUSDT")
    with pytest.raises(UnknownSymbol, match=r"no file .*BTCUSDT\.parquet.* what is there: ETHUSDT"):
        source(tmp_path)
    recorded = ParquetTrades(tmp_path, ("ETHUSDT",))
    path.unlink()
    with pytest.raises(SourceUnavailable, match="is gone"):
        next(recorded.batches("ETHUSDT"))


def damage(path: Path, row_group: int) -> None:
    """Overwrite the pages of one row group."""
    column = pq.read_metadata(path).row_group(row_group).column(1)
    content = bytearray(path.read_bytes())
    at = column.data_page_offset
    content[at : at + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


@pytest.mark.market
def test_the_recorded_trades_are_sound_and_dense() -> None:
    folder = os.environ.get("LEVIBOT_MARKET_DATA")
    if folder is None:
        pytest.skip("LEVIBOT_MARKET_DATA is not set")
    batches = list(ParquetTrades(Path(folder), ("BTCUSDT",)).batches("BTCUSDT"))
    trades = joined(rows.sound for rows in batches)
    assert (len(trades), sum(len(rows.rejects) for rows in batches)) == (19_904, 0)
    assert (np.diff(trades.trade_id) == 1).all()
