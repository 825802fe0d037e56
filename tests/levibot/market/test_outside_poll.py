"""The poll: each source by itself, under every fault, into a real store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from levibot.clock import ManualClock
from levibot.errors import StoreUnavailable
from levibot.market.bars import to_datetime64
from levibot.market.budget import MemorySpending
from levibot.market.headlines import HeadlineFeed
from levibot.market.intake import Intake
from levibot.market.news import NewsClient
from levibot.market.news_tone import RATING_CODEC, NewsTone
from levibot.market.nft import NftClient
from levibot.market.nft_floor import NftFloor
from levibot.market.outside_poll import LONGEST_WAIT_S, STORE_TIMEOUT_S, STORED_WITHIN, OutsidePoll
from levibot.market.outside_source import OutsideSource
from levibot.market.side_series import LONGEST_AGE, NEWS_SENTIMENT, NFT_FLOOR
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.guard import Guard
from levibot.stores.cache import Cache
from levibot.stores.redis import open_redis
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import Metrics
from tests.fakes.feed_server import FakeFeed
from tests.fakes.loopback_server import Fault
from tests.fakes.news_server import KEY as NEWS_KEY
from tests.fakes.news_server import FakeOpenAI
from tests.fakes.nft_server import APES, FakeReservoir
from tests.fakes.nft_server import KEY as NFT_KEY

pytestmark = pytest.mark.stores

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERY_S = 600.0


@dataclass
class Bench:
    """Two sources with their servers, polled into one store on a clock that a test moves."""

    store: TickStore
    clock: ManualClock
    nft: FakeReservoir
    openai: FakeOpenAI
    feed: FakeFeed
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    closing: list[Callable[[], Any]] = field(default_factory=list)

    def poll(self, source: OutsideSource) -> OutsidePoll:
        self.closing.append(source.close)
        guard = Guard(
            "test", timeout_s=STORE_TIMEOUT_S, attempts=1, transient=(StoreUnavailable,), metrics=self.metrics
        )
        intake = Intake(self.store, "m", metrics=self.metrics)
        tell = lambda kind, payload: self.told.append((kind, payload))  # noqa: E731
        return OutsidePoll(source, intake, guard, self.clock, tell, metrics=self.metrics)

    def floor(self, key: str | None = NFT_KEY) -> OutsidePoll:
        client = NftClient(self.nft.url, key, self.clock, timeout_s=0.2, reset_s=0.1, metrics=self.metrics)
        return self.poll(NftFloor(client, APES, every_s=EVERY_S))

    def tone(self, budget_usd: float = 1.0) -> OutsidePoll:
        options: dict[str, Any] = {"timeout_s": 1.0, "reset_s": 0.1, "metrics": self.metrics}
        client = NewsClient(
            self.openai.url,
            NEWS_KEY,
            "gpt-4o-mini",
            budget_usd,
            ("BTCUSDT",),
            MemorySpending(),
            self.clock,
            **options,
        )
        ratings = Cache(
            "ratings", None, codec=RATING_CODEC, l1_ttl_s=1e5, l2_ttl_s=1e5, grace_s=0.0, metrics=self.metrics
        )
        feed = HeadlineFeed(f"{self.feed.url}/rss", self.clock, **options)
        return self.poll(NewsTone(feed, client, ratings, ("BTCUSDT",), every_s=EVERY_S))

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"levibot_{name}", labels)

    async def seen(self, name: str = NFT_FLOOR) -> float:
        """What a row that closes now shows of BTCUSDT."""
        series = await self.store.observations.read("m", [name], ["BTCUSDT"], as_of=self.clock.now())
        now = np.array([to_datetime64(self.clock.now())])
        values = [one.at(now, LONGEST_AGE[name])[0] for one in series]
        return float(values[0]) if values else np.nan


@pytest.fixture
async def bench(tick_store: TickStore) -> AsyncIterator[Bench]:
    with ExitStack() as running:
        servers: list[Any] = [running.enter_context(make()) for make in (FakeReservoir, FakeOpenAI, FakeFeed)]
        bench = Bench(tick_store, ManualClock(NOON), *servers)
        bench.feed.newest_at = NOON - timedelta(minutes=3)
        yield bench
        for close in bench.closing:
            await close()


async def test_a_reading_is_stored_accounted_and_told(bench: Bench) -> None:
    poll = bench.floor()
    assert await poll.turn() == EVERY_S
    # It counts from when it is certain to be stored, and not from when it was read.
    assert np.isnan(await bench.seen())
    bench.clock.advance(STORED_WITHIN.total_seconds())
    assert await bench.seen() == 11.85
    assert (poll.status()["state"], poll.status()["n_new"]) == ("working", 1)
    assert bench.gauge("outside_polls_total", source="Reservoir", outcome="ok") == 1
    assert bench.gauge("observations_total", source="Reservoir") == 1
    kinds = [kind for kind, _ in bench.told]
    assert kinds == ["outside_source", "observations"]
    assert bench.told[1][1] == {"source": "Reservoir", "n_new": 1, "n_rejected": 0}


@pytest.mark.parametrize(
    "fault", ["hang", "429", "500", "malformed", "wrong shape", "wrong content", "reset"]
)
async def test_a_source_that_is_away_goes_missing_by_age_and_comes_back(bench: Bench, fault: Fault) -> None:
    poll = bench.floor()
    await poll.turn()
    bench.clock.advance(3600.0)
    bench.nft.fault = fault
    await poll.turn()
    # What was known is still known, and as old as it is.
    assert await bench.seen() == 11.85
    assert (poll.status()["state"], poll.status()["n_new"]) == ("failing", 1)
    assert NFT_KEY not in poll.status()["reason"]
    poll.measure()
    assert bench.gauge("outside_silence_seconds", source="Reservoir") == 3600.0
    limit_s = bench.gauge("outside_silence_limit_seconds", source="Reservoir")
    assert limit_s == poll.silence_limit_s == 3 * EVERY_S
    bench.clock.advance(LONGEST_AGE[NFT_FLOOR].total_seconds())
    assert np.isnan(await bench.seen())
    bench.nft.fault, bench.nft.floor = None, 12.5
    await asyncio.sleep(0.15)
    await poll.turn()
    bench.clock.advance(STORED_WITHIN.total_seconds())
    assert await bench.seen() == 12.5
    poll.measure()
    assert bench.gauge("outside_silence_seconds", source="Reservoir") == STORED_WITHIN.total_seconds()
    # Each change is told once, however many looks fail.
    assert [payload["state"] for kind, payload in bench.told if kind == "outside_source"] == [
        "working",
        "failing",
        "working",
    ]


@pytest.mark.parametrize(
    ("asked_s", "waited_s"), [("1800", 1800.0), ("1", EVERY_S), ("9999999", LONGEST_WAIT_S)]
)
async def test_a_source_that_asks_for_time_gets_it(bench: Bench, asked_s: str, waited_s: float) -> None:
    bench.nft.fault, bench.nft.retry_after = "429", asked_s
    assert await bench.floor().turn() == waited_s


async def test_a_source_that_hangs_holds_no_other_up(bench: Bench) -> None:
    bench.nft.fault = "hang"
    floor, tone = bench.floor(), bench.tone()
    loops = [asyncio.create_task(poll.run()) for poll in (floor, tone)]
    deadline = time.monotonic() + 30.0
    while tone.status()["n_new"] == 0 or floor.status()["state"] != "failing":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    bench.clock.advance(STORED_WITHIN.total_seconds())
    assert await bench.seen(NEWS_SENTIMENT) == 0.5
    assert floor.status()["state"] == "failing"
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def test_without_a_key_nothing_is_asked_and_nothing_is_silent(bench: Bench) -> None:
    poll = bench.floor(key=None)
    await poll.turn()
    poll.measure()
    assert poll.status() | {"answered_at": ""} == {
        "state": "disabled",
        "reason": "LEVIBOT_NFT_KEY is not set.",
        "answered_at": "",
        "n_new": 0,
        "n_rejected": 0,
    }
    assert bench.nft.asked == []
    assert bench.gauge("outside_silence_seconds", source="Reservoir") is None


async def test_a_spent_budget_disables_the_news_until_the_next_day(bench: Bench) -> None:
    bench.feed.headlines = ["one"]
    poll = bench.tone(budget_usd=0.0005)
    await poll.turn()
    assert poll.status()["state"] == "working"
    bench.feed.headlines = [f"headline {n}" for n in range(12)]
    for _ in range(12):
        # Each look rates what the rest of the budget is certain to pay for.
        await poll.turn()
    n_asked = len(bench.openai.asked)
    assert 1 < n_asked < 12
    await poll.turn()
    assert len(bench.openai.asked) == n_asked
    assert poll.status()["state"] == "disabled"
    assert "budget" in poll.status()["reason"]
    bench.clock.advance(86_400.0)
    await poll.turn()
    assert len(bench.openai.asked) > n_asked


async def test_old_news_is_no_news(bench: Bench) -> None:
    poll = bench.tone()
    await poll.turn()
    for _ in range(3):
        bench.clock.advance(8 * 3600.0)
        await poll.turn()
    # The feed stands still: the tone of its newest headline is as old as that headline.
    assert (poll.status()["state"], poll.status()["n_new"]) == ("working", 1)
    assert np.isnan(await bench.seen(NEWS_SENTIMENT))


async def test_garbage_that_reads_well_goes_to_quarantine(bench: Bench) -> None:
    bench.nft.floor = 1e12
    poll = bench.floor()
    await poll.turn()
    assert (poll.status()["n_new"], poll.status()["n_rejected"]) == (0, 1)
    (kept,) = await bench.store.quarantine.read("m")
    assert (kept.refused.reason, kept.refused.row["source"]) == ("too_small_or_large", "Reservoir")


async def test_a_store_that_is_away_ends_a_look_and_not_the_loop(bench: Bench) -> None:
    poll = bench.floor()
    await poll.turn()
    await bench.store.close()
    await poll.turn()
    assert poll.status()["state"] == "failing"


async def test_processes_tell_each_other_that_a_source_is_away(bench: Bench, redis_url: str) -> None:
    redis = [open_redis(redis_url, timeout_s=2.0) for _ in range(2)]
    async with CircuitBoard(redis[0]) as one, CircuitBoard(redis[1]) as other:
        options: dict[str, Any] = {"timeout_s": 0.2, "reset_s": 5.0, "metrics": bench.metrics}
        polls = [
            bench.poll(
                NftFloor(
                    NftClient(bench.nft.url, NFT_KEY, bench.clock, shared=board, **options),
                    APES,
                    every_s=EVERY_S,
                )
            )
            for board in (one, other)
        ]
        bench.nft.fault = "500"
        for _ in range(2):
            await polls[0].turn()
        n_asked = len(bench.nft.asked)
        deadline = time.monotonic() + 10.0
        while "circuit" not in polls[1].status()["reason"]:
            # Until the news is there, a look of the other meets the fault itself.
            assert time.monotonic() < deadline
            await asyncio.sleep(0.6)
            await polls[1].turn()
        # It learned of it before its own failures were enough: five open a circuit.
        assert len(bench.nft.asked) - n_asked < 5
    for client in redis:
        await client.aclose()
