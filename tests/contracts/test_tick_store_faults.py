"""The tick store when its server is silent, dead or not willing."""

from __future__ import annotations

import asyncio
import signal
import socket
from datetime import timedelta

import numpy as np
import psutil
import pytest

from levibot.errors import StoreError, StoreUnavailable
from levibot.market.bars import Bars
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)


def bars(symbol: str, n: int) -> Bars:
    """`n` hourly bars, each with a close of its own."""
    close = 100.0 + np.arange(n)
    ts = np.datetime64("2024-01-01", "us") + np.arange(n) * np.timedelta64(HOUR)
    return Bars(symbol, HOUR, ts, close, close, close, close, close)


def assert_equal(left: Bars, right: Bars) -> None:
    np.testing.assert_array_equal(left.ts, right.ts)
    np.testing.assert_array_equal(left.close, right.close)


async def test_a_refused_port_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can get it
        port = taken.getsockname()[1]
        with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{port}"):
            await TickStore.open(f"postgresql://u:secret@127.0.0.1:{port}/x")


async def test_a_refused_password_is_an_answer_that_tells_no_secret(postgres_dsn: str) -> None:
    wrong = postgres_dsn.split("://")[0] + "://levibot:hushhush@" + postgres_dsn.rsplit("@", 1)[1]
    with pytest.raises(StoreError, match="28P01") as refusal:
        await TickStore.open(wrong)
    assert not isinstance(refusal.value, StoreUnavailable)
    assert "hushhush" not in str(refusal.value)


async def test_a_store_without_tables_is_an_error(database_dsn: str) -> None:
    store = await TickStore.open(database_dsn)
    with pytest.raises(StoreError, match="42P01"):
        await store.read_bars("m", "A", HOUR)
    await store.close()


async def test_a_silent_server_is_unavailable_in_time(own_postgres: tuple[EmbeddedServers, str]) -> None:
    servers, dsn = own_postgres
    store = await TickStore.open(dsn, timeout_s=0.5)
    await store.migrate()
    written = bars("A", 30_000)
    await store.write_bars("m", written)
    family = server_family(servers)
    for process in family:
        process.send_signal(signal.SIGSTOP)
    try:
        calls = [
            store.ping(),
            store.read_bars("m", "A", HOUR),
            store.read_tail("m", ["A"], HOUR, 5),
            store.last_ts("m", ["A"], HOUR),
            store.write_bars("m", bars("B", 5)),
            TickStore.open(dsn, timeout_s=0.5),
        ]
        # The bound is a multiple of the timeout only so that a busy machine cannot fail the test.
        async with asyncio.timeout(5.0):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * len(calls)
    finally:
        for process in family:
            process.send_signal(signal.SIGCONT)
    assert_equal(await eventually_read(store, "A"), written)
    await store.close()


async def test_a_silent_server_does_not_hold_up_the_close(own_postgres: tuple[EmbeddedServers, str]) -> None:
    servers, dsn = own_postgres
    store = await TickStore.open(dsn, timeout_s=0.5)
    family = server_family(servers)
    for process in family:
        process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(5.0):
            await store.close()
    finally:
        for process in family:
            process.send_signal(signal.SIGCONT)


async def test_a_store_outlives_its_server(own_postgres: tuple[EmbeddedServers, str]) -> None:
    servers, dsn = own_postgres
    store = await TickStore.open(dsn)
    await store.migrate()
    written = bars("A", 100)
    await store.write_bars("m", written)
    server = psutil.Process(servers.pids()["postgres"])
    server.kill()
    server.wait(5)
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await store.ping()
    assert servers.restart_dead() == ["postgres"]
    assert_equal(await eventually_read(store, "A"), written)
    await store.close()


def server_family(servers: EmbeddedServers) -> list[psutil.Process]:
    server = psutil.Process(servers.pids()["postgres"])
    return [server, *server.children(recursive=True)]


async def eventually_read(store: TickStore, symbol: str) -> Bars:
    """The bars as soon as the server serves again; the test's own time limit bounds the wait."""
    while True:
        try:
            return await store.read_bars("m", symbol, HOUR)
        except StoreUnavailable:
            await asyncio.sleep(0.05)
