"""The guarded client of an exchange: what it asks, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from levibot.clock import ManualClock, SystemClock
from levibot.errors import SourceError, SourceUnavailable, UnknownSymbol, UsageError
from levibot.market.exchange_check import check_health
from levibot.market.exchange_client import ExchangeClient
from levibot.market.price_process import MARKET_START
from levibot.market.tick_screening import screen_again
from tests.fakes.exchange_server import FIRST_TRADE_ID, FIRST_TRADE_MS, FakeExchange

SERVER_TIME = datetime.fromtimestamp(FIRST_TRADE_MS / 1000, UTC)
Ask = Callable[[ExchangeClient], Any]

CALLS: dict[str, Ask] = {
    "pairs": lambda c: c.pairs(),
    "rules": lambda c: c.rules("BTCUSDT"),
    "clock_skew": lambda c: c.clock_skew(),
    "status": lambda c: c.status(),
    "bar_rows": lambda c: c.bar_rows("BTCUSDT", "1h", MARKET_START, 10),
    "trades_from": lambda c: c.trades_from("BTCUSDT", 1),
    "trades_since": lambda c: c.trades_since("BTCUSDT", SERVER_TIME),
    "newest_trades": lambda c: c.newest_trades("BTCUSDT"),
    "day_statistics": lambda c: c.day_statistics(["BTCUSDT"]),
    "tops_of_book": lambda c: c.tops_of_book(["BTCUSDT"]),
    "order_book": lambda c: c.order_book("BTCUSDT"),
    "open_stream": lambda c: c.open_stream(["BTCUSDT"]),
}


NO_ANSWERS = (
    *("null", "7", '"text"', "[[]]", "[null]", '["a"]', '[{"a": "x"}]', '[["x", 1]]', '{"a": 1}'),
    *("<html>", "", "{", "[1,"),
)


async def test_trades_are_asked_by_id_by_time_and_by_age(
    client: ExchangeClient, exchange: FakeExchange
) -> None:
    await asyncio.to_thread(exchange.trade, "BTCUSDT", 30)
    by_id = await client.trades_from("BTCUSDT", FIRST_TRADE_ID + 10, 5)
    assert by_id.trade_id.tolist() == [FIRST_TRADE_ID + i for i in range(10, 15)]
    by_time = await client.trades_since("BTCUSDT", SERVER_TIME + timedelta(milliseconds=95), 3)
    assert by_time.trade_id.tolist() == [FIRST_TRADE_ID + i for i in range(10, 13)]
    newest = await client.newest_trades("BTCUSDT", 2)
    assert newest.trade_id.tolist() == [FIRST_TRADE_ID + 28, FIRST_TRADE_ID + 29]
    assert newest.price.tolist() == [100.0, 101.0]
    assert newest.is_buyer_maker.tolist() == [True, False]


async def test_a_market_without_trades_has_none(client: ExchangeClient) -> None:
    assert len(await client.newest_trades("BTCUSDT")) == 0
    assert len(await client.trades_from("BTCUSDT", 1)) == 0


async def test_rules_are_steps_and_fees(client: ExchangeClient) -> None:
    rules = await client.rules("BTCUSDT")
    assert (rules.price_step, rules.size_step, rules.min_notional) == (0.01, 1e-05, 5.0)
    assert (rules.maker_fee_bps, rules.taker_fee_bps) == (10.0, 10.0)


async def test_books_and_tickers_are_typed(client: ExchangeClient) -> None:
    top = (await client.tops_of_book(["ETHUSDT", "BTCUSDT"]))["ETHUSDT"]
    assert (top.bid, top.bid_size, top.ask, top.ask_size) == (100.0, 3.78826, 100.01, 1.54698)
    assert top.spread_bps == pytest.approx(0.99995, rel=1e-6)
    book = await client.order_book("BTCUSDT", 3)
    assert book.bid_price.tolist() == [100.0, 99.99, 99.98]
    assert book.ask_size.tolist() == [2.0, 3.0, 4.0]
    assert not book.ask_price.flags.writeable
    day = (await client.day_statistics(["BTCUSDT"]))["BTCUSDT"]
    assert (day.last_price, day.volume) == (100.005, 1234.5)


async def test_funding_is_that_of_the_perpetual(open_client: Callable[..., ExchangeClient]) -> None:
    rates = await open_client(kind="perpetual").funding_rates("BTCUSDT", SERVER_TIME - timedelta(hours=24))
    assert sorted(rate.rate for rate in rates) == [-0.0001, 0.0, 0.0001]
    assert rates[1].ts - rates[0].ts == timedelta(hours=8)


@pytest.mark.parametrize(
    ("ours_ahead_s", "problem"), [(0.0, ""), (0.9, ""), (2.5, "2.5 s ahead of"), (-2.5, "2.5 s behind")]
)
async def test_a_clock_that_is_off_is_a_problem(
    exchange: FakeExchange, ours_ahead_s: float, problem: str
) -> None:
    clock = ManualClock(SERVER_TIME + timedelta(seconds=ours_ahead_s))
    client = ExchangeClient("binance", clock, base_url=exchange.url)
    health = await check_health(client)
    assert health.skew.skew_s == pytest.approx(-ours_ahead_s)
    assert problem in health.problem
    assert bool(problem) == bool(health.problem)
    await client.close()


async def test_maintenance_is_an_answer(client: ExchangeClient, exchange: FakeExchange) -> None:
    assert (await client.status()).is_operating
    exchange.system_status = 1
    status = await client.status()
    assert (status.is_operating, status.reason) == (
        False,
        "The exchange binance says of itself: maintenance.",
    )
    assert (await check_health(client)).problem == status.reason


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("pairs", "rules", "open_stream")])
async def test_an_answer_that_is_none_is_refused_by_every_call(
    client: ExchangeClient, exchange: FakeExchange, name: str
) -> None:
    await client.pairs()
    for body in NO_ANSWERS:
        exchange.answer = (200, body)
        with pytest.raises(SourceError, match="exchange binance") as caught:
            await CALLS[name](client)
        assert type(caught.value) is SourceError, body


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("order_book", {"bids": [], "asks": [["1", "1"]]}),
        ("order_book", {"bids": [["2", "1"]], "asks": [["1", "1"]]}),
        ("order_book", {"bids": [["1", "NaN"]], "asks": [["2", "1"]]}),
        ("newest_trades", [{"a": 1, "p": "1", "q": "1", "f": 1, "l": 1, "T": None, "m": True}]),
        ("newest_trades", [{"a": -1, "p": "1", "q": "1", "f": 1, "l": 1, "T": FIRST_TRADE_MS, "m": True}]),
        (
            "tops_of_book",
            [{"symbol": "BTCUSDT", "bidPrice": "2", "bidQty": "1", "askPrice": "1", "askQty": "1"}],
        ),
        (
            "tops_of_book",
            [{"symbol": "ETHUSDT", "bidPrice": "1", "bidQty": "1", "askPrice": "2", "askQty": "1"}],
        ),
        ("clock_skew", {"serverTime": "noon"}),
    ],
)
async def test_numbers_that_cannot_be_are_refused(
    client: ExchangeClient, exchange: FakeExchange, path: str, wrong: object
) -> None:
    await client.pairs()
    exchange.answer = (200, json.dumps(wrong))
    with pytest.raises(SourceError, match="no market data"):
        await CALLS[path](client)


async def test_a_trade_that_is_none_does_not_refuse_the_others(
    client: ExchangeClient, exchange: FakeExchange
) -> None:
    good = {"a": 1, "p": "1", "q": "1", "f": 1, "l": 1, "T": FIRST_TRADE_MS, "m": True}
    broken = [good | {"a": 2, "p": "0"}, good | {"a": 3, "p": None}, good | {"a": 4, "q": "1e300"}]
    await client.pairs()
    exchange.answer = (200, json.dumps([good, *broken]))
    screened = screen_again(await client.newest_trades("BTCUSDT", 4), "the exchange")
    assert screened.sound.trade_id.tolist() == [1]
    assert screened.rejects.reasons() == {"not_positive": 1, "not_finite": 1, "too_small_or_large": 1}


async def test_every_call_is_guarded(client: ExchangeClient, exchange: FakeExchange) -> None:
    exchange.fault = "500"
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match="HTTP 500"):
            await client.pairs()
    asked = len(exchange.asked)
    for call in CALLS.values():
        with pytest.raises(SourceUnavailable, match="circuit"):
            await call(client)
    assert len(exchange.asked) == asked


@pytest.mark.parametrize("status", [418, 429, 500, 503])
async def test_a_busy_exchange_says_when_to_come_back(
    open_client: Callable[..., ExchangeClient], exchange: FakeExchange, status: int
) -> None:
    exchange.fault, exchange.retry_after = str(status), "7"  # type: ignore[assignment]
    with pytest.raises(SourceUnavailable, match=f"HTTP {status}") as caught:
        await open_client(attempts=1).status()
    assert caught.value.retry_after_s == (None if status == 500 else 7.0)


async def test_a_rate_limit_of_another_exchange_is_translated_too() -> None:
    client = ExchangeClient("kraken", SystemClock(), base_url="http://127.0.0.1:1", attempts=1)
    with pytest.raises(SourceUnavailable, match="exchange kraken does not answer"):
        await client.pairs()
    await client.close()


async def test_an_unknown_symbol_is_named(client: ExchangeClient) -> None:
    with pytest.raises(UnknownSymbol, match="no spot market 'NONEUSDT'"):
        await client.newest_trades("NONEUSDT")


async def test_markets_are_loaded_once_for_many_callers(
    client: ExchangeClient, exchange: FakeExchange
) -> None:
    await asyncio.gather(*(client.newest_trades(s) for s in ("BTCUSDT", "ETHUSDT") for _ in range(5)))
    assert exchange.requests.count("/api/v3/exchangeInfo") == 1


def test_an_unknown_exchange_is_named() -> None:
    with pytest.raises(UsageError, match="no exchange 'nowhere'"):
        ExchangeClient("nowhere", SystemClock())
