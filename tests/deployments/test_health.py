"""Health waits for nobody: real servers frozen, dependencies that hang, and what is said of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deployments.api import Api
from deployments.health_routes import overall
from deployments.http import build_http
from levibot.errors import StoreUnavailable
from levibot.monitoring.health import LONGEST_AGE_S, Health, HealthWatch, State
from levibot.resilience.dependencies import DEPENDENCIES
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from tests.fakes.face import FakeFace

NAMES = [one.name for one in DEPENDENCIES]
CRITICAL = next(one.name for one in DEPENDENCIES if one.is_critical)
# What an answer may take; here with room for a busy machine on top of the 0.1 s that /readyz waits.
AT_ONCE_S = 0.2


def healths(**states: State) -> list[Health]:
    return [Health(one, states.get(one.name, State.UP), 1.0, 0.1, "closed") for one in DEPENDENCIES]


@pytest.mark.parametrize(
    ("states", "status", "code"),
    [
        ({}, "ok", 200),
        ({"postgres": State.DOWN}, "degraded", 200),
        ({"redis_cache": State.DOWN, "redis_durable": State.DOWN}, "degraded", 200),
        ({"clickhouse": State.DOWN}, "degraded", 200),
        ({CRITICAL: State.UNKNOWN}, "degraded", 200),
        ({CRITICAL: State.DOWN}, "down", 503),
    ],
)
async def test_health_is_down_only_where_something_critical_is(
    tmp_path: Path, states: dict[str, State], status: str, code: int
) -> None:
    face = FakeFace(tmp_path)
    face.states = healths(**states)
    transport = httpx.ASGITransport(build_http(face))
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()["status"], overall(face.states)) == (code, status, status)
    assert ("retry-after" in answer.headers) is (code == 503)
    shown = {one["name"]: one for one in answer.json()["dependencies"]}
    assert list(shown) == NAMES
    for name, state in states.items():
        assert shown[name]["state"] == state
    assert set(shown["postgres"]) == {
        *("name", "is_critical", "state", "latency_ms", "age_s", "circuit", "fallback")
    }


async def test_a_dependency_that_hangs_is_down_and_delays_no_other() -> None:
    async def hangs() -> str:
        await asyncio.sleep(3600)
        return ""

    async def fails() -> str:
        raise StoreUnavailable("It is away.")

    async def ails() -> str:
        return "It has no disk."

    async def breaks() -> str:
        raise ZeroDivisionError

    async def answers() -> str:
        return ""

    probes = dict.fromkeys(NAMES, answers) | {"postgres": hangs, "redis_cache": fails}
    probes |= {"clickhouse": ails, "models": breaks}
    watch = HealthWatch(probes, {"router": lambda: "half-opened"}, every_s=0.02, timeout_s=0.05)
    assert {one.state for one in watch.report()} == {State.UNKNOWN}
    watching = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(20):
            while True:
                found = {one.dependency.name: one for one in watch.report()}
                is_known = all(one.state is not State.UNKNOWN for one in found.values())
                if is_known and found["postgres"].circuit == "opened":
                    break
                await asyncio.sleep(0.02)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    down = {name for name, one in found.items() if one.state is State.DOWN}
    assert down == {"postgres", "redis_cache", "clickhouse", "models"}
    assert found["postgres"].latency_ms is None
    assert found["event_log"].latency_ms is not None
    assert (found["router"].circuit, found["event_log"].circuit) == ("half-opened", "closed")


async def test_an_old_look_says_nothing_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers() -> str:
        return ""

    watch = HealthWatch({"models": answers}, {})
    await watch.look("models")
    found = {one.dependency.name: one for one in watch.report()}["models"]
    assert found.state is State.UP
    watch._looks["models"] = replace(watch._looks["models"], ended_at=time.monotonic() - LONGEST_AGE_S - 1)
    found = {one.dependency.name: one for one in watch.report()}["models"]
    assert found.state is State.UNKNOWN
    assert found.age_s is not None
    assert found.age_s > LONGEST_AGE_S


class Hanging:
    """Stands in for the handle of a router that answers nobody."""

    def __getattr__(self, name: str) -> Hanging:
        return self

    async def remote(self, *_: Any) -> None:
        await asyncio.sleep(3600)


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """Servers of this test's own, which it freezes."""
    running = EmbeddedServers(Settings(home=tmp_path))
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def api(
    servers: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Api]:
    settings = Settings(
        home=tmp_path, replay_start=datetime(2024, 5, 1, tzinfo=UTC), replay_wall_start=datetime.now(UTC)
    )
    for name, text in settings.environment().items():
        monkeypatch.setenv(name, text)
    api = Api(Hanging(), Hanging())  # type: ignore[arg-type]
    yield api
    await api._online.close()


async def slowest_s(client: httpx.AsyncClient, paths: tuple[str, ...], n: int = 3) -> float:
    slowest = 0.0
    for _ in range(n):
        for path in paths:
            started = time.perf_counter()
            answer = await client.get(path)
            slowest = max(slowest, time.perf_counter() - started)
            assert answer.status_code in (200, 503)
    return slowest


@pytest.mark.stores
async def test_with_every_dependency_frozen_health_answers_at_once(
    api: Api, servers: EmbeddedServers
) -> None:
    transport = httpx.ASGITransport(build_http(api))
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client, api.running():

        async def stores_are(state: str) -> None:
            async with asyncio.timeout(30):
                while True:
                    answer = (await client.get("/healthz")).json()
                    found = {one["name"]: one["state"] for one in answer["dependencies"]}
                    if {found[name] for name in ("redis_cache", "redis_durable", "postgres")} == {state}:
                        return
                    await asyncio.sleep(0.1)

        await stores_are("up")
        # Now, since PostgreSQL has a process for each connection: the probe's own too.
        pids = [
            child.pid
            for child in psutil.Process().children(recursive=True)
            if any(name in child.name() for name in ("valkey", "redis", "postgres"))
        ]
        assert len(pids) >= 3
        paths = ("/livez", "/readyz", "/healthz")
        with frozen(pids):
            assert await slowest_s(client, paths) < AT_ONCE_S
            await stores_are("down")
            assert await slowest_s(client, paths) < AT_ONCE_S
            assert (await client.get("/readyz")).json()["ready"] is False
        await stores_are("up")
