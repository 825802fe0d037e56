"""The trade feed under faults: every trade once, in order, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

import numpy as np
import pytest

from levibot.clock import SystemClock
from levibot.errors import UnknownSymbol, UsageError
from levibot.market.exchange_client import PAGE_ROWS, ExchangeClient
from levibot.market.tick_screening import screen_again
from levibot.market.ticks import Ticks
from levibot.market.trade_feed import TradeFeed
from tests.fakes.exchange_server import FIRST_TRADE_ID, FIRST_TRADE_MS, FakeExchange

Open = Callable[..., TradeFeed]
# What a test waits at most for trades that are due.
PATIENCE_S = 20.0


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.01)


class Consumer:
    """Takes what the feed gives, as an actor does."""

    def __init__(self, feed: TradeFeed) -> None:
        self.feed = feed
        self.batches: list[Ticks] = []
        self.may_take = asyncio.Event()
        self.may_take.set()

    async def run(self) -> None:
        async with aclosing(self.feed.batches()) as batches:
            async for batch in batches:
                self.batches.append(batch)
                await self.may_take.wait()

    def ids(self, symbol: str) -> list[int]:
        return [int(i) for batch in self.batches if batch.symbol == symbol for i in batch.trade_id]

    async def until(self, symbol: str, last_id: int) -> None:
        await eventually(lambda: self.ids(symbol)[-1:] >= [last_id])


@pytest.fixture
def feed_of(client: ExchangeClient) -> Open:
    def open_feed(**options: object) -> TradeFeed:
        defaults: dict[str, object] = {
            "silence_s": 0.3,
            "grace_s": 0.2,
            "first_backoff_s": 0.05,
            "longest_backoff_s": 0.2,
            "jitter": random.Random(7),
        }
        return TradeFeed(client, ("BTCUSDT", "ETHUSDT"), SystemClock(), **(defaults | options))  # type: ignore[arg-type]

    return open_feed


@asynccontextmanager
async def consuming(feed: TradeFeed, exchange: FakeExchange) -> AsyncIterator[Consumer]:
    consumer = Consumer(feed)
    task = asyncio.create_task(consumer.run())
    try:
        await subscription(exchange)
        yield consumer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def subscription(exchange: FakeExchange, n_connections: int = 1) -> None:
    """Wait until the exchange was connected to for the n-th time, and both symbols are subscribed."""
    await eventually(lambda: exchange.n_connections >= n_connections and exchange.subscribed("ETHUSDT") > 0)


async def in_thread(call: Callable[..., object], *args: object) -> object:
    # The exchange must be free to answer while it is told what to do.
    return await asyncio.to_thread(call, *args)


def dense(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


async def test_live_trades_come_in_order_each_once(feed_of: Open, exchange: FakeExchange) -> None:
    async with consuming(feed_of(), exchange) as consumer:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            await in_thread(exchange.trade, symbol, 1)
            await consumer.until(symbol, FIRST_TRADE_ID)
        before = consumer.feed.status()
        for n in (40, 3):
            made = await asyncio.to_thread(exchange.trade, "BTCUSDT", n)
        await in_thread(exchange.trade, "ETHUSDT", 1)
        await consumer.until("BTCUSDT", made[-1])
        await consumer.until("ETHUSDT", FIRST_TRADE_ID + 1)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 43)
        assert consumer.ids("ETHUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 1)
        status = consumer.feed.status()
        assert status.connected_since is not None
        assert status.last_message_age_s is not None
        assert 0.0 <= status.last_message_age_s < PATIENCE_S
        assert (status.n_reconnects, status.n_gaps - before.n_gaps, status.problem) == (0, 0, "")


async def test_a_symbol_without_a_stored_trade_begins_now(feed_of: Open, exchange: FakeExchange) -> None:
    await in_thread(exchange.trade, "BTCUSDT", 50)
    async with consuming(feed_of(), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 51)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID + 50, FIRST_TRADE_ID + 51)


async def test_a_symbol_without_a_stored_trade_can_begin_at_an_instant(
    feed_of: Open, exchange: FakeExchange
) -> None:
    await in_thread(exchange.trade, "BTCUSDT", 50)
    since = datetime.fromtimestamp((exchange.trades["BTCUSDT"][20]["T"] - 1) / 1000, UTC)
    async with consuming(feed_of(since=since), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await in_thread(exchange.trade, "ETHUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 51)
        await consumer.until("ETHUSDT", FIRST_TRADE_ID)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID + 20, FIRST_TRADE_ID + 51)


async def test_it_goes_on_after_what_is_stored(feed_of: Open, exchange: FakeExchange) -> None:
    await in_thread(exchange.trade, "BTCUSDT", 2 * PAGE_ROWS + 50)
    feed = feed_of(newest_ids={"BTCUSDT": FIRST_TRADE_ID + 9})
    async with consuming(feed, exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 2050)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID + 10, FIRST_TRADE_ID + 2050)
        assert feed.status().n_filled == 2040


@pytest.mark.parametrize("n_missed", [0, 1, 700, PAGE_ROWS, PAGE_ROWS + 1])
async def test_what_was_traded_during_a_cut_is_filled_in_before_live_trades(
    feed_of: Open, exchange: FakeExchange, n_missed: int
) -> None:
    async with consuming(feed_of(), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 3)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 2)
        exchange.is_silent = True
        await in_thread(exchange.trade, "BTCUSDT", n_missed)
        await in_thread(exchange.drop)
        await subscription(exchange, 2)
        exchange.is_silent = False
        await in_thread(exchange.trade, "BTCUSDT", 2)
        last = FIRST_TRADE_ID + 4 + n_missed
        await consumer.until("BTCUSDT", last)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, last)
        assert consumer.feed.status().n_reconnects == 1
        assert consumer.feed.status().n_filled >= n_missed


async def test_a_hole_inside_a_living_connection_is_filled_in(feed_of: Open, exchange: FakeExchange) -> None:
    async with consuming(feed_of(), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 3)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 2)
        before = consumer.feed.status()
        exchange.is_silent = True
        await in_thread(exchange.trade, "BTCUSDT", 5)
        exchange.is_silent = False
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 8)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 8)
        status = consumer.feed.status()
        assert (status.n_reconnects, status.n_gaps - before.n_gaps) == (0, 1)


async def test_a_silent_connection_is_left_and_what_it_kept_back_is_filled_in(
    feed_of: Open, exchange: FakeExchange
) -> None:
    async with consuming(feed_of(), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID)
        exchange.is_silent = True
        await in_thread(exchange.trade, "ETHUSDT", 4)
        await consumer.until("ETHUSDT", FIRST_TRADE_ID + 3)
        assert consumer.ids("ETHUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 3)
        assert exchange.n_connections >= 1
        assert consumer.feed.status().n_reconnects >= 1


async def test_a_quiet_market_keeps_its_connection(feed_of: Open, exchange: FakeExchange) -> None:
    async with consuming(feed_of(silence_s=0.05, grace_s=0.05), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID)
        asked = len(exchange.requests)
        await eventually(lambda: len(exchange.requests) >= asked + 6)
        assert (exchange.n_connections, consumer.feed.status().n_reconnects) == (1, 0)


async def test_repeated_and_disordered_trades_come_once_in_order(
    feed_of: Open, exchange: FakeExchange
) -> None:
    async with consuming(feed_of(), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 3)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 2)
        exchange.is_silent = True
        await in_thread(exchange.trade, "BTCUSDT", 6)
        trades = exchange.trades["BTCUSDT"]
        await in_thread(exchange.push, "BTCUSDT", [trades[5], trades[3], trades[8], trades[4], trades[0]])
        await in_thread(exchange.push, "BTCUSDT", [trades[7], trades[7], trades[6]])
        exchange.is_silent = False
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 9)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 9)
        assert consumer.feed.status().n_repeated >= 1


@pytest.mark.parametrize(
    "frame",
    [
        '{"e": "aggTrade", "s": "BTCUSDT", "a": 38',
        "garbage",
        '{"e": "aggTrade", "s": "BTCUSDT"}',
        '{"e": "aggTrade", "s": "BTCUSDT", "a": "x", "p": "1", "q": "1", "T": 1769224657583, "m": true}',
        '{"e": "aggTrade", "s": "BTCUSDT", "a": -1, "p": "1", "q": "1", "T": 1769224657583, "m": true}',
        "[]",
        "null",
    ],
)
async def test_a_frame_that_is_no_trade_loses_nothing(
    feed_of: Open, exchange: FakeExchange, frame: str
) -> None:
    # The silence of a reader that died would be noticed too, but not as soon as here.
    async with consuming(feed_of(silence_s=60.0), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 1)
        await in_thread(exchange.send_raw, frame)
        if "aggTrade" in frame:
            # Something was meant by it: the connection is not trusted any more.
            await subscription(exchange, 2)
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 3)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 3)


async def test_a_trade_with_an_impossible_price_is_given_out_for_the_screening_to_find(
    feed_of: Open, exchange: FakeExchange
) -> None:
    trade_id = FIRST_TRADE_ID + 2
    frame = {"e": "aggTrade", "s": "BTCUSDT", "a": trade_id, "p": "-1", "q": "1"}
    frame |= {"T": FIRST_TRADE_MS, "m": True}
    async with consuming(feed_of(silence_s=60.0), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 1)
        await in_thread(exchange.send_raw, json.dumps(frame))
        await consumer.until("BTCUSDT", trade_id)
        newest = consumer.batches[-1]
        assert (newest.trade_id[-1], newest.price[-1]) == (trade_id, -1.0)
        assert screen_again(newest, "the feed").rejects.reasons() == {"not_positive": 1}
        assert consumer.feed.status().n_reconnects == 0


async def test_a_slow_consumer_loses_nothing_and_holds_little(feed_of: Open, exchange: FakeExchange) -> None:
    async with consuming(feed_of(max_waiting=20, silence_s=30.0), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID)
        consumer.may_take.clear()
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 1)
        n_before = len(consumer.batches)
        for _ in range(10):
            await in_thread(exchange.trade, "BTCUSDT", 50)
        assert len(consumer.batches) == n_before
        consumer.may_take.set()
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 501)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 501)
        # What was dropped from the queue came by REST, and the connection stood.
        status = consumer.feed.status()
        assert status.n_filled >= 480
        assert status.n_reconnects == 0


async def test_a_cut_behind_a_slow_consumers_back_is_noticed(feed_of: Open, exchange: FakeExchange) -> None:
    async with consuming(feed_of(silence_s=60.0), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID)
        consumer.may_take.clear()
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 1)
        await in_thread(exchange.drop)
        await eventually(lambda: exchange.subscribed("BTCUSDT") == 0)
        await in_thread(exchange.trade, "BTCUSDT", 5)
        consumer.may_take.set()
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 6)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 6)
        await subscription(exchange, 2)
        assert consumer.feed.status().n_reconnects == 1


async def test_an_id_that_rest_never_has_ends_the_connection_not_the_feed(
    feed_of: Open, exchange: FakeExchange
) -> None:
    async with consuming(feed_of(silence_s=60.0), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 1)
        asked = len(exchange.requests)
        wrong = dict(exchange.trades["BTCUSDT"][-1], a=FIRST_TRADE_ID + 1000)
        await in_thread(exchange.push, "BTCUSDT", [wrong])
        await subscription(exchange, 2)
        # Six tries for the gap, and two to find out where to go on.
        assert len(exchange.requests) - asked == 8
        await in_thread(exchange.trade, "BTCUSDT", 1)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 2)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 2)


async def test_trades_wait_for_rest_to_catch_up_with_the_stream(
    feed_of: Open, exchange: FakeExchange
) -> None:
    async with consuming(feed_of(), exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 1)
        # The websocket runs ahead: REST learns of these trades only later.
        late = [dict(exchange.trades["BTCUSDT"][-1], a=FIRST_TRADE_ID + 2 + i) for i in range(3)]
        await in_thread(exchange.push, "BTCUSDT", late[2:])
        await asyncio.sleep(0.2)
        exchange.trades["BTCUSDT"].extend(late)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 4)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, FIRST_TRADE_ID + 4)
        assert consumer.feed.status().n_reconnects == 0


async def test_nothing_is_lost_while_rest_and_websocket_fail_in_turn(
    feed_of: Open, exchange: FakeExchange
) -> None:
    async with consuming(feed_of(), exchange) as consumer:
        for fault in ("500", "reset", "malformed", "wrong shape"):
            exchange.fault = fault  # type: ignore[assignment]
            exchange.faulty_paths = ("/api/v3/aggTrades",)
            await in_thread(exchange.trade, "BTCUSDT", 20)
            await in_thread(exchange.drop)
            await asyncio.sleep(0.1)
            exchange.fault = None
            await in_thread(exchange.trade, "BTCUSDT", 5)
        last = FIRST_TRADE_ID + 99
        await consumer.until("BTCUSDT", last)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID, last)


async def test_a_websocket_that_never_opens_is_given_up(feed_of: Open, exchange: FakeExchange) -> None:
    exchange.fault, exchange.faulty_paths = "hang", ("/ws",)
    feed = feed_of(silence_s=30.0)
    consumer = Consumer(feed)
    task = asyncio.create_task(consumer.run())
    await eventually(lambda: feed.status().n_reconnects >= 1)
    assert "RequestTimeout" in feed.status().problem
    exchange.fault = None
    await subscription(exchange)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_exchange_that_refuses_the_websocket_is_asked_again_after_a_pause(
    feed_of: Open, exchange: FakeExchange
) -> None:
    exchange.fault, exchange.faulty_paths = "503", ("/ws",)
    feed = feed_of()
    consumer = Consumer(feed)
    task = asyncio.create_task(consumer.run())
    await eventually(lambda: feed.status().n_reconnects >= 2)
    assert "does not answer" in feed.status().problem
    assert feed.status().connected_since is None
    exchange.fault = None
    await subscription(exchange)
    await in_thread(exchange.trade, "BTCUSDT", 1)
    await consumer.until("BTCUSDT", FIRST_TRADE_ID)
    assert feed.status().problem == ""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_gap_that_is_too_long_is_given_up_and_counted(feed_of: Open, exchange: FakeExchange) -> None:
    await in_thread(exchange.trade, "BTCUSDT", 500)
    feed = feed_of(newest_ids={"BTCUSDT": FIRST_TRADE_ID}, longest_gap=100)
    async with consuming(feed, exchange) as consumer:
        await in_thread(exchange.trade, "BTCUSDT", 2)
        await consumer.until("BTCUSDT", FIRST_TRADE_ID + 501)
        assert consumer.ids("BTCUSDT") == dense(FIRST_TRADE_ID + 500, FIRST_TRADE_ID + 501)
        assert feed.status().n_skipped == 499


async def test_batches_carry_what_the_exchange_sent(feed_of: Open, exchange: FakeExchange) -> None:
    # Both lines are of a recorded stream.
    lines = (
        '{"e":"aggTrade","E":1769224657584,"s":"BTCUSDT","a":3821253461,"p":"89879.78000000","q":"0.00068000",'
        '"f":5808851364,"l":5808851364,"T":1769224657583,"m":true,"M":true}',
        '{"e":"aggTrade","E":1769224658079,"s":"BTCUSDT","a":3821253462,"p":"89879.79000000","q":"0.00222000",'
        '"f":5808851365,"l":5808851365,"T":1769224658079,"m":false,"M":true}',
    )
    exchange.trades["BTCUSDT"].append(dict(json.loads(lines[0]), a=3821253460))
    async with consuming(feed_of(), exchange) as consumer:
        for line in lines:
            await in_thread(exchange.send_raw, line)
        await consumer.until("BTCUSDT", 3821253462)
        got = (
            consumer.batches[0]
            if len(consumer.batches) == 1
            else consumer.batches[0].then(consumer.batches[1])
        )
        assert (
            got.ts.tolist()
            == np.array([1769224657583, 1769224658079])
            .astype("datetime64[ms]")
            .astype("datetime64[us]")
            .tolist()
        )
        assert got.price.tolist() == [89879.78, 89879.79]
        assert got.size.tolist() == [0.00068, 0.00222]
        assert got.is_buyer_maker.tolist() == [True, False]


async def test_an_exchange_whose_trades_are_not_counted_is_refused() -> None:
    client = ExchangeClient("kraken", SystemClock())
    with pytest.raises(UsageError, match="not numbered one by one"):
        TradeFeed(client, ("BTCUSDT",), SystemClock())
    await client.close()


async def test_an_unknown_symbol_ends_the_feed(client: ExchangeClient) -> None:
    feed = TradeFeed(client, ("NONEUSDT",), SystemClock())
    with pytest.raises(UnknownSymbol, match="'NONEUSDT'"):
        await anext(feed.batches())
