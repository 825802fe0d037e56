"""The actors of the live features as real processes, killed while they work and are read from."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from actors import NAMESPACE, online_features
from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.connect import open_online
from levibot.stores.online import FeatureReading, Freshness, OnlineStore
from levibot.stores.packed import microseconds
from levibot.stores.ticks import TickStore

pytestmark = [pytest.mark.ray, pytest.mark.stores]

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT")
# A bar every half second: fresh is a second, which a killed actor needs longer for than that.
BARS_PER_S = 2.0
FRESH = 2 * HOUR
BEGIN = MARKET_START + 500 * HOUR
N_BARS = 1200


@dataclass
class Seen:
    """What a reader saw that must not be, and how often it saw what may be."""

    wrong: list[str] = field(default_factory=list)
    n_of: dict[Freshness, int] = field(default_factory=lambda: dict.fromkeys(Freshness, 0))


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    end = MARKET_START + N_BARS * HOUR
    return Panel.align({symbol: source.bars(symbol, MARKET_START, end) for symbol in SYMBOLS})


@pytest.fixture(scope="module")
def batch(panel: Panel) -> FloatArray:
    """(T, S, F): what every vector must be."""
    return compute(CORE, panel)


@pytest.fixture
async def settings(
    cluster: None, tick_store: TickStore, postgres_dsn: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Settings]:
    """A market whose bars are all stored, and whose clock lets the actor see one after the other."""
    database = await _database_of(tick_store)
    settings = Settings.load(
        home=tmp_path,
        redis_url=redis_url,
        postgres_dsn=f"{postgres_dsn.rsplit('/', 1)[0]}/{database}",
        symbols=SYMBOLS,
        replay_start=BEGIN,
        replay_wall_start=datetime.now(UTC) + timedelta(seconds=3),
        replay_speed=BARS_PER_S,
        feature_shards=2,
    )
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    end = MARKET_START + N_BARS * HOUR
    await tick_store.write_many(
        settings.market_id, [source.bars(symbol, MARKET_START, end) for symbol in SYMBOLS]
    )
    yield settings
    for name in ("online_features", "feature_shard_1"):
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)


async def test_killed_under_load_the_actors_serve_nothing_wrong_and_nothing_stale_as_fresh(
    settings: Settings, panel: Panel, batch: FloatArray
) -> None:
    online_features.start(settings)
    online = open_online(settings, CORE)
    try:
        await _until_fresh(online, 60.0)
        seen, ending = Seen(), asyncio.Event()
        readers = [
            asyncio.create_task(_read_on(settings, online, panel, batch, seen, ending)) for _ in range(3)
        ]
        for victim in ("ray::OnlineFeatures", "ray::FeatureShard", "ray::OnlineFeatures"):
            fresh_before = seen.n_of[Freshness.FRESH]
            process_of(victim).send_signal(signal.SIGKILL)
            stale_before = seen.n_of[Freshness.STALE]
            await _until(lambda at=stale_before: seen.n_of[Freshness.STALE] > at, 30.0, "a stale vector")
            await _until_fresh(online, 60.0)
            await _until(lambda at=fresh_before: seen.n_of[Freshness.FRESH] > at, 30.0, "a fresh vector")
        ending.set()
        await asyncio.gather(*readers)
    finally:
        await online.close()
    assert seen.wrong == []


async def test_the_actor_tells_how_old_its_features_are_and_which_must_be_there(settings: Settings) -> None:
    actor = online_features.start(settings)
    online = open_online(settings, CORE)
    try:
        await _until_fresh(online, 60.0)
    finally:
        await online.close()
    expected, problem = await online_features.Reader("test").expected()
    assert (set(expected), problem) == (set(SYMBOLS), "")
    families = {family.name: family for family in await actor.metrics.remote()}
    samples = families["levibot_feature_staleness_seconds"].samples
    ages = {labels["symbol"]: age_s for _, labels, age_s in samples}
    ((_, _, limit_s),) = families["levibot_feature_staleness_limit_seconds"].samples
    # A bar, and five minutes of a clock that runs 7,200 times as fast as the machine's.
    assert limit_s == 3600 + 300 * 7200
    assert set(ages) == set(SYMBOLS)
    assert all(0.0 <= age_s <= FRESH.total_seconds() for age_s in ages.values())


def test_the_check_itself_finds_what_is_wrong(panel: Panel, batch: FloatArray) -> None:
    closes = [to_datetime(close) for close in panel.closes_at]
    row_of = {close: row for row, close in enumerate(closes)}
    rows = batch[595:601, 0]
    event_us = microseconds(closes[600])
    fresh = Freshness.FRESH, 0.0
    right = FeatureReading("BTCUSDT", *fresh, rows, {}, event_us, fresh, {})
    assert _wrong(right, closes[600], row_of, batch[:, 0]) == []
    assert "called fresh" in _wrong(right, closes[603], row_of, batch[:, 0])[0]
    for rows in (batch[594:600, 0], batch[595:601, 1]):
        assert (
            "not what history says" in _wrong(right._replace(rows=rows), closes[600], row_of, batch[:, 0])[0]
        )


async def _read_on(
    settings: Settings,
    online: OnlineStore,
    panel: Panel,
    batch: FloatArray,
    seen: Seen,
    ending: asyncio.Event,
) -> None:
    """Read as a replica does, and hold every answer against the whole of history."""
    clock = settings.clock()
    row_of = {to_datetime(close): row for row, close in enumerate(panel.closes_at)}
    while not ending.is_set():
        before = clock.now()
        many, windows = await online.get_many(SYMBOLS), await online.get_windows(SYMBOLS)
        for readings in (many, windows):
            for column, symbol in enumerate(SYMBOLS):
                reading = readings[symbol]
                seen.n_of[reading.freshness] += 1
                seen.wrong += _wrong(reading, before, row_of, batch[:, column])
        await asyncio.sleep(0.01)


def _wrong(
    reading: FeatureReading, before: datetime, row_of: dict[datetime, int], history: FloatArray
) -> list[str]:
    """What is not so in a reading that was asked for at `before`. history: (T, F) of its symbol."""
    if reading.event_time is None or reading.rows is None:
        return []
    problems = []
    age = before - reading.event_time
    if age > FRESH and reading.freshness is Freshness.FRESH:
        problems.append(f"{reading.symbol} is {age} old and called fresh.")
    row = row_of[reading.event_time]
    expected = history[row - len(reading.rows) + 1 : row + 1]
    if not np.allclose(reading.rows, expected, rtol=1e-6, atol=1e-9, equal_nan=True):
        problems.append(f"{reading.symbol} at {reading.event_time} is not what history says.")
    return problems


async def _until_fresh(online: OnlineStore, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if {r.freshness for r in (await online.get_many(SYMBOLS)).values()} == {Freshness.FRESH}:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"no fresh cross-section within {timeout_s:.0f} s")


async def _until(holds: Any, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not seen within {timeout_s:.0f} s: {what}"
        await asyncio.sleep(0.02)


async def _database_of(tick_store: TickStore) -> str:
    async with tick_store._client.connection("the test's database") as (db, _):
        name: str = await db.fetchval("SELECT current_database()")
    return name


def process_of(title: str) -> psutil.Process:
    """The one that this test's own cluster runs."""
    (found,) = (
        process
        for process in psutil.Process(os.getpid()).children(recursive=True)
        if title in " ".join(process.cmdline())
    )
    return found
