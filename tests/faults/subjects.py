"""What is written while a fault happens: one class a store, each with numbered items in numbered streams."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from redis.asyncio import Redis

from levibot.clock import ManualClock
from levibot.market.bars import Bars
from levibot.market.ticks import Ticks
from levibot.resilience.dead_letters import MAX_LETTERS, DeadLetters
from levibot.stores.model_bucket import ModelBucket
from levibot.stores.online import OnlineStore, Signal
from levibot.stores.redis import open_redis
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore
from tests.faults.event_subjects import EventsSubject, SpooledEventsSubject
from tests.faults.history_subject import HistorySubject
from tests.faults.subject import HOUR, MARKET_ID, NOON, TIMEOUT_S, VIEW, Item, Subject


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


class TradesSubject:
    """PostgreSQL by COPY: an item is one batch of trades, spread over a minute of its stream's symbol."""

    BATCH = 60

    def __init__(self, store: TickStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, where: str) -> TradesSubject:
        return cls(await TickStore.open(where, timeout_s=TIMEOUT_S))

    async def write(self, item: Item) -> None:
        await self._store.ticks.write(MARKET_ID, [self._trades(item)])

    async def stored(self, streams: int, n: int) -> list[Item]:
        found: list[Item] = []
        for stream in range(streams):
            ticks = await self._store.ticks.read(MARKET_ID, f"W{stream}")
            np.testing.assert_array_equal(ticks.price, 1.0 + ticks.trade_id)
            numbers, counts = np.unique((ticks.trade_id - 1) // self.BATCH, return_counts=True)
            times, rest = np.divmod(counts, self.BATCH)
            assert not rest.any(), "a batch is stored in part"
            found += [(stream, number) for number in np.repeat(numbers, times).tolist() if number < n]
        return found

    async def close(self) -> None:
        await self._store.close()

    @classmethod
    def _trades(cls, item: Item) -> Ticks:
        stream, number = item
        ids = 1 + number * cls.BATCH + np.arange(cls.BATCH)
        # A second apart, so that an hour, and with it a partition, is full after some dozens of items.
        ts = np.datetime64(NOON.replace(tzinfo=None), "us") + ids * np.timedelta64(1, "s")
        return Ticks(f"W{stream}", ts, 1.0 + ids, np.ones(cls.BATCH), ids, ids % 2 == 0)


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
                ("ret_1",),
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
            f"W{item[0]}N{item[1]}", NOON, 1.0 / (1 + item[1]), 0.0, "v1.0.0", VIEW, MARKET_ID, "faults"
        )


class LettersSubject:
    """Redis: one dead letter an item, each stream in a queue of its own.

    A letter that is sent again is another letter. So each attempt is told apart: an item counts as stored as
    often as its most frequent attempt.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._letters = DeadLetters(client)

    @classmethod
    async def open(cls, where: str) -> LettersSubject:
        return cls(open_redis(where, timeout_s=TIMEOUT_S))

    async def write(self, item: Item) -> None:
        message = {"number": item[1], "attempt": uuid.uuid4().hex}
        await self._letters.send(f"w{item[0]}", message, error="a fault", attempts=3)

    async def stored(self, streams: int, n: int) -> list[Item]:
        attempts: Counter[tuple[int, int, str]] = Counter()
        for stream in range(streams):
            for letter in await self._letters.read(f"w{stream}", MAX_LETTERS):
                attempts[stream, letter.message["number"], letter.message["attempt"]] += 1
        times: dict[Item, int] = {}
        for (stream, number, _), count in attempts.items():
            times[stream, number] = max(count, times.get((stream, number), 0))
        return [item for item, count in times.items() for _ in range(count) if item[1] < n]

    async def close(self) -> None:
        await self._client.aclose()


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
    "trades": TradesSubject.open,
    "signals": SignalsSubject.open,
    "letters": LettersSubject.open,
    "events": EventsSubject.open,
    "spooled": SpooledEventsSubject.open,
    "models": ModelsSubject.open,
    "history": HistorySubject.open,
    "planted": PlantedSubject.open,
}
