"""The event log without Ray: built directly in an event loop, on the real engine in this process."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors.event_log import EventLog
from levibot.errors import DataError, StoreUnavailable, UsageError
from levibot.settings import Settings
from levibot.stores.event_writer import MAX_BATCH
from levibot.stores.events import Event, EventQuery

pytestmark = pytest.mark.stores

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOT_USED = {"redis_url": "redis://not.used/0", "postgres_dsn": "postgresql://not.used/x"}
HOLDER = """
import sys, time
from levibot.stores.events import EventStore
store = EventStore.open(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
store.close()
"""

Open = Callable[..., Awaitable[EventLog]]


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """An actor sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def open_log(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one log at a time: a process can have one folder of the engine open."""
    opened: list[EventLog] = []

    async def make(*, is_there: bool = True, **given: str) -> EventLog:
        while opened:
            await opened.pop().close()
        opened.append(EventLog(Settings.load(home=tmp_path, **NOT_USED, **given)))
        if is_there:
            # On a busy machine the engine opens for longer than a write may take.
            await opened[0].ping()
        return opened[0]

    yield make
    for log in opened:
        await log.close()


def events(caller: int, n: int = 1) -> list[Event]:
    return [Event("bar", f"S{caller}", NOON - timedelta(seconds=i), {"n": i}) for i in range(n)]


async def wait_until_spooled(log: EventLog, n_events: int) -> None:
    async with asyncio.timeout(30):
        while (await log.status())["n_spooled"] != n_events:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.05)


async def outcomes(*calls: Awaitable[int]) -> list[int | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_all_who_wait_share_one_write(open_log: Open) -> None:
    log = await open_log()
    assert await outcomes(*(log.append(events(caller, 2)) for caller in range(100))) == [2] * 100
    assert await log.count() == 200
    # The engine makes a part of every write, and merges parts only later.
    query = "SELECT uniqExact(_part) FROM events"
    n_parts = await log._writing.run(lambda store: int(store._client.query(query).result_rows[0][0]))
    assert n_parts <= 2


async def test_a_group_is_never_larger_than_one_write_may_be(open_log: Open) -> None:
    log = await open_log()
    sizes = [MAX_BATCH - 1, 2, MAX_BATCH + 1, 1]
    assert await outcomes(*(log.append(events(caller, n)) for caller, n in enumerate(sizes))) == sizes
    assert await log.count() == sum(sizes)


async def test_the_newest_events_are_read_first_and_filtered(open_log: Open) -> None:
    log = await open_log()
    written = events(1, 5)
    await log.append(written)
    await log.append(events(2, 5))
    assert await log.read(3, symbol="S1") == written[:3]
    assert await log.read(10, event_type="none") == []
    assert await log.read(10, since=NOON) == [e for e in await log.read(10) if e.ts == NOON]
    with pytest.raises(UsageError):
        await log.read(0)


async def test_a_repeat_of_the_same_event_is_one_event(open_log: Open) -> None:
    log = await open_log()
    written = events(1, 3)
    await outcomes(*(log.append(written) for _ in range(5)))
    assert await log.count() == 3


async def test_a_page_does_not_wait_for_an_append(open_log: Open) -> None:
    log = await open_log()
    await log.append(events(1))
    may_end = threading.Event()
    # What holds the thread of the appends, as a disk does that is slow.
    held = asyncio.create_task(log._writing.run(lambda _: may_end.wait()))
    late = asyncio.create_task(log.append(events(2)))
    try:
        page = await asyncio.wait_for(log.page(EventQuery()), 30)
    finally:
        may_end.set()
    assert [event.symbol for event in page.events] == ["S1"]
    assert await held
    assert await late == 1
    # Acknowledged by one thread, and seen by the other.
    assert {event.symbol for event in (await log.page(EventQuery())).events} == {"S1", "S2"}


async def test_no_events_are_no_work(open_log: Open) -> None:
    log = await open_log()
    assert await log.append([]) == 0
    assert await log.ping()


async def test_one_callers_broken_event_is_not_the_others_fault(open_log: Open) -> None:
    log = await open_log()
    broken = [Event("bar", "BROKEN", NOON.replace(tzinfo=None), {})]
    results = await outcomes(log.append(events(1)), log.append(broken), log.append(events(2)))
    assert (results[0], results[2]) == (1, 1)
    assert isinstance(results[1], DataError)
    assert {e.symbol for e in await log.read(10)} == {"S1", "S2"}


async def test_events_are_kept_on_disk_while_the_store_does_not_answer(open_log: Open) -> None:
    log = await open_log(is_there=False, clickhouse_url="http://127.0.0.1:1")
    results = await asyncio.wait_for(outcomes(*(log.append(events(c)) for c in range(20))), 30)
    assert results == [1] * 20
    status = await log.status()
    assert (status["is_away"], status["n_spooled"]) == (True, 20)
    assert "No answer from ClickHouse" in str(status["problem"])
    with pytest.raises(StoreUnavailable, match="ClickHouse is away"):
        await log.page(EventQuery())
    with pytest.raises(StoreUnavailable):
        await log.ping()


async def test_what_an_earlier_log_left_on_disk_is_written_without_a_new_event(open_log: Open) -> None:
    log = await open_log(is_there=False, clickhouse_url="http://127.0.0.1:1")
    written = events(1, 5)
    await log.append(written)
    later = await open_log()
    await wait_until_spooled(later, 0)
    assert await later.read(10) == written


async def test_what_the_queries_cost_is_told_most_first(open_log: Open) -> None:
    log = await open_log()
    await log.append(events(1))
    await log.page(EventQuery(event_type="bar"))
    costs = await log.slow_queries()
    assert {"append", "read event_type"} <= {cost["query"] for cost in costs}
    assert [c["total_s"] for c in costs] == sorted((c["total_s"] for c in costs), reverse=True)


async def test_a_caller_who_has_gone_away_does_not_stop_the_rest(open_log: Open) -> None:
    log = await open_log()
    impatient = asyncio.create_task(log.append(events(1)))
    patient = asyncio.create_task(log.append(events(2)))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == 1
    # Whether the cancelled one's event is there is open; that the log goes on is not.
    assert await log.append(events(3)) == 1
    assert {"S2", "S3"} <= {e.symbol for e in await log.read(10)}


async def test_events_survive_a_restart(open_log: Open) -> None:
    first = await open_log()
    written = events(1, 50)
    await first.append(written)
    second = await open_log()
    assert await second.read(100) == written
    await second.append(written)
    assert await second.count() == 50


async def test_a_folder_that_another_process_holds_is_opened_once_it_is_free(
    open_log: Open, tmp_path: Path
) -> None:
    log = await open_log(is_there=False)
    command = [sys.executable, "-c", HOLDER, f"chdb://{tmp_path / 'clickhouse'}"]
    pipe = asyncio.subprocess.PIPE
    holder = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert holder.stdout is not None
    assert await asyncio.wait_for(holder.stdout.readline(), 60) == b"held\n"
    assert await outcomes(log.append(events(1)), log.append(events(2))) == [1, 1]
    assert "is in use by another process" in str((await log.status())["problem"])
    await asyncio.wait_for(holder.communicate(b"\n"), 60)
    await wait_until_spooled(log, 0)
    assert await log.append(events(3)) == 1
    assert {e.symbol for e in await log.read(10)} == {"S1", "S2", "S3"}
