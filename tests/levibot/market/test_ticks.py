from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.market.bars import Bar
from levibot.market.ticks import Tick, bars_of

START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def tick(trade_id: int, seconds: float, price: float, size: float = 1.0) -> Tick:
    return Tick("BTCUSDT", START + timedelta(seconds=seconds), price, size, trade_id)


def test_trades_make_the_bar_of_their_minute() -> None:
    ticks = [tick(1, 0, 10.0, 2.0), tick(2, 20, 12.0), tick(3, 59.9, 9.0, 0.5), tick(4, 60, 11.0)]

    bars = list(bars_of("BTCUSDT", MINUTE, ticks, START + MINUTE))

    assert bars == [Bar("BTCUSDT", MINUTE, START, 10.0, 12.0, 9.0, 9.0, 3.5)]
    assert bars[0].closes_at == START + MINUTE


def test_a_bar_is_not_finished_before_its_close() -> None:
    ticks = [tick(1, 0, 10.0), tick(2, 61, 11.0)]

    assert len(bars_of("BTCUSDT", MINUTE, ticks, START + timedelta(seconds=59))) == 0
    assert len(bars_of("BTCUSDT", MINUTE, ticks, START + timedelta(seconds=119))) == 1


def test_a_bar_whose_beginning_was_not_seen_is_left_out() -> None:
    ticks = [tick(1, 30, 10.0), tick(2, 70, 11.0), tick(3, 121, 12.0)]

    assert [bar.open for bar in bars_of("BTCUSDT", MINUTE, ticks, START + 3 * MINUTE)] == [11.0, 12.0]


def test_a_stretch_without_trades_has_no_bar() -> None:
    ticks = [tick(1, 0, 10.0), tick(2, 200, 11.0)]

    assert [bar.ts for bar in bars_of("BTCUSDT", MINUTE, ticks, START + 4 * MINUTE)] == [
        START,
        START + 3 * MINUTE,
    ]


def test_no_trades_make_no_bars() -> None:
    assert len(bars_of("BTCUSDT", MINUTE, [], START)) == 0


@pytest.mark.parametrize(("price", "size"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0)])
def test_a_trade_without_a_positive_price_and_size_is_refused(price: float, size: float) -> None:
    with pytest.raises(DataError, match="Trade 7 of BTCUSDT"):
        bars_of("BTCUSDT", MINUTE, [tick(7, 0, price, size)], START)


def test_a_trade_of_another_symbol_is_refused() -> None:
    with pytest.raises(DataError, match="is of BTCUSDT, not of ETHUSDT"):
        bars_of("ETHUSDT", MINUTE, [tick(7, 0, 1.0)], START)


@given(
    st.lists(
        st.tuples(st.integers(0, 600), st.floats(1.0, 1e5), st.floats(1e-6, 1e3)), min_size=1, max_size=60
    ),
    st.randoms(use_true_random=False),
)
def test_order_and_repeats_change_nothing(trades: list[tuple[int, float, float]], random: object) -> None:
    ticks = [tick(number, second, price, size) for number, (second, price, size) in enumerate(trades)]
    shuffled = [*ticks, *ticks]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    whole = list(bars_of("BTCUSDT", MINUTE, ticks, START + 11 * MINUTE))

    assert list(bars_of("BTCUSDT", MINUTE, shuffled, START + 11 * MINUTE)) == whole
    for bar in whole:
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_recorded_trades_make_the_bars_that_a_plain_loop_makes() -> None:
    table = pq.read_table(Path(os.environ["LEVIBOT_MARKET_DATA"]) / "trades" / "BTCUSDT.parquet")
    columns = (table[name].to_pylist() for name in ("ts", "price", "qty", "trade_id"))
    ticks = [Tick("BTCUSDT", *row) for row in zip(*columns, strict=True)]

    bars = list(bars_of("BTCUSDT", MINUTE, ticks, ticks[-1].ts))

    assert len(bars) == 10
    for bar in bars:
        inside = [t for t in ticks if bar.ts <= t.ts < bar.closes_at]
        prices = [t.price for t in inside]
        assert (bar.open, bar.close) == (prices[0], prices[-1])
        assert (bar.high, bar.low) == (max(prices), min(prices))
        assert bar.volume == pytest.approx(np.sum([t.size for t in inside]), rel=1e-12)
