"""The feature history's actor: in this process, and as a real one that is killed in the middle of a pass."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from actors import feature_history
from actors.feature_history import FeatureHistory
from levibot.errors import StoreUnavailable, UsageError
from levibot.features.engine import compute
from levibot.features.served import ServedVector
from levibot.features.views import CORE
from levibot.learning.labels import forward_returns
from levibot.market.bars import Bars, Panel, to_datetime
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.event import EventRow
from levibot.stores.events import EventPage, EventQuery
from levibot.stores.exports import Export
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N, N_LONG = 1450, 20_000
LABEL = "forward_return_8"


async def settings_of(ticks: TickStore, postgres_dsn: str, home: Path, hours: int) -> Settings:
    """A replay that stands `hours` after the market's beginning, and hardly moves."""
    async with ticks._client.connection("which_database") as (db, _):
        database = await db.fetchval("SELECT current_database()")
    return Settings.load(
        home=home,
        postgres_dsn=postgres_dsn.rsplit("/", 1)[0] + f"/{database}",
        redis_url="redis://not.used/0",
        symbols=",".join(SYMBOLS),
        replay_start=MARKET_START + hours * HOUR,
        replay_wall_start=datetime.now(UTC),
        replay_speed=1e-3,
    )


def market(hours: int) -> dict[str, Bars]:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    return {s: source.bars(s, MARKET_START, MARKET_START + hours * HOUR) for s in SYMBOLS}


class Served:
    """What the event log answers: these vectors, or nothing at all."""

    def __init__(self, vectors: list[ServedVector] | None) -> None:
        self.vectors = vectors

    async def page(self, query: EventQuery) -> EventPage:
        if self.vectors is None:
            raise StoreUnavailable("The event log is away.")
        events = (vector.to_event() for vector in self.vectors)
        shown = (e for e in events if query.since is None or e.ts >= query.since)
        return EventPage(tuple(EventRow.of(e) for e in shown), None)


@pytest.fixture
async def actor(
    tick_store: TickStore, postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FeatureHistory]:
    settings = await settings_of(tick_store, postgres_dsn, tmp_path, N)
    await tick_store.write_many(settings.market_id, market(N).values())
    monkeypatch.setattr(feature_history.event_log, "Reader", lambda name: Served(None))
    actor = FeatureHistory(settings)
    yield actor
    await actor.close()


async def loaded(actor: FeatureHistory) -> dict[str, Any]:
    """The status after the first pass."""
    async with asyncio.timeout(60):
        while True:
            status = await actor.status()
            if status["up_to"] is not None or status["problem"]:
                return status
            await asyncio.sleep(0.05)


async def test_the_history_follows_the_tick_store_and_answers(actor: FeatureHistory) -> None:
    status = await loaded(actor)
    assert status["up_to"] == (MARKET_START + N * HOUR).isoformat()
    assert status["problem"] == ""
    now = actor._clock.now()
    newest = await actor.get_features_at("core", list(SYMBOLS), now)
    expected = compute(CORE, Panel.align(market(N)))[-1]
    np.testing.assert_allclose(newest.values, expected, rtol=1e-6, atol=1e-12)
    training = await actor.get_training_set("core", LABEL, MARKET_START, now, now)
    assert len(training) > 100
    with pytest.raises(UsageError, match="no feature view 'other'"):
        await actor.get_features_at("other", list(SYMBOLS), now)
    assert {cost["store"] for cost in await actor.slow_queries()} >= {"duckdb"}


async def test_an_export_is_written_once_for_one_question(actor: FeatureHistory) -> None:
    await loaded(actor)
    as_of = actor._clock.now()
    folder = await actor.export(as_of=as_of)
    assert await actor.export(as_of=as_of) == folder
    with pytest.raises(UsageError, match=r"end is .*, without a time zone"):
        await actor.export(end=as_of.replace(tzinfo=None))
    export = Export(Path(folder))
    export.check()
    panel = Panel.align(export.bars())
    np.testing.assert_allclose(
        export.grid(CORE, (), panel.closes_at).features,
        compute(CORE, Panel.align(market(N))),
        rtol=1e-6,
        atol=1e-12,
    )


