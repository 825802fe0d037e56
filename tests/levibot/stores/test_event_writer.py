"""The writer's bounds, over a store and a disk that fail as a test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import DataError, StoreError, StoreUnavailable
from levibot.stores.event import Event, EventRow
from levibot.stores.event_spool import EventSpool
from levibot.stores.event_thread import MAX_ASKING, EventThread
from levibot.stores.event_writer import MAX_BATCH, EventWriter
from levibot.stores.events import EventStore
from levibot.telemetry.metrics import Metrics

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class FakeStore(EventStore):
    """Keeps rows in a list. Fails with what a test gives it, or hangs until it is let go."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.delay_s = 0.0
        self.n_asked = 0
        self.go = threading.Event()
        self.go.set()
        self.writes: list[list[EventRow]] = []

    def append_rows(self, rows: Sequence[EventRow]) -> None:
        self.go.wait(30)
        time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        self.writes.append(list(rows))

    def ping(self) -> float:
        if not self.go.is_set():
            self.n_asked += 1
        self.go.wait(30)
        if self.error is not None:
            raise self.error
        return 0.0

    def close(self) -> None:
        """There is nothing to let go of."""

    @property
    def ids(self) -> list[str]:
        return [row.event_id for rows in self.writes for row in rows]


class Bench:
    """A writer, what it writes to, and its metrics."""

    def __init__(self, folder: Path, *, limit_bytes: int = 1 << 20, **given: float) -> None:
        self.folder = folder
        self.store = FakeStore()
        self.metrics = Metrics(CollectorRegistry())
        self.thread = EventThread(lambda: self.store)
        self.writer = EventWriter(
            self.thread,
            lambda: EventSpool.open(folder, limit_bytes),
            metrics=self.metrics,
            **{"linger_s": 0.005, "write_timeout_s": 0.2, **given},  # type: ignore[arg-type]
        )

    def sample(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_so():  # noqa: ASYNC110 - the writer has no event to wait for
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.store.go.set()
        await self.writer.close()
        await self.thread.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "spool")
    yield bench
    await bench.close()


def events(*numbers: int, text: str = "") -> list[Event]:
    return [Event("x", "", NOON, {"text": text}, event_id=str(number)) for number in numbers]


async def test_those_who_come_close_together_share_one_write(bench: Bench) -> None:
    await asyncio.gather(*(bench.writer.append(events(n)) for n in range(50)))
    assert [len(rows) for rows in bench.store.writes] == [50]


async def test_a_full_batch_does_not_wait_for_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", linger_s=60.0)
    async with asyncio.timeout(10):
        await bench.writer.append(events(*range(MAX_BATCH)))
    await bench.close()


async def test_events_pass_through_the_spool_in_order_and_none_overtakes(bench: Bench) -> None:
    bench.store.error = StoreUnavailable("Away.")
    for number in range(20):
        await bench.writer.append(events(number))
        assert bench.sample("levibot_events_spooled") == number + 1
    bench.store.error = None
    for number in range(20, 60):
        await bench.writer.append(events(number))
        await asyncio.sleep(0.01)
    await bench.until(lambda: len(bench.store.ids) == 60)
    assert bench.store.ids == [str(number) for number in range(60)]
    await bench.until(lambda: not bench.writer.is_away)
    assert bench.sample("levibot_events_spooled") == 0
    assert bench.sample("levibot_events_refused_total") == 0


async def test_steady_writing_does_not_keep_the_spool_in_use(bench: Bench) -> None:
    bench.store.error = StoreUnavailable("Away.")
    await bench.writer.append(events(0))
    bench.store.error = None
    bench.store.delay_s = 0.02
    is_over = False

    async def write(name: int) -> None:
        number = 0
        while not is_over:
            await bench.writer.append([Event("x", "", NOON, {}, event_id=f"{name}-{number}")])
            number += 1

    writers = [asyncio.create_task(write(name)) for name in range(8)]
    await bench.until(lambda: not bench.writer.is_away)
    await bench.until(lambda: bench.writer.n_spooled == 0)
    n_writes = len(bench.store.writes)
    await bench.until(lambda: len(bench.store.writes) > n_writes + 10)
    assert not list(bench.folder.glob("*.events"))
    is_over = True
    await asyncio.gather(*writers)


async def test_a_write_that_hangs_is_spooled_and_its_caller_answered(bench: Bench) -> None:
    bench.store.go.clear()
    async with asyncio.timeout(10):
        await bench.writer.append(events(1))
        await bench.writer.append(events(2))
    assert bench.store.writes == []
    bench.store.go.set()
    await bench.until(lambda: set(bench.store.ids) == {"1", "2"})


