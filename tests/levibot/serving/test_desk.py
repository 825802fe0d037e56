"""The desk on a real Redis-protocol server, with models that answer what a test wants."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.errors import NotReady, StoreUnavailable
from levibot.learning.members import PARTS, Opinions
from levibot.learning.signal import Signals
from levibot.market.bars import FloatArray
from levibot.serving.desk import Served, SignalDesk
from levibot.serving.weighing import Route
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.online import FeatureReading, FeatureWindow, OnlineStore
from tests.opinions import BAND, signals_of

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NAMES = ("ret_1", "vol_24")
SERVED = Served("v1.0.6", "simulated")
TTL_S = 60.0

Predict = Callable[[FloatArray], Awaitable[Signals]]


def open_store(url: str, clock: ManualClock) -> OnlineStore:
    return OnlineStore.open(
        *(url, "market", "view", NAMES), clock=clock, interval=HOUR, fresh_bars=2.0, ttl_s=60.0, timeout_s=2.0
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
async def online(redis_url: str, clock: ManualClock) -> AsyncIterator[OnlineStore]:
    store = open_store(redis_url, clock)
    yield store
    await store.close()


@pytest.fixture
def symbols() -> tuple[str, ...]:
    """Three symbols that no other test writes, not in the alphabet's order."""
    run = secrets.token_hex(4).upper()
    return f"ZZZ{run}", f"AAA{run}", f"MMM{run}"


class Model:
    """Gives the last value of the first feature as its position, and remembers what it was asked."""

    def __init__(self, **answers: Sequence[float]) -> None:
        self.answers = answers
        self.asked: list[FloatArray] = []

    async def __call__(self, window: FloatArray) -> Signals:
        self.asked.append(window)
        position = window[-1, :, 0]
        given = {"position": position} | {name: np.array(values) for name, values in self.answers.items()}
        return signals_of(**given)


def window(symbol: str, value: float, at: datetime = NOON, rows: int = 3) -> FeatureWindow:
    """`rows` rows whose newest has `value` for its first feature."""
    values = np.arange(rows * len(NAMES), dtype=np.float64).reshape(rows, len(NAMES))
    values[-1, 0] = value
    return FeatureWindow(symbol, at, NAMES, values)


