"""What the ledgers of signals, shadow fills and orders promise, on real servers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from levibot.errors import DataError, UsageError
from levibot.stores.ledgers import BATCH_ROWS, MAX_READ, Ledger
from levibot.stores.ticks import TickStore
from levibot.trading.ledger import Order, ShadowFill, SignalRow

pytestmark = pytest.mark.stores

AT = datetime(2024, 8, 9, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SIGNAL = SignalRow("BTCUSDT", AT, "v1", "w1", "signal", 0.1 + 0.2, -0.7, -1.0 / 3.0, "trace-1")
FILL = ShadowFill("BTCUSDT", AT, "trend", "v1", -0.25, 61_837.63, 1.5, 0.3, -0.01, 10_000.5)
ORDER = Order("order-1", "BTCUSDT", AT, "buy", 0.5, "v1", None, "trace-1")

# The ledger, a record, its time, a value that makes another record of it, one that differs outside the key.
CASES = [
    pytest.param(
        "signals",
        SIGNAL,
        "as_of",
        {"model_version": "v2", "expected_return": None},
        {"probability_up": 0.9},
        id="signals",
    ),
    pytest.param("shadow_fills", FILL, "ts", {"account": "zz"}, {"price": 1.0}, id="shadow_fills"),
    pytest.param("orders", ORDER, "at", {"order_id": "order-2"}, {"side": "sell"}, id="orders"),
]


@pytest.mark.parametrize(("name", "row", "time", "other", "differs"), CASES)
async def test_a_record_comes_back_bit_for_bit_and_its_first_writer_wins(
    tick_store: TickStore, name: str, row: Any, time: str, other: dict[str, Any], differs: dict[str, Any]
) -> None:
    ledger: Ledger[Any] = getattr(tick_store, name)
    assert await ledger.write_many("m", [row, replace(row, **other)]) == 2
    assert await ledger.write_many("m", [replace(row, **differs), row]) == 0
    assert await ledger.write_many("other", [row]) == 1
    assert await ledger.read("m") == [replace(row, **other), row]
    assert await ledger.write_many("m", []) == 0


@pytest.mark.parametrize(("name", "row", "time", "other", "differs"), CASES)
async def test_reads_are_by_symbol_and_time_newest_first_and_bounded(
    tick_store: TickStore, name: str, row: Any, time: str, other: dict[str, Any], differs: dict[str, Any]
) -> None:
    ledger: Ledger[Any] = getattr(tick_store, name)
    key = {"order_id": "order-{}"} if name == "orders" else {}
    rows = [
        replace(
            row,
            **{time: AT + n * HOUR},
            symbol=symbol,
            **{k: v.format(f"{symbol}{n}") for k, v in key.items()},
        )
        for n in range(5)
        for symbol in ("AA", "BB")
    ]
    assert await ledger.write_many("m", rows) == 10
    assert await ledger.read("m", "AA") == [r for r in rows[::-1] if r.symbol == "AA"]
    inside = await ledger.read("m", "BB", AT + HOUR, AT + 3 * HOUR)
    assert [getattr(r, time) for r in inside] == [AT + 2 * HOUR, AT + HOUR]
    assert len(await ledger.read("m", limit=3)) == 3
    for limit in (0, MAX_READ + 1):
        with pytest.raises(UsageError, match="cannot be read at once"):
            await ledger.read("m", limit=limit)


@pytest.mark.parametrize(
    ("name", "row", "broken"),
    [
        ("signals", SIGNAL, {"probability_up": 1.5}),
        ("signals", SIGNAL, {"expected_return": np.nan}),
        ("signals", SIGNAL, {"target_position": np.inf}),
        ("shadow_fills", FILL, {"price": 0.0}),
        ("shadow_fills", FILL, {"fee": -1.0}),
        ("shadow_fills", FILL, {"equity": np.nan}),
        ("orders", ORDER, {"units": 0.0}),
        ("orders", ORDER, {"side": "hold"}),
        ("orders", ORDER, {"limit_price": np.inf}),
        ("orders", ORDER, {"order_id": ""}),
    ],
)
async def test_a_broken_record_is_refused_with_everything_beside_it(
    tick_store: TickStore, name: str, row: Any, broken: dict[str, Any]
) -> None:
    ledger: Ledger[Any] = getattr(tick_store, name)
    with pytest.raises(DataError, match="violates check constraint"):
        await ledger.write_many(
            "m",
            [row, replace(row, symbol="ZZ", **{"order_id": "z"} | broken if name == "orders" else broken)],
        )
    assert await ledger.read("m") == []


async def test_writers_of_the_same_records_share_them(tick_store: TickStore) -> None:
    rows = [replace(ORDER, order_id=f"order-{n:05}") for n in range(BATCH_ROWS + 10)]
    orders = [rows, rows[::-1], rows[100:] + rows[:100]] * 2
    new = await asyncio.gather(*(tick_store.orders.write_many("m", order) for order in orders))
    assert sum(new) == len(rows)