@pytest.mark.parametrize(
    "error", [StoreUnavailable("Away."), StoreError("Too many parts."), ValueError("Ours."), OSError("Odd.")]
)
async def test_whatever_the_store_says_the_events_are_kept(bench: Bench, error: Exception) -> None:
    bench.store.error = error
    assert await bench.writer.append(events(1)) == 1
    status = await bench.writer.status()
    assert (status["is_away"], status["problem"], status["n_spooled"]) == (True, str(error), 1)
    bench.store.error = None
    await bench.until(lambda: bench.store.ids == ["1"])


async def test_a_full_spool_refuses_counts_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", limit_bytes=10_000)
    bench.store.error = StoreUnavailable("Away.")
    kept = 0
    while bench.sample("levibot_events_refused_total") == 0:
        refused = await asyncio.gather(
            bench.writer.append(events(kept, text="y" * 500)), return_exceptions=True
        )
        kept += refused == [1]
    assert isinstance(refused[0], StoreUnavailable)
    assert "is full" in refused[0].message
    assert bench.sample("levibot_events_refused_total") == 1
    assert sum(path.stat().st_size for path in bench.folder.glob("*.events")) <= 10_000
    bench.store.error = None
    await bench.until(lambda: not bench.writer.is_away)
    await bench.writer.append(events(kept))
    assert bench.store.ids == [str(number) for number in range(kept + 1)]
    await bench.close()


async def test_an_event_that_comes_as_the_store_comes_back_is_sent_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", limit_bytes=2_000)
    bench.store.error = StoreUnavailable("Away.")
    # Away, and nothing to send: the store is asked for a sign of life.
    with pytest.raises(StoreUnavailable, match="is full"):
        await bench.writer.append(events(0, text="y" * 5_000))
    bench.store.go.clear()
    bench.store.error = None
    await bench.until(lambda: bench.store.n_asked > 0)
    await bench.writer.append(events(1))
    bench.store.go.set()
    await bench.until(lambda: bench.store.ids == ["1"])
    await bench.close()


async def test_what_waits_in_memory_is_bounded(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", max_waiting_bytes=100_000, write_timeout_s=30.0)
    bench.store.go.clear()
    waiting = [asyncio.create_task(bench.writer.append(events(n, text="y" * 1000))) for n in range(200)]
    outcomes = asyncio.gather(*waiting, return_exceptions=True)
    await bench.until(lambda: sum(task.done() for task in waiting) > 50)
    bench.store.go.set()
    refused = [exc for exc in await outcomes if isinstance(exc, StoreUnavailable)]
    assert 200 - len(refused) == len(bench.store.ids) <= 100
    assert "wait to be written" in refused[0].message
    assert bench.sample("levibot_events_refused_total") == len(refused)
    assert await bench.writer.append(events(1000)) == 1
    await bench.close()


async def test_a_spool_that_cannot_be_opened_harms_only_what_needs_it(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    bench = Bench(tmp_path / "spool")
    assert await bench.writer.append(events(1)) == 1
    bench.store.error = StoreUnavailable("Away.")
    with pytest.raises(StoreError, match="cannot be opened"):
        await bench.writer.append(events(2))
    # As soon as there is one, it is used.
    (tmp_path / "spool").unlink()
    assert await bench.writer.append(events(3)) == 1
    bench.store.error = None
    await bench.until(lambda: bench.store.ids == ["1", "3"])
    await bench.close()


async def test_what_an_earlier_process_left_is_sent_before_anything_new(tmp_path: Path) -> None:
    first = Bench(tmp_path / "spool")
    first.store.error = StoreUnavailable("Away.")
    await first.writer.append(events(1, 2, 3))
    await first.close()
    second = Bench(tmp_path / "spool")
    await second.writer.append(events(4))
    await second.until(lambda: second.store.ids == ["1", "2", "3", "4"])
    await second.close()


async def test_a_broken_event_is_refused_before_anything_is_written(bench: Bench) -> None:
    broken = Event("x", "", NOON, {"v": float("nan")})
    with pytest.raises(DataError, match="not JSON"):
        await bench.writer.append([*events(1), broken])
    assert await bench.writer.append([]) == 0
    assert bench.store.writes == []


async def test_readers_of_a_store_that_hangs_do_not_gather(bench: Bench) -> None:
    bench.store.go.clear()
    asking = [asyncio.create_task(bench.thread.ask(lambda store: store.ping())) for _ in range(MAX_ASKING)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match=f"{MAX_ASKING} reads wait"):
        await bench.thread.ask(lambda store: store.ping())
    # Who gives up still has a place in the thread.
    asking[0].cancel()
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await bench.thread.ask(lambda store: store.ping())
    bench.store.go.set()
    assert await asyncio.gather(*asking[1:]) == [0.0] * (MAX_ASKING - 1)
    await bench.until(lambda: bench.thread._n_asking == 0)
    assert await bench.thread.ask(lambda store: store.ping()) == 0.0