async def test_every_symbol_gets_the_opinion_on_its_own_features(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    values = dict(zip(symbols, (0.1, -0.2, 0.3), strict=True))
    await online.write_features([window(s, values[s]) for s in sorted(symbols)])
    desk, model = SignalDesk(online, symbols), Model()
    signals = await desk.compute(model, SERVED, TTL_S)
    assert {s: signal.target_position for s, signal in signals.items()} == values
    assert list(signals) == list(symbols)
    (asked,) = model.asked
    assert asked.shape == (3, 3, 2)
    np.testing.assert_array_equal(asked[-1, :, 0], list(values.values()))
    for symbol in symbols:
        stored = await online.read_signal(symbol)
        assert stored == signals[symbol]
        assert stored is not None
        assert (stored.as_of, stored.model_version, stored.source) == (NOON, "v1.0.6", "simulated")
        assert stored.expected_return == pytest.approx(values[symbol] / 10.0)
    assert desk.last == signals


@pytest.mark.parametrize("why", ["no features", "features of an older bar"])
async def test_a_symbol_without_the_newest_features_is_a_column_of_nothing(
    online: OnlineStore, symbols: tuple[str, ...], why: str
) -> None:
    written = [window(symbols[0], 0.1), window(symbols[2], 0.3)]
    if why == "features of an older bar":
        written.append(window(symbols[1], 0.9, at=NOON - HOUR))
    await online.write_features(written)
    desk, model = SignalDesk(online, symbols), Model()
    signals = await desk.compute(model, SERVED, TTL_S)
    assert list(signals) == [symbols[0], symbols[2]]
    (asked,) = model.asked
    assert np.isnan(asked[:, 1]).all()
    assert np.isfinite(asked[:, [0, 2]]).all()
    assert await online.read_signal(symbols[1]) is None


async def test_shorter_windows_end_with_the_same_row(online: OnlineStore, symbols: tuple[str, ...]) -> None:
    await online.write_features([window(symbols[0], 0.1, rows=5), window(symbols[1], 0.2, rows=2)])
    model = Model()
    await SignalDesk(online, symbols).compute(model, SERVED, TTL_S)
    (asked,) = model.asked
    assert asked.shape == (5, 3, 2)
    np.testing.assert_array_equal(asked[-1, :2, 0], [0.1, 0.2])
    assert np.isnan(asked[:3, 1]).all()
    assert np.isfinite(asked[3:, 1]).all()


@pytest.mark.parametrize("field", ["position", "probability_up"])
async def test_no_opinion_is_no_signal(online: OnlineStore, symbols: tuple[str, ...], field: str) -> None:
    await online.write_features([window(s, 0.1) for s in symbols])
    desk = SignalDesk(online, symbols)
    signals = await desk.compute(Model(**{field: [0.5, np.nan, 0.5]}), SERVED, TTL_S)
    assert list(signals) == [symbols[0], symbols[2]]
    assert await online.read_signal(symbols[1]) is None
    assert symbols[1] not in desk.last


async def test_a_model_that_expects_nothing_still_gives_its_position(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    await online.write_features([window(s, 0.1) for s in symbols])
    model = Model(expected_return=[0.01, np.nan, np.inf])
    signals = await SignalDesk(online, symbols).compute(model, SERVED, TTL_S)
    assert [s.expected_return for s in signals.values()] == [0.01, None, None]
    assert await online.read_signal(symbols[1]) == signals[symbols[1]]


async def test_without_any_features_it_is_not_ready(online: OnlineStore, symbols: tuple[str, ...]) -> None:
    desk, model = SignalDesk(online, symbols), Model()
    with pytest.raises(NotReady, match=f"No features are online for {symbols[0]}, "):
        await desk.compute(model, SERVED, TTL_S)
    assert model.asked == []


async def test_the_last_signals_outlive_a_bar_without_features(
    online: OnlineStore, symbols: tuple[str, ...], clock: ManualClock
) -> None:
    desk = SignalDesk(online, symbols)
    await online.write_features([window(s, 0.1) for s in symbols])
    first = await desk.compute(Model(), SERVED, TTL_S)
    clock.advance(3600.0)
    await online.write_features([window(symbols[1], 0.2, at=NOON + HOUR)])
    second = await desk.compute(Model(), SERVED, TTL_S)
    assert list(second) == [symbols[1]]
    assert desk.last == first | second


async def test_the_model_is_asked_once_for_the_same_windows_and_its_signals_live_on(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    desk, model = SignalDesk(online, symbols), Model()
    await online.write_features([window(symbols[0], 0.1)])
    first = await desk.compute(model, SERVED, TTL_S)
    await online._client.delete(f"{symbols[0]}:signal")
    desk._renew_at = 0.0  # as if the time had passed
    assert await desk.compute(model, SERVED, TTL_S) == first
    assert await online.read_signal(symbols[0]) == first[symbols[0]]
    assert len(model.asked) == 1
    # Another model, a symbol that comes late, or corrected features of the same bar are another question.
    await desk.compute(model, Served("v1.0.7", "simulated"), TTL_S)
    await online.write_features([window(symbols[1], 0.2)])
    late = await desk.compute(model, Served("v1.0.7", "simulated"), TTL_S)
    await online.write_features([window(symbols[1], 0.3)])
    corrected = await desk.compute(model, Served("v1.0.7", "simulated"), TTL_S)
    assert (late[symbols[1]].target_position, corrected[symbols[1]].target_position) == (0.2, 0.3)
    assert len(model.asked) == 4


async def test_what_the_model_fails_with_is_passed_on_and_nothing_is_written(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    async def fail(_: FloatArray) -> Signals:
        raise NotReady("The model is away.")

    await online.write_features([window(s, 0.1) for s in symbols])
    desk = SignalDesk(online, symbols)
    with pytest.raises(NotReady, match="The model is away"):
        await desk.compute(fail, SERVED, TTL_S)
    assert desk.last == {}
    assert await online.read_signal(symbols[0]) is None


async def test_when_redis_is_gone_the_last_signals_are_still_there(
    symbols: tuple[str, ...], clock: ManualClock, tmp_path: Path
) -> None:
    # A server of this test alone, so that it can be stopped.
    servers = EmbeddedServers(Settings.load(home=tmp_path, postgres_dsn="postgresql://not.used/x"))
    try:
        online = open_store(servers.start().redis_url, clock)
        await online.write_features([window(s, 0.1) for s in symbols])
        desk = SignalDesk(online, symbols)
        before = await desk.compute(Model(), SERVED, TTL_S)
    finally:
        servers.stop()
    with pytest.raises(StoreUnavailable):
        await desk.compute(Model(), SERVED, TTL_S)
    assert list(before) == list(symbols)
    assert desk.last == before
    await online.close()


async def test_a_signal_says_how_its_members_made_it_and_redis_gives_it_back(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    await online.write_features([window(symbols[0], 0.2)])
    (signal,) = (await SignalDesk(online, symbols).compute(Model(), SERVED, TTL_S)).values()
    assert signal.blend is not None
    assert signal.blend.opinions == {"trend": 1.0}
    assert signal.blend.weights == {"trend": 1.0}
    ways = dict.fromkeys(("ensemble", "router", "fixed_weights"), 0.2)
    assert signal.blend.positions == pytest.approx(ways | {"trend": 0.2 / PARTS})
    assert (signal.blend.route, signal.blend.weights_from) == ("ensemble", "prior")
    assert signal.blend.no_trade_band == BAND
    assert await online.read_signal(symbols[0]) == signal


async def test_who_was_absent_at_a_close_is_told_with_its_decision_and_asked_again_at_the_next(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    whole, asked = Model(), []

    async def answers(stacked: FloatArray) -> Signals:
        said = await whole(stacked)
        asked.append(len(asked))
        absent = {"lstm": "deadline_passed"} if len(asked) == 1 else {}
        return replace(said, opinions=replace(said.opinions, absent=absent))

    desk = SignalDesk(online, symbols)
    for at, absent in ((NOON, {"lstm": "deadline_passed"}), (NOON + HOUR, {})):
        await online.write_features([window(symbols[0], 0.2, at=at)])
        for _ in range(2):
            (signal,) = (await desk.compute(answers, SERVED, TTL_S)).values()
            assert signal.blend is not None
            assert (signal.as_of, signal.blend.absent) == (at, absent)
            assert await online.read_signal(symbols[0]) == signal
    assert len(asked) == 2


async def test_the_position_follows_the_weights_that_the_desk_is_told(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    members = ("trend", "strength")

    async def two_members(stacked: FloatArray) -> Signals:
        values = np.tile(np.array([0.5, -0.25]), (1, len(symbols), 1))
        said = Opinions(members, values, np.full((1, len(symbols)), 0.1), np.full(values.shape, np.nan))
        half = np.full(len(symbols), 0.5)
        return Signals(half, half, half, said, BAND)

    async def weigh(asked: Sequence[str], as_of: datetime) -> Route:
        assert (tuple(asked), as_of) == (members, NOON)
        told = np.array([0.8, 0.2]), np.array([0.4, 0.6])
        return Route(members, *told, "", {"bull": 1.0}, "redis", NOON.date() - timedelta(days=1), 43_200.0)

    await online.write_features([window(s, 0.1) for s in symbols])
    desk = SignalDesk(online, symbols, weigh=weigh)
    for signal in (await desk.compute(two_members, SERVED, TTL_S)).values():
        assert signal.blend is not None
        expected = {
            "ensemble": 3.0 * (0.8 * 0.5 - 0.2 * 0.25) * 0.1,
            "router": 3.0 * (0.4 * 0.5 - 0.6 * 0.25) * 0.1,
            "fixed_weights": 3.0 * (0.5 * 0.5 - 0.5 * 0.25) * 0.1,
            "trend": 0.05,
            "strength": -0.025,
        }
        assert signal.blend.positions == pytest.approx(expected)
        assert signal.target_position == signal.blend.positions["router"]
        assert (signal.blend.route, signal.blend.regime) == ("router", {"bull": 1.0})
        assert signal.blend.weights == {"trend": 0.4, "strength": 0.6}


async def test_a_signal_is_written_when_it_is_new_and_afterwards_only_its_life_is_renewed(
    online: OnlineStore, symbols: tuple[str, ...]
) -> None:
    await online.write_features([window(s, 0.1) for s in symbols])
    desk, model, ttl_s = SignalDesk(online, symbols), Model(), 0.9
    await desk.compute(model, SERVED, ttl_s)

    async def writes() -> int:
        stats = await online._client.info("commandstats")
        return int(stats.get("cmdstat_set", {"calls": 0})["calls"])

    before = await writes()
    for _ in range(20):
        await asyncio.sleep(0.1)
        await desk.compute(model, SERVED, ttl_s)
        assert await online.read_signal(symbols[0]) is not None
    assert await writes() == before
    assert len(model.asked) == 1


async def test_what_a_model_has_answered_is_told_once(online: OnlineStore, symbols: tuple[str, ...]) -> None:
    await online.write_features([window(symbols[0], 0.1), window(symbols[1], 0.2, at=NOON - HOUR)])
    told: list[Sequence[FeatureReading]] = []
    desk, model = SignalDesk(online, symbols, on_served=told.append), Model()
    for _ in range(2):
        await desk.compute(model, SERVED, TTL_S)
    ((reading,),) = told
    assert (reading.symbol, reading.event_time, reading.values["ret_1"]) == (symbols[0], NOON, 0.1)
    await online.write_features([window(symbols[0], 0.3)])
    await desk.compute(model, SERVED, TTL_S)
    assert [readings[0].values["ret_1"] for readings in told] == [0.1, 0.3]
