"""ClickHouse killed, frozen and started again under writers: real processes, real signals, real disk."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import LeviBotError
from levibot.stores.event import Event
from levibot.stores.event_spool import EventSpool
from levibot.stores.event_thread import EventThread
from levibot.stores.event_writer import EventWriter
from levibot.stores.events import EventQuery, EventStore
from levibot.telemetry.metrics import Metrics
from tests.servers.clickhouse import ClickHouseProcess

pytestmark = pytest.mark.stores

N_WRITERS = 8
BACK_WITHIN_S = 15.0
# What the event log grants a call; see levibot/stores/connect.py.
TIMEOUT_S = 5.0
APPENDER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from levibot.stores.event import Event
from levibot.stores.event_spool import EventSpool
from levibot.stores.event_thread import EventThread
from levibot.stores.event_writer import EventWriter
from levibot.stores.events import EventStore

async def main():
    thread = EventThread(lambda: EventStore.open(sys.argv[1], timeout_s=5.0))
    writer = EventWriter(thread, lambda: EventSpool.open(Path(sys.argv[2]), 1 << 26))
    number = 0
    while True:
        await writer.append([Event("x", "", datetime.now(UTC), {}, event_id=str(number))])
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


class Log:
    """A writer over a server, and what it has acknowledged."""

    def __init__(self, server: ClickHouseProcess, spool: Path, limit_bytes: int) -> None:
        self.thread = EventThread(lambda: EventStore.open(server.url, timeout_s=TIMEOUT_S))
        metrics = Metrics(CollectorRegistry())
        self.writer = EventWriter(
            self.thread, lambda: EventSpool.open(spool, limit_bytes), metrics=metrics, write_timeout_s=1.0
        )
        self.acknowledged: list[str] = []
        self.refused: list[LeviBotError] = []
        self.longest_s = 0.0

    async def write_until(self, stop: asyncio.Event, name: int) -> None:
        number = 0
        while not stop.is_set():
            batch = [
                Event("x", "", datetime.now(UTC), {"text": "y" * 100}, event_id=f"{name}-{number + i}")
                for i in range(5)
            ]
            started = time.monotonic()
            try:
                await self.writer.append(batch)
            except LeviBotError as exc:
                self.refused.append(exc)
            else:
                self.acknowledged += [event.event_id for event in batch]
            self.longest_s = max(self.longest_s, time.monotonic() - started)
            number += 5
            await asyncio.sleep(0.01)

    async def until(self, is_so: Callable[[], bool]) -> float:
        """Seconds until it is so."""
        started = time.monotonic()
        async with asyncio.timeout(60):
            while not is_so():  # noqa: ASYNC110 - the writer has no event to wait for
                await asyncio.sleep(0.02)
        return time.monotonic() - started

    async def until_all_is_written(self) -> float:
        """Seconds until nothing waits on disk."""
        return await self.until(lambda: not self.writer.is_away and not self.writer.n_spooled)

    async def stored(self) -> list[str]:
        """The id of every event that a reader sees, page by page."""
        found: list[str] = []
        query = EventQuery(5000)
        while True:
            page = await self.thread.ask(lambda store, query=query: store.page(query))  # type: ignore[misc]
            found += [event.event_id for event in page.events]
            if page.next_cursor is None:
                return found
            query = EventQuery(5000, after=page.next_cursor)


@asynccontextmanager
async def writing(log: Log) -> AsyncIterator[None]:
    """Eight writers at work."""
    stop = asyncio.Event()
    writers = [asyncio.create_task(log.write_until(stop, name)) for name in range(N_WRITERS)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*writers)


@pytest.fixture
def server(tmp_path: Path):  # type: ignore[no-untyped-def]
    with ClickHouseProcess(tmp_path / "clickhouse") as server:
        yield server


Fault = Callable[[ClickHouseProcess], Awaitable[None]]


async def killed(server: ClickHouseProcess) -> None:
    server.kill()
    await asyncio.sleep(1.5)
    await asyncio.to_thread(server.start)


async def frozen(server: ClickHouseProcess) -> None:
    server.freeze()
    await asyncio.sleep(TIMEOUT_S + 1.0)
    server.thaw()


async def killed_again_and_again(server: ClickHouseProcess) -> None:
    for _ in range(3):
        server.kill()
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.start)
        await asyncio.sleep(0.7)


@pytest.mark.parametrize("fault", [killed, frozen, killed_again_and_again])
async def test_no_acknowledged_event_is_lost_or_doubled(
    server: ClickHouseProcess, tmp_path: Path, fault: Fault
) -> None:
    log = Log(server, tmp_path / "spool", 1 << 26)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with writing(log):
        await log.until(lambda: len(log.acknowledged) > 200 and not log.writer.is_away)
        n_before = len(log.acknowledged)
        await fault(server)
        n_during = len(log.acknowledged) - n_before
    back_s = await log.until_all_is_written()
    stored = await log.stored()
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    await log.writer.close()
    await log.thread.close()

    assert (n_during > 100, log.refused) == (True, [])
    assert sorted(stored) == sorted(log.acknowledged)
    assert back_s < BACK_WITHIN_S
    # Nobody waits for the server's own time-out.
    assert log.longest_s < TIMEOUT_S
    assert grown_kib < 200 * 1024
    assert list((tmp_path / "spool").glob("*.events")) == []


async def test_what_a_full_spool_refuses_is_told_and_the_rest_is_written(
    server: ClickHouseProcess, tmp_path: Path
) -> None:
    log = Log(server, tmp_path / "spool", 64 * 1024)
    async with writing(log):
        await log.until(lambda: len(log.acknowledged) > 0)
        server.kill()
        await log.until(lambda: len(log.refused) > 0)
        assert sum(path.stat().st_size for path in (tmp_path / "spool").glob("*.events")) <= 64 * 1024
        await asyncio.to_thread(server.start)
        n_acknowledged = len(log.acknowledged)
        assert await log.until(lambda: len(log.acknowledged) > n_acknowledged + 200) < BACK_WITHIN_S
    await log.until_all_is_written()
    stored = await log.stored()
    await log.writer.close()
    await log.thread.close()

    assert sorted(stored) == sorted(log.acknowledged)


def append_until_killed(server: ClickHouseProcess, spool: Path) -> list[str]:
    """What a process has acknowledged that saw the server die and was killed itself."""
    command = [sys.executable, "-c", APPENDER, server.url, str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(10)]
        server.kill()
        lines += [writer.stdout.readline() for _ in range(30)]
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.readlines()
    # Beside the numbers stands what the log says of the server.
    return [line.strip() for line in lines if line.strip().isdigit()]


async def test_a_writer_killed_while_the_server_is_away_loses_nothing(
    server: ClickHouseProcess, tmp_path: Path
) -> None:
    acknowledged = await asyncio.to_thread(append_until_killed, server, tmp_path / "spool")
    server.start()
    log = Log(server, tmp_path / "spool", 1 << 26)
    await log.writer.start()
    back_s = await log.until_all_is_written()
    stored = await log.stored()
    await log.writer.close()
    await log.thread.close()

    assert len(acknowledged) > 30
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    assert back_s < BACK_WITHIN_S
