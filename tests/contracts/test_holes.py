"""Holes in stored series are found, on every server, however long the series is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.market.bars import Bars, to_datetime64
from levibot.market.ticks import Ticks
from levibot.stores import holes
from levibot.stores.holes import Hole, TradeHole
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
Reached = dict[str, datetime]
LATER = START + 1000 * HOUR


def bars(symbol: str, opens_at: list[int], interval: timedelta = HOUR) -> Bars:
    """Bars that open so many intervals after the start."""
    price = np.full(len(opens_at), 100.0)
    ts = to_datetime64(START) + np.array(opens_at) * np.timedelta64(interval)
    return Bars(symbol, interval, ts, price, price, price, price, price)


def ticks(ids: list[int]) -> Ticks:
    n = len(ids)
    ts = to_datetime64(START) + np.arange(n) * np.timedelta64(1, "s")
    return Ticks("A", ts, np.ones(n), np.ones(n), np.array(ids, np.int64), np.zeros(n, np.bool_))


def hole(symbol: str, first: int, end: int) -> Hole:
    return Hole(symbol, START + first * HOUR, START + end * HOUR)


@pytest.fixture(params=[2, 3, holes.WALK_ROWS])
def walk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows one query walks over."""
    monkeypatch.setattr(holes, "WALK_ROWS", request.param)
    return int(request.param)


async def walk(
    store: TickStore, market_id: str, symbols: list[str], interval: timedelta, since: Reached, end: datetime
) -> tuple[list[Hole], Reached]:
    """Stretch by stretch to the end."""
    found: list[Hole] = []
    while True:
        more, reached = await store.holes.bars(market_id, symbols, interval, since, end)
        found += more
        if reached == since:
            return found, reached
        since = reached


async def test_every_hole_between_bars_is_found_once(tick_store: TickStore, walk_rows: int) -> None:
    await tick_store.write_many(
        "m",
        [bars("A", [0, 1, 2, 5, 6, 9, 10, 11, 12]), bars("B", [3, 4]), bars("C", [1, 9]), bars("ONE", [4])],
    )
    # Neither another market, nor another interval, hides a hole or makes one.
    await tick_store.write_many("other", [bars("A", [3, 4, 20])])
    await tick_store.write_bars("m", bars("A", list(range(60)), timedelta(minutes=15)))
    symbols = ["A", "B", "C", "ONE", "NONE"]
    found, reached = await walk(tick_store, "m", symbols, HOUR, {}, LATER)
    assert sorted(found, key=lambda h: (h.symbol, h.start)) == [
        hole("A", 3, 5),
        hole("A", 7, 9),
        hole("C", 2, 9),
    ]
    assert reached == {s: START + n * HOUR for s, n in (("A", 12), ("B", 4), ("C", 9), ("ONE", 4))}


async def test_a_search_goes_on_where_the_last_one_ended(tick_store: TickStore, walk_rows: int) -> None:
    await tick_store.write_bars("m", bars("A", [0, 1, 4]))
    _, reached = await walk(tick_store, "m", ["A", "B"], HOUR, {}, LATER)
    assert await walk(tick_store, "m", ["A", "B"], HOUR, reached, LATER) == ([], reached)
    await tick_store.write_many("m", [bars("A", [5, 8, 9]), bars("B", [1, 3])])
    found, reached = await walk(tick_store, "m", ["A", "B"], HOUR, reached, LATER)
    assert sorted(found, key=lambda h: h.symbol) == [hole("A", 6, 8), hole("B", 2, 3)]
    assert reached == {"A": START + 9 * HOUR, "B": START + 3 * HOUR}


async def test_bars_that_open_at_the_end_or_later_are_not_looked_at(
    tick_store: TickStore, walk_rows: int
) -> None:
    await tick_store.write_bars("m", bars("A", [0, 1, 4]))
    assert (await walk(tick_store, "m", ["A"], HOUR, {}, START + 4 * HOUR))[0] == []
    found, _ = await walk(tick_store, "m", ["A"], HOUR, {}, START + 5 * HOUR)
    assert found == [hole("A", 2, 4)]


async def test_holes_between_trade_ids_are_found_and_counted(tick_store: TickStore, walk_rows: int) -> None:
    await tick_store.ticks.write("m", [ticks([7, 8, 9, 12, 13, 20])])
    walk = await tick_store.holes.trades("m", "A")
    assert walk.holes == (TradeHole("A", 10, 11), TradeHole("A", 14, 19))
    assert (walk.n_holes, walk.n_missing, walk.n_stored) == (2, 8, 6)
    assert (walk.first_id, walk.last_id) == (7, 20)
    rest = await tick_store.holes.trades("m", "A", 13)
    assert (rest.holes, rest.first_id, rest.last_id) == ((TradeHole("A", 14, 19),), 13, 20)
    assert (await tick_store.holes.trades("m", "A", 20)).n_holes == 0


async def test_without_trades_there_is_no_hole(tick_store: TickStore) -> None:
    walk = await tick_store.holes.trades("m", "A")
    assert (walk.n_holes, walk.n_stored, walk.first_id, walk.last_id) == (0, 0, None, None)


async def test_ids_that_do_not_follow_one_another_are_not_dense_and_fill_no_memory(
    tick_store: TickStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "MAX_HOLES", 5)
    await tick_store.ticks.write("m", [ticks(list(range(1, 200, 2)))])
    walk = await tick_store.holes.trades("m", "A")
    assert (len(walk.holes), walk.n_holes, walk.is_dense) == (5, 99, False)
    await tick_store.ticks.write("other", [ticks([*range(1, 60), *range(70, 100)])])
    assert (await tick_store.holes.trades("other", "A")).is_dense
