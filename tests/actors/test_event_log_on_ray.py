"""The event log as a real actor: read from another process, killed and frozen."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors import event_log
from actors.processes import Processes
from levibot.errors import StoreUnavailable, UsageError
from levibot.settings import Settings
from levibot.stores.events import Event, EventQuery
from levibot.telemetry.exposition import exposition

pytestmark = [pytest.mark.ray, pytest.mark.stores]

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
WRITTEN = [Event("bars", "BTCUSDT", NOON - timedelta(seconds=i), {"n": i}) for i in range(20)]


@pytest.fixture(scope="module")
def actor(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    home: Path = tmp_path_factory.mktemp("home")
    settings = Settings.load(
        home=home, redis_url="redis://not.used/0", postgres_dsn="postgresql://not.used/x"
    )
    actor = event_log.start(settings)
    assert ray.get(actor.append.remote(WRITTEN), timeout=60) == len(WRITTEN)
    return actor


def process_of_the_log() -> psutil.Process:
    """The one that this test's own cluster runs."""
    (found,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if "ray::EventLog" in " ".join(process.cmdline())
    )
    return found


async def test_the_log_is_read_from_another_process_page_by_page(actor: Any) -> None:
    reader = event_log.Reader("test")
    first = await reader.page(EventQuery(15, "bars"))
    rest = await reader.page(EventQuery(15, "bars", after=first.next_cursor))
    assert [*first.events, *rest.events] == WRITTEN
    assert rest.next_cursor is None


async def test_what_the_log_refuses_is_an_answer_and_not_a_failure_of_the_call(actor: Any) -> None:
    client = event_log.Client("test-refused")
    with pytest.raises(UsageError, match="without a time zone"):
        await client._guard.call(client._send, [Event("x", "", NOON.replace(tzinfo=None), {})])
    assert client._guard.state == "closed"


async def test_the_profile_of_each_process_is_collected_and_the_silent_are_named(actor: Any) -> None:
    said = {one.process: one for one in await Processes("test").ask("slow_queries")}
    assert set(said) == {
        "event_log",
        "market_feed",
        "online_features",
        "feature_history",
        "dead_letter_replayer",
        "feature_monitor",
        "outside_data",
        "shadow_ledger",
        "ensemble_weights",
        "webhook_intake",
    }
    queries = said["event_log"].answer
    assert {"clickhouse"} == {query["store"] for query in queries}
    assert "append" in {query["query"] for query in queries}
    assert said["market_feed"].answer is None
    assert "market_feed" in said["market_feed"].problem


async def test_the_metrics_of_another_process_are_shown_with_its_name(actor: Any) -> None:
    said = {one.process: one.answer for one in await Processes("metrics-test").ask("metrics")}
    page = exposition({name: its for name, its in said.items() if its is not None}).decode()
    assert re.search(
        r'^levibot_queries_total\{outcome="ok",process="event_log",query="append",store="clickhouse"\} [1-9]',
        page,
        re.MULTILINE,
    )


async def test_a_killed_log_is_back_with_all_that_it_had(actor: Any) -> None:
    reader = event_log.Reader("test-killed")
    await reader.page(EventQuery(1))
    os.kill(process_of_the_log().pid, signal.SIGKILL)
    started = time.monotonic()
    while True:
        try:
            page = await reader.page(EventQuery(100, "bars"))
            break
        except StoreUnavailable:
            assert time.monotonic() - started < 60
            await asyncio.sleep(0.2)
    assert list(page.events) == WRITTEN


async def test_a_frozen_log_is_one_error_in_time_and_soon_at_once(actor: Any) -> None:
    reader = event_log.Reader("test-frozen")
    await reader.page(EventQuery(1))
    process = process_of_the_log()
    process.suspend()
    try:
        with pytest.raises(StoreUnavailable, match="did not answer within"):
            await reader.page(EventQuery(1))
        for _ in range(4):
            with pytest.raises(StoreUnavailable):
                await reader.page(EventQuery(1))
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="circuit"):
            await reader.page(EventQuery(1))
        assert time.monotonic() - started < 0.5
    finally:
        process.resume()
