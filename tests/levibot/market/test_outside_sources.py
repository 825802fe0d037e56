"""The sources outside, one by one: what a look makes of what each place says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest

from levibot.clock import ManualClock, SystemClock
from levibot.errors import SourceError, SourceUnavailable
from levibot.market.budget import MemorySpending
from levibot.market.dex import DexClient
from levibot.market.dex_spread import PAIRS, DexSpread
from levibot.market.exchange_client import PAGE_ROWS, ExchangeClient
from levibot.market.funding_history import TOLD_WITHIN, funding_history
from levibot.market.funding_rates import LOOK_BACK, FundingRates
from levibot.market.headlines import HeadlineFeed
from levibot.market.news import HeadlineSentiment, NewsClient
from levibot.market.news_tone import RATING_CODEC, NewsTone, tone_of
from levibot.market.nft import NftClient
from levibot.market.nft_floor import NftFloor
from levibot.market.side_series import FUNDING_RATE
from levibot.stores.cache import Cache
from levibot.telemetry.metrics import Metrics
from tests.fakes import dex_server, news_server, nft_server
from tests.fakes.exchange_server import FIRST_TRADE_MS, FUNDING_MS, FakeExchange, funding_rate
from tests.fakes.feed_server import FIRST, FakeFeed
from tests.levibot.market.conftest import OpenClient

SYMBOLS = ("BTCUSDT", "ETHUSDT", "DOGEUSDT")
NOW = datetime.fromtimestamp(FIRST_TRADE_MS / 1000, UTC)
EIGHT_HOURS = timedelta(hours=8)


@pytest.fixture
async def ending() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


# Funding.


def rates(client: ExchangeClient) -> FundingRates:
    since = NOW - timedelta(days=30)
    return FundingRates("exchange", client, SYMBOLS, ManualClock(NOW), every_s=60.0, since=since)


async def test_the_first_look_reads_the_history_as_it_was_published(open_client: OpenClient) -> None:
    readings = await rates(open_client(kind="perpetual")).look({})
    # The exchange has no contract on the third symbol.
    assert {reading.symbol for reading in readings} == {"BTCUSDT", "ETHUSDT"}
    assert len(readings) == 2 * 90
    for reading in readings:
        period = int(reading.event_ts.timestamp() * 1000) // FUNDING_MS
        assert reading.value == pytest.approx(funding_rate(period), abs=1e-12)
        assert reading.published_at == reading.event_ts + TOLD_WITHIN


async def test_later_looks_read_what_is_new_and_it_is_known_when_it_is_read(open_client: OpenClient) -> None:
    source = rates(open_client(kind="perpetual"))
    newest = {(FUNDING_RATE, symbol): NOW - 2 * EIGHT_HOURS for symbol in SYMBOLS}
    readings = await source.look(newest)
    assert all(reading.published_at is None for reading in readings)
    assert min(reading.event_ts for reading in readings) >= NOW - 2 * EIGHT_HOURS - LOOK_BACK
    assert max(reading.event_ts for reading in readings) > NOW - EIGHT_HOURS


async def test_a_long_history_is_read_page_by_page(open_client: OpenClient) -> None:
    client = open_client(kind="perpetual")
    start = NOW - (PAGE_ROWS + 500) * EIGHT_HOURS
    history = await funding_history(client, "BTCUSDT", start, NOW)
    assert len(history) == PAGE_ROWS + 500
    assert {later.ts - rate.ts for rate, later in pairwise(history)} == {EIGHT_HOURS}


async def test_an_exchange_without_funding_is_disabled(open_client: OpenClient) -> None:
    client = open_client(kind="perpetual")
    client._wire.has["fetchFundingRateHistory"] = False
    assert (await rates(client).status()).reason == "binance tells no funding rates."


# DEX.


@pytest.fixture
def dex() -> Iterator[dex_server.FakeDex]:
    with dex_server.FakeDex() as running:
        yield running


def spread(
    server: dex_server.FakeDex, exchange: ExchangeClient, symbols: tuple[str, ...] = SYMBOLS
) -> DexSpread:
    client = DexClient(server.url, dex_server.KEY, SystemClock(), timeout_s=1.0)
    return DexSpread(client, exchange, symbols, every_s=60.0)


async def test_the_spread_is_between_the_quote_and_the_exchanges_mid_price(
    dex: dex_server.FakeDex, client: ExchangeClient, ending: AsyncExitStack
) -> None:
    # The exchange's mid is 100.005; a quote of 101 whole tokens for one, in each token's smallest units.
    readings = {}
    for symbol in ("BTCUSDT", "ETHUSDT"):
        dex.rate = Fraction(101 * 10**6, 10 ** PAIRS[symbol].base.decimals)
        one = spread(dex, client, (symbol,))
        ending.push_async_callback(one._dex.close)
        (readings[symbol],) = await one.look({})
    assert [reading.value for reading in readings.values()] == pytest.approx([101 / 100.005 - 1] * 2)
    assert {asked.query["chainId"] for asked in dex.asked} == {"1"}


async def test_symbols_that_no_chain_knows_disable_the_source(
    dex: dex_server.FakeDex, client: ExchangeClient, ending: AsyncExitStack
) -> None:
    source = spread(dex, client, ("ADAUSDT",))
    ending.push_async_callback(source.close)
    assert (await source.status()).reason == "none of the symbols is known on a chain: BTCUSDT, ETHUSDT are."


async def test_a_fault_of_either_side_is_no_spread(
    dex: dex_server.FakeDex, exchange: FakeExchange, client: ExchangeClient, ending: AsyncExitStack
) -> None:
    source = spread(dex, client)
    ending.push_async_callback(source.close)
    dex.fault = "wrong shape"
    with pytest.raises(SourceError):
        await source.look({})
    dex.fault, exchange.fault = None, "500"
    with pytest.raises(SourceUnavailable):
        await source.look({})


# NFT.


async def test_the_floor_is_the_whole_markets_and_unknown_while_nothing_is_listed(
    ending: AsyncExitStack,
) -> None:
    with nft_server.FakeReservoir() as server:
        clock = ManualClock(NOW)
        source = NftFloor(NftClient(server.url, nft_server.KEY, clock), nft_server.APES, every_s=600.0)
        ending.push_async_callback(source.close)
        (reading,) = await source.look({})
        assert (reading.symbol, reading.value, reading.event_ts) == (None, 11.85, NOW)
        server.floor = None
        assert [reading.value for reading in await source.look({})] == [None]
        server.floor, server.currency = 11.85, "APE"
        with pytest.raises(SourceError, match="is in APE, not in ETH"):
            await source.look({})
        await ending.aclose()


# News.


@pytest.fixture
def openai() -> Iterator[news_server.FakeOpenAI]:
    with news_server.FakeOpenAI() as running:
        yield running


@pytest.fixture
def feed() -> Iterator[FakeFeed]:
    with FakeFeed(["Bitcoin rises", "Ether falls"]) as running:
        yield running


@pytest.fixture
async def tone(
    openai: news_server.FakeOpenAI, feed: FakeFeed, metrics: Metrics, ending: AsyncExitStack
) -> NewsTone:
    clock = SystemClock()
    source = NewsTone(
        HeadlineFeed(f"{feed.url}/rss", clock, metrics=metrics, timeout_s=1.0),
        NewsClient(
            openai.url,
            news_server.KEY,
            "gpt-4o-mini",
            1.0,
            SYMBOLS,
            MemorySpending(),
            clock,
            metrics=metrics,
            timeout_s=1.0,
        ),
        Cache("ratings", None, codec=RATING_CODEC, l1_ttl_s=1e5, l2_ttl_s=1e5, grace_s=0.0, metrics=metrics),
        SYMBOLS,
        every_s=900.0,
    )
    ending.push_async_callback(source.close)
    return source


async def test_each_headline_is_paid_for_once(
    tone: NewsTone, openai: news_server.FakeOpenAI, feed: FakeFeed
) -> None:
    first = await tone.look({})
    # The stand-in finds each headline good, and of bitcoin alone.
    assert {reading.symbol: reading.value for reading in first} == {
        "BTCUSDT": 0.5,
        "ETHUSDT": None,
        "DOGEUSDT": None,
    }
    assert {reading.event_ts for reading in first} == {FIRST}
    assert len(openai.asked) == 2
    assert await tone.look({}) == first
    assert len(openai.asked) == 2
    feed.headlines = ["A new one", *feed.headlines]
    await tone.look({})
    assert len(openai.asked) == 3


async def test_a_look_that_broke_off_asks_for_the_rest_only(
    tone: NewsTone, openai: news_server.FakeOpenAI, feed: FakeFeed
) -> None:
    await tone.look({})
    feed.headlines = ["A new one", *feed.headlines]
    openai.content = "{}"
    with pytest.raises(SourceError, match="outside the schema"):
        await tone.look({})
    openai.content = None
    assert await tone.look({})
    assert len(openai.asked) == 2 + 2


def test_a_symbol_hears_what_names_it_or_none_by_relevance() -> None:
    ratings = [
        HeadlineSentiment("a", 1.0, 0.5, ("BTCUSDT",)),
        HeadlineSentiment("b", -1.0, 1.0, ()),
        HeadlineSentiment("c", 0.5, 1.0, ("ETHUSDT",)),
        HeadlineSentiment("d", 0.9, 0.0, ("DOGEUSDT",)),
    ]
    assert tone_of("BTCUSDT", ratings) == pytest.approx(-0.5 / 1.5)
    assert tone_of("ETHUSDT", ratings) == pytest.approx(-0.25)
    assert tone_of("DOGEUSDT", ratings[3:]) is None
    assert tone_of("ADAUSDT", []) is None


def test_a_rating_survives_the_cache() -> None:
    rating = HeadlineSentiment("a", -0.25, 1.0, ("BTCUSDT",))
    assert RATING_CODEC.decode(RATING_CODEC.encode(rating)) == rating
