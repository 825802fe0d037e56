from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.market.bars import Bar
from levibot.market.ticks import Tick, Ticks, bars_of, check_ticks, empty_ticks, joined

START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def tick(trade_id: int, seconds: float, price: float, size: float = 1.0) -> Tick:
    return Tick("BTCUSDT", START + timedelta(seconds=seconds), price, size, trade_id, trade_id % 2 == 0)


def test_trades_make_the_bar_of_their_minute() -> None:
    ticks = [tick(1, 0, 10.0, 2.0), tick(2, 20, 12.0), tick(3, 59.9, 9.0, 0.5), tick(4, 60, 11.0)]

    bars = list(bars_of(Ticks.of("BTCUSDT", ticks), MINUTE, START + MINUTE))

    assert bars == [Bar("BTCUSDT", MINUTE, START, 10.0, 12.0, 9.0, 9.0, 3.5)]
    assert bars[0].closes_at == START + MINUTE


def test_a_bar_is_not_finished_before_its_close() -> None:
    ticks = [tick(1, 0, 10.0), tick(2, 61, 11.0)]

    assert len(bars_of(Ticks.of("BTCUSDT", ticks), MINUTE, START + timedelta(seconds=59))) == 0
    assert len(bars_of(Ticks.of("BTCUSDT", ticks), MINUTE, START + timedelta(seconds=119))) == 1


def test_a_bar_whose_beginning_was_not_seen_is_left_out() -> None:
    ticks = [tick(1, 30, 10.0), tick(2, 70, 11.0), tick(3, 121, 12.0)]

    assert [bar.open for bar in bars_of(Ticks.of("BTCUSDT", ticks), MINUTE, START + 3 * MINUTE)] == [
        11.0,
        12.0,
    ]


def test_a_stretch_without_trades_has_no_bar() -> None:
    ticks = [tick(1, 0, 10.0), tick(2, 200, 11.0)]

    assert [bar.ts for bar in bars_of(Ticks.of("BTCUSDT", ticks), MINUTE, START + 4 * MINUTE)] == [
        START,
        START + 3 * MINUTE,
    ]


def test_no_trades_make_no_bars() -> None:
    assert len(bars_of(Ticks.of("BTCUSDT", []), MINUTE, START)) == 0


@pytest.mark.parametrize(("price", "size"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0)])
def test_a_trade_without_a_positive_price_and_size_is_refused(price: float, size: float) -> None:
    with pytest.raises(DataError, match="Trade 7 of BTCUSDT, row 0"):
        bars_of(Ticks.of("BTCUSDT", [tick(7, 0, price, size)]), MINUTE, START)


def test_a_trade_of_another_symbol_is_refused() -> None:
    with pytest.raises(DataError, match="is of BTCUSDT, not of ETHUSDT"):
        Ticks.of("ETHUSDT", [tick(7, 0, 1.0)])


@given(
    st.lists(
        st.tuples(st.integers(0, 600), st.floats(1.0, 1e5), st.floats(1e-6, 1e3)), min_size=1, max_size=60
    ),
    st.randoms(use_true_random=False),
)
def test_order_and_repeats_change_nothing(trades: list[tuple[int, float, float]], random: object) -> None:
    ticks = [tick(number, second, price, size) for number, (second, price, size) in enumerate(trades, 1)]
    shuffled = [*ticks, *ticks]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    whole = list(bars_of(Ticks.of("BTCUSDT", ticks), MINUTE, START + 11 * MINUTE))

    assert list(bars_of(Ticks.of("BTCUSDT", shuffled), MINUTE, START + 11 * MINUTE)) == whole
    for bar in whole:
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_recorded_trades_make_the_bars_that_a_plain_loop_makes() -> None:
    table = pq.read_table(Path(os.environ["LEVIBOT_MARKET_DATA"]) / "trades" / "BTCUSDT.parquet")
    columns = (table[name].to_pylist() for name in ("ts", "price", "qty", "trade_id", "is_buyer_maker"))
    ticks = [Tick("BTCUSDT", *row) for row in zip(*columns, strict=True)]

    bars = list(bars_of(Ticks.of("BTCUSDT", ticks), MINUTE, ticks[-1].ts))

    assert len(bars) == 10
    for bar in bars:
        inside = [t for t in ticks if bar.ts <= t.ts < bar.closes_at]
        prices = [t.price for t in inside]
        assert (bar.open, bar.close) == (prices[0], prices[-1])
        assert (bar.high, bar.low) == (max(prices), min(prices))
        assert bar.volume == pytest.approx(np.sum([t.size for t in inside]), rel=1e-12)


def test_ticks_come_back_as_they_were_given() -> None:
    ticks = [tick(2, 5, 11.0), tick(1, 0, 10.0, 2.0)]

    assert list(Ticks.of("BTCUSDT", ticks)) == ticks
    assert list(Ticks.of("BTCUSDT", ticks).sorted()) == ticks[::-1]
    assert len(Ticks.of("BTCUSDT", [])) == len(empty_ticks("BTCUSDT")) == 0


def test_of_two_trades_with_one_id_the_first_counts() -> None:
    ticks = Ticks.of("BTCUSDT", [tick(3, 5, 11.0), tick(1, 0, 10.0), tick(3, 6, 12.0)])

    assert [(t.trade_id, t.price) for t in ticks.distinct()] == [(3, 11.0), (1, 10.0)]


def test_pieces_of_two_symbols_are_not_joined() -> None:
    with pytest.raises(DataError, match="AAA, BBB"):
        joined([empty_ticks("BBB"), empty_ticks("AAA")])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ts", np.datetime64("NaT")),
        ("ts", np.datetime64("1969-12-31", "us")),
        ("price", np.inf),
        ("price", 1e16),
        ("size", np.nan),
        ("size", 1e-16),
        ("trade_id", 0),
    ],
)
def test_a_value_out_of_its_limits_is_named_with_its_row(name: str, value: object) -> None:
    ticks = Ticks.of("BTCUSDT", [tick(number, number, 10.0) for number in range(1, 6)])
    assert check_ticks(ticks) is ticks
    getattr(ticks, name)[3] = value

    with pytest.raises(DataError, match=f"row 3: {name} .* is out of its limits"):
        check_ticks(ticks)


@pytest.mark.parametrize("column", [np.ones(5, np.float32), np.ones(4)])
def test_a_column_of_another_kind_is_refused(column: np.ndarray) -> None:
    ticks = Ticks.of("BTCUSDT", [tick(number, number, 10.0) for number in range(1, 6)])

    with pytest.raises(DataError, match="have price as"):
        check_ticks(replace(ticks, price=column))
