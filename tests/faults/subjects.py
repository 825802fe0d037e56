"""What is written while a fault happens: one class a store, each with numbered items in numbered streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from levibot.clock import ManualClock
from levibot.market.bars import Bars
from levibot.stores.events import MAX_READ, Event, EventStore
from levibot.stores.model_bucket import ModelBucket
from levibot.stores.online import OnlineStore, Signal
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore

# Of each call. Small, so that a frozen server is met more than once.
TIMEOUT_S = 1.0
HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MARKET_ID, VIEW = "faults", "v-faults"

Item = tuple[int, int]


class Subject(Protocol):
    """A store under fault. An item is (stream, number); each has a content that follows from it alone."""

    async def write(self, item: Item) -> None:
        """Return when the item is acknowledged. Repeating it must not add another."""
        ...

    async def stored(self, streams: int, n: int) -> list[Item]:
        """Every stored item of the first `n` of each stream, as often as it is stored."""
        ...

    async def close(self) -> None: ...


class BarsSubject:
    """PostgreSQL: one bar an item."""

    def __init__(self, store: TickStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, where: str) -> BarsSubject:
        return cls(await TickStore.open(where, timeout_s=TIMEOUT_S))

    async def write(self, item: Item) -> None:
        await self._store.write_bars(MARKET_ID, self._bar(item))

    async def stored(self, streams: int, n: int) -> list[Item]:
        found: list[Item] = []
        for stream in range(streams):
            bars = await self._store.read_bars(MARKET_ID, f"W{stream}", HOUR)
            first = np.datetime64(NOON.replace(tzinfo=None), "us")
            numbers = ((bars.ts - first) // np.timedelta64(HOUR)).tolist()
            np.testing.assert_array_equal(bars.close, 1.0 + np.asarray(numbers))
            found += [(stream, number) for number in numbers if number < n]
        return found

    async def close(self) -> None:
        await self._store.close()

    @staticmethod
    def _bar(item: Item) -> Bars:
        stream, number = item
        price = np.array([1.0 + number])
        ts = np.array([(NOON + number * HOUR).replace(tzinfo=None)], "M8[us]")
        return Bars(f"W{stream}", HOUR, ts, price, price, price, price, price)


class SignalsSubject:
    """Redis: one signal an item, each under a key of its own."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, where: str) -> SignalsSubject:
        return cls(
            OnlineStore.open(
                where,
                MARKET_ID,
                VIEW,
                clock=ManualClock(NOON),
                interval=HOUR,
                fresh_bars=2.0,
                ttl_s=3600.0,
                timeout_s=TIMEOUT_S,
            )
        )

    async def write(self, item: Item) -> None:
        await self._store.write_signals([self._signal(item)], ttl_s=3600.0)

    async def stored(self, streams: int, n: int) -> list[Item]:
        items = [(stream, number) for stream in range(streams) for number in range(n)]
        found = []
        for item in items:
            signal = await self._store.read_signal(self._signal(item).symbol)
            if signal is not None:
                assert signal == self._signal(item)
                found.append(item)
        return found

    async def close(self) -> None:
        await self._store.close()

    @staticmethod
    def _signal(item: Item) -> Signal:
        return Signal(
            f"W{item[0]}N{item[1]}", NOON, 1.0 / (1 + item[1]), 0.0, "v0001", VIEW, MARKET_ID, "faults"
        )


class EventsSubject:
    """ClickHouse in process: one event an item. The process that opens it owns the folder."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, where: str) -> EventsSubject:
        return cls(EventStore.open(where))

    async def write(self, item: Item) -> None:
        stream, number = item
        self._store.append(
            [Event("fault", f"W{stream}", NOON, {"number": number}, event_id=f"{stream}-{number}")]
        )

    async def stored(self, streams: int, n: int) -> list[Item]:
        events = self._store.read(MAX_READ, "fault")
        assert len(events) < MAX_READ
        items = [(int(event.symbol[1:]), int(event.payload["number"])) for event in events]
        return [item for item in items if item[1] < n]

    async def close(self) -> None:
        self._store.close()


class ModelsSubject:
    """S3: one model version an item, published under a key of its own."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @classmethod
    async def open(cls, where: str) -> ModelsSubject:
        return cls(Registry(ModelBucket.open(where, timeout_s=TIMEOUT_S)))

    async def write(self, item: Item) -> None:
        metadata = {"stream": item[0], "number": item[1]}
        await asyncio.to_thread(self._registry.publish, metadata, self._files(item), f"{item}")

    async def stored(self, streams: int, n: int) -> list[Item]:
        found = []
        for info in self._registry.versions():
            assert info.problem == ""
            item = info.metadata["stream"], info.metadata["number"]
            assert self._registry.load(info.version).files == self._files(item)
            found.append(item)
        return [item for item in found if item[1] < n]

    async def close(self) -> None:
        pass

    @staticmethod
    def _files(item: Item) -> dict[str, bytes]:
        return {f"{name}.txt": f"{name} {item}".encode() for name in ("model", "scaler", "calibration")}


class PlantedSubject:
    """A file with two planted faults: some of what it acknowledges is not written, some of it twice."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    async def open(cls, where: str) -> PlantedSubject:
        return cls(Path(where))

    async def write(self, item: Item) -> None:
        stream, number = item
        times = 0 if number % 7 == 3 else 2 if number % 5 == 1 else 1
        with self._path.open("a") as file:
            file.write(f"{stream} {number}\n" * times)

    async def stored(self, streams: int, n: int) -> list[Item]:
        items = [line.split() for line in self._path.read_text().splitlines()]
        return [(int(stream), int(number)) for stream, number in items if int(number) < n]

    async def close(self) -> None:
        pass


SUBJECTS: dict[str, Callable[[str], Coroutine[Any, Any, Subject]]] = {
    "bars": BarsSubject.open,
    "signals": SignalsSubject.open,
    "events": EventsSubject.open,
    "models": ModelsSubject.open,
    "planted": PlantedSubject.open,
}
