"""A recorded market is read once, checked, and explains what it lacks."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levibot.errors import DataError, SourceUnavailable, UnknownSymbol, UsageError
from levibot.market.bars import FIELDS, Panel, to_datetime64
from levibot.market.parquet import ParquetSource

HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)


def table(n: int = 24, interval: timedelta = HOUR, unit: str = "ms") -> pa.Table:
    close = 100.0 + np.arange(n)
    ts = (to_datetime64(START) + np.arange(n) * np.timedelta64(interval)).astype(f"datetime64[{unit}]")
    return pa.table(
        {
            "ts": pa.array(ts).cast(pa.timestamp(unit, "UTC")),
            "open": close,
            "high": close + 1.0,
            "low": close - 1.0,
            "close": close,
            "volume": np.full(n, 3.0),
        }
    )


def source(folder: Path, *symbols: str, interval: timedelta = HOUR) -> ParquetSource:
    return ParquetSource(folder, symbols or ("BTCUSDT",), interval)


@pytest.mark.parametrize("subfolder", ["bars_1h", "."])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_both_layouts_and_every_unit_of_time_are_read(tmp_path: Path, subfolder: str, unit: str) -> None:
    (tmp_path / subfolder).mkdir(exist_ok=True)
    pq.write_table(table(unit=unit), tmp_path / subfolder / "BTCUSDT.parquet")
    market = source(tmp_path)
    assert market.extent() == (START, START + 24 * HOUR)
    bars = market.bars("BTCUSDT", START + 2 * HOUR, START + 4 * HOUR)
    assert bars.close.tolist() == [102.0, 103.0]


WAYS = {
    "another zone": table().set_column(0, "ts", table()["ts"].cast(pa.timestamp("ms", "Europe/Berlin"))),
    "no zone": table().set_column(0, "ts", table()["ts"].cast(pa.timestamp("ms"))),
    "small floats": table().cast(
        pa.schema([("ts", pa.timestamp("ms", "UTC")), *((name, pa.float32()) for name in FIELDS)])
    ),
    "more columns in another order": table()
    .append_column("trades", pa.array(np.arange(24)))
    .select(["trades", "volume", "low", "ts", "close", "high", "open"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_bars_written_another_way_are_the_same_bars(tmp_path: Path, way: str) -> None:
    pq.write_table(table(), tmp_path / "BTCUSDT.parquet")
    pq.write_table(WAYS[way], tmp_path / "ETHUSDT.parquet", row_group_size=5)
    market = source(tmp_path, "BTCUSDT", "ETHUSDT")
    plain, other = (market.bars(symbol, START, START + 24 * HOUR) for symbol in market.symbols)
    for name in ("ts", *FIELDS):
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))


def test_numbers_in_place_of_instants_are_refused(tmp_path: Path) -> None:
    # Seconds, milliseconds or microseconds: the file does not say.
    numbers = table().set_column(0, "ts", table()["ts"].cast(pa.int64()))
    pq.write_table(numbers, tmp_path / "BTCUSDT.parquet")
    with pytest.raises(DataError, match=r"ts is int64 .* not a column of instants.* Store ts as a timestamp"):
        source(tmp_path).extent()


def test_the_extent_spans_all_symbols(tmp_path: Path) -> None:
    pq.write_table(table().slice(0, 10), tmp_path / "BTCUSDT.parquet")
    pq.write_table(table().slice(5), tmp_path / "ETHUSDT.parquet")
    assert source(tmp_path, "BTCUSDT", "ETHUSDT").extent() == (START, START + 24 * HOUR)


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT.parquet"
    pq.write_table(table(), path)
    market = source(tmp_path)
    first = market.bars("BTCUSDT", START, START + 9 * HOUR)
    path.unlink()
    assert np.array_equal(market.bars("BTCUSDT", START, START + 9 * HOUR).close, first.close)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no market folder .*nowhere.* LEVIBOT_MARKET"):
        source(tmp_path / "nowhere")


def test_a_folder_of_other_intervals_says_which(tmp_path: Path) -> None:
    (tmp_path / "bars_1m").mkdir()
    with pytest.raises(UsageError, match=r"neither bars_1h/ .* bars_1m"):
        source(tmp_path)


def test_a_missing_symbol_says_which_are_there(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "BTCUSDT.parquet")
    with pytest.raises(UnknownSymbol, match=r"no file .*ETHUSDT\.parquet.* what is there: BTCUSDT"):
        source(tmp_path, "BTCUSDT", "ETHUSDT")


def test_a_file_that_went_away_makes_the_source_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT.parquet"
    pq.write_table(table(), path)
    market = source(tmp_path)
    path.unlink()
    with pytest.raises(SourceUnavailable, match="is gone"):
        market.extent()


@pytest.mark.parametrize("cut", [0, 3, 700])
def test_a_broken_file_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "BTCUSDT.parquet"
    pq.write_table(table(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"BTCUSDT\.parquet cannot be read as Parquet"):
        source(tmp_path).extent()


def test_a_folder_in_place_of_a_file_is_no_symbol(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT.parquet").mkdir()
    with pytest.raises(UnknownSymbol):
        source(tmp_path)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (table().drop_columns("volume"), "has no column 'volume'"),
        (
            table().set_column(4, "close", pa.array([None, *range(101, 124)], pa.float64())),
            "row 0 .* close nan",
        ),
        (table().set_column(0, "ts", pa.array(range(24))), "ts is int64"),
        (table().set_column(4, "close", pa.array(["1"] * 24)), "close is object"),
        (table().slice(0, 0), "holds no bars"),
        (pa.concat_tables([table(), table()]), "row 24 .* opens before row 23"),
    ],
)
def test_a_fault_names_the_file(tmp_path: Path, broken: pa.Table, sentence: str) -> None:
    pq.write_table(broken, tmp_path / "BTCUSDT.parquet")
    market = source(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"BTCUSDT\.parquet.*{sentence}"):
            market.bars("BTCUSDT", START, START + 24 * HOUR)


def test_a_broken_row_stands_beside_the_bars_that_are_read(tmp_path: Path) -> None:
    close = pa.array([*range(100, 105), None, *range(106, 123), -1.0], pa.float64())
    pq.write_table(table().set_column(4, "close", close), tmp_path / "BTCUSDT.parquet")
    market = source(tmp_path)
    first, end = market.extent()
    assert (first, end) == (START, START + 23 * HOUR)
    rows = market.read("BTCUSDT", first, end)
    assert (len(rows.sound), rows.rejects.reasons()) == (22, {"not_finite": 1, "not_positive": 1})
    early, late = (
        market.read("BTCUSDT", *span) for span in ((first, first + 9 * HOUR), (first + 9 * HOUR, end))
    )
    assert [reason for reason, _ in early.rejects.records()] == ["not_finite"]
    assert [reason for reason, _ in late.rejects.records()] == ["not_positive"]


def test_a_file_without_a_sound_row_is_refused_as_a_whole(tmp_path: Path) -> None:
    pq.write_table(table().set_column(2, "high", pa.array(np.ones(24))), tmp_path / "BTCUSDT.parquet")
    with pytest.raises(DataError, match=r"row 0 .*: high 1 is below its open 100"):
        source(tmp_path).read("BTCUSDT", START, START + HOUR)


def test_longer_bars_do_not_pass_for_outages(tmp_path: Path) -> None:
    pq.write_table(table(interval=4 * HOUR), tmp_path / "BTCUSDT.parquet")
    with pytest.raises(DataError, match="its bars are longer"):
        source(tmp_path).extent()


@pytest.fixture(scope="module")
def recorded() -> Path:
    folder = os.environ.get("LEVIBOT_MARKET_DATA")
    if folder is None:
        pytest.skip("LEVIBOT_MARKET_DATA is not set")
    return Path(folder)


@pytest.mark.market
def test_the_recorded_market_passes_the_check(recorded: Path) -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    market = source(recorded, *symbols)
    first, end = market.extent()
    assert (first, end) == (datetime(2018, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    panel = Panel.align({s: market.bars(s, first, end) for s in symbols})
    assert panel.close.shape == (61_246, 3)
    # SOLUSDT was listed on 2020-08-11; before that its column holds nothing.
    assert np.isnan(panel.close[:, 2]).sum() == 61_246 - 38_470


@pytest.mark.market
def test_the_recorded_minutes_are_not_hours(recorded: Path) -> None:
    day = datetime(2024, 3, 1, tzinfo=UTC)
    minute = timedelta(minutes=1)
    minutes = source(recorded, "BNBUSDT", interval=minute).bars("BNBUSDT", day, day + 60 * minute)
    hour = source(recorded, "BNBUSDT").bars("BNBUSDT", day, day + HOUR)
    assert len(minutes) == 60
    assert (minutes.open[0], minutes.high.max(), minutes.low.min(), minutes.close[-1]) == (
        hour.open[0],
        hour.high[0],
        hour.low[0],
        hour.close[0],
    )
