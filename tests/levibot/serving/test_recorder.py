"""Signals are written down once PostgreSQL takes them, and nobody waits for it meanwhile."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest

from levibot.errors import StoreUnavailable
from levibot.serving import recorder
from levibot.serving.recorder import SignalRecorder
from levibot.stores.signals import Blend, Signal
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
BLEND = Blend(
    opinions={"trend": 0.5, "strength": -0.1 / 3.0},
    positions={"trend": 0.05, "strength": -0.01, "ensemble": 0.02, "router": 0.02, "fixed_weights": 0.02},
    no_trade_band=0.012,
    weights={"trend": 0.6, "strength": 0.4},
    route="ensemble",
    abstained="No router was trained for v1.0.0.",
    regime={"bull": 1.0},
    weights_from="redis",
    weights_as_of=date(2024, 4, 30),
    weights_age_s=43_200.0,
)


def signal(n: int, version: str = "v1.0.0", blend: Blend | None = BLEND) -> Signal:
    at = NOON + n * timedelta(hours=1)
    return Signal("BTCUSDT", at, 0.6, 0.02, version, "w", "m", "simulated", None, blend)


async def until_written(record: SignalRecorder) -> None:
    for _ in range(500):
        if record.n_waiting == 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen within 10 s")


async def test_what_could_not_be_written_is_written_later_and_once(
    tick_store: TickStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    refusals = [StoreUnavailable("It starts."), ZeroDivisionError("planted")]

    class Shared(TickStore):
        async def close(self) -> None:
            """The test's own, which closes it."""

    async def open_ticks() -> TickStore:
        if refusals:
            raise refusals.pop()
        return Shared(tick_store._client)

    record = SignalRecorder(open_ticks, "m", timeout_s=2.0)
    running = asyncio.create_task(record.run())
    record.record([signal(0), signal(1)])
    await until_written(record)
    # Again; the same close by another version; one without members; and one that the table refuses.
    record.record([signal(1), signal(1, "v1.0.1"), signal(2, blend=None)])
    await until_written(record)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert refusals == []
    decided = await tick_store.shadow.decisions("m")
    assert [(d.as_of, d.model_version) for d in decided] == [
        (NOON, "v1.0.0"),
        (NOON + timedelta(hours=1), "v1.0.0"),
    ]
    assert decided[0].positions == BLEND.positions
    assert Blend.from_json(decided[0].blend) == BLEND
    rows = await tick_store.signals.read("m")
    assert [(row.as_of.hour, row.model_version) for row in rows] == [
        (14, "v1.0.0"),
        (13, "v1.0.1"),
        (13, "v1.0.0"),
        (12, "v1.0.0"),
    ]


async def test_what_waits_is_bounded_and_the_oldest_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING", 5)

    async def open_ticks() -> TickStore:
        raise StoreUnavailable("It is away.")

    record = SignalRecorder(open_ticks, "m", timeout_s=2.0)
    record.record([signal(n) for n in range(4)])
    record.record([signal(n) for n in range(4, 8)])
    assert [s.as_of.hour for s in record._waiting] == [15, 16, 17, 18, 19]