async def test_a_history_is_declared_known_at_its_close_only_when_asked(actor: FeatureHistory) -> None:
    await loaded(actor)
    early = MARKET_START + 1000 * HOUR
    assert np.isnat((await actor.get_features_at("core", list(SYMBOLS), early)).event_ts).all()
    assert await actor.assume_available_at_close() > 0
    then = await actor.get_features_at("core", list(SYMBOLS), early)
    assert [at.replace(tzinfo=UTC) for at in then.event_ts.tolist()] == [early, early]


async def test_each_pass_checks_parity_and_a_skew_is_told(actor: FeatureHistory) -> None:
    assert (await loaded(actor))["parity"] is None  # the log is away, and nothing else waits for it
    panel = Panel.align(market(N))
    row = compute(CORE, panel)[-1, 0]
    at = to_datetime(panel.closes_at[-1])
    values = dict(zip(CORE.names, map(float, row), strict=True))
    vector = ServedVector(
        "BTCUSDT", actor._settings.market_id, "core", CORE.version, at, actor._clock.now(), values
    )
    actor._events = Served([vector])  # type: ignore[assignment]
    await actor.load_from_the_start()
    assert (await actor.status())["parity"] == {"n": len(CORE.names), "differ": 0}
    actor._events = Served([replace(vector, values={**values, "return_1": 1e6})])  # type: ignore[assignment]
    await actor.load_from_the_start()
    assert (await actor.status())["parity"]["differ"] == 1
    text = "\n".join(f"{family.name}" for family in await actor.metrics())
    assert "levibot_feature_parity_differences" in text


def processes_of_the_history() -> list[psutil.Process]:
    """Those that this test's own cluster runs."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "ray::FeatureHistory" in " ".join(process.cmdline())
    ]


@pytest.mark.ray
async def test_a_history_that_is_killed_midway_goes_on_and_becomes_the_same(
    cluster: None, tick_store: TickStore, postgres_dsn: str, tmp_path: Path
) -> None:
    settings = await settings_of(tick_store, postgres_dsn, tmp_path, N_LONG)
    bars = market(N_LONG)
    await tick_store.write_many(settings.market_id, bars.values())
    actor: Any = feature_history.start(settings)
    history = tmp_path / "history"
    await until(lambda: len(list(history.rglob("*.arrow"))) >= 6)
    (process,) = processes_of_the_history()
    os.kill(process.pid, signal.SIGKILL)
    n_before = len(list(history.rglob("*.arrow")))

    started = time.monotonic()
    while True:
        try:
            status = await actor.status.remote()
            if status["up_to"] is not None:
                break
        except ray.exceptions.RayError:
            pass
        assert time.monotonic() - started < 120, status
        await asyncio.sleep(0.2)
    assert len(list(history.rglob("*.arrow"))) > n_before > 0
    assert status["up_to"] == (MARKET_START + N_LONG * HOUR).isoformat()
    # What was loaded before the kill was not loaded again.
    assert status["rows_added"] < 2 * N_LONG * 3

    now = settings.clock().now()
    training = await actor.get_training_set.remote("core", LABEL, MARKET_START, now, now)
    panel = Panel.align(bars)
    features = compute(CORE, panel)
    labels = forward_returns(panel, features[:, :, CORE.index("vol_slow")], 8)
    for number, symbol in enumerate(training.symbols):
        mine = training.symbol == number
        rows = np.searchsorted(panel.closes_at, training.event_ts[mine])
        np.testing.assert_array_equal(panel.closes_at[rows], training.event_ts[mine])
        # None is missing, and none is there twice.
        np.testing.assert_array_equal(rows, np.flatnonzero(np.isfinite(labels.values[:, number])))
        expected = features[rows, SYMBOLS.index(symbol)]
        np.testing.assert_allclose(training.features[mine], expected, rtol=1e-6, atol=1e-10)
    await actor.close.remote()
    ray.kill(actor)


async def until(is_so: Any, timeout_s: float = 60.0) -> None:
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < timeout_s
        await asyncio.sleep(0.01)
