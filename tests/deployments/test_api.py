"""The fallbacks of the face without Ray: a real Redis-protocol server, and a router as a test wants it."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError

from deployments.api import Api
from deployments.router import Routed
from levibot.clock import ManualClock
from levibot.errors import LeviBotError, NotReady, RegistryConflict, StoreUnavailable, UnknownSymbol
from levibot.features.on_demand import Request
from levibot.features.views import CORE
from levibot.market.bars import Bars
from levibot.resilience.deadline import deadline
from levibot.serving.arms import Arm, arm_of
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.online import FeatureWindow, Freshness, OnlineStore, Signal
from levibot.stores.online_signals import CanaryShare
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MARKET_ID = "simulated:seed=7:edge=0.03:1h"


class FakeRouter:
    """Stands in for the handle of the router's deployment: `await handle.signals.remote(symbols)`."""

    def __init__(self) -> None:
        self.answer = Routed(None, "memory", "No model is active.", "Train one.")
        self.error: Exception | None = None
        self.refusal: LeviBotError | None = None
        self.n_asked = 0
        self.within_s: float | None = None

    @property
    def signals(self) -> FakeRouter:
        return self

    @property
    def signals_of(self) -> VersionsOfRouter:
        return VersionsOfRouter(self)

    async def remote(self, symbols: Sequence[str], within_s: float | None) -> dict[str, Routed]:
        self.n_asked += 1
        self.within_s = within_s
        if self.error is not None:
            raise self.error
        return dict.fromkeys(symbols, self.answer)


class VersionsOfRouter:
    """And `await handle.signals_of.remote(version, symbols)`."""

    def __init__(self, router: FakeRouter) -> None:
        self._router = router

    async def remote(
        self, _: str, symbols: Sequence[str], within_s: float | None
    ) -> dict[str, Routed] | LeviBotError:
        return self._router.refusal or await self._router.remote(symbols, within_s)


class FakeFeatures:
    """Stands in for the actor of the features: what it says must be online, or why it says nothing."""

    def __init__(self) -> None:
        self.answer: list[str] | NotReady = []
        self.n_asked = 0

    async def expected(self) -> tuple[list[str], str]:
        self.n_asked += 1
        if isinstance(self.answer, NotReady):
            raise self.answer
        return self.answer, "Shard 1 is away."


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A replica sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def symbols() -> tuple[str, str]:
    """Two symbols that no other test writes."""
    run = secrets.token_hex(4).upper()
    return f"A{run}", f"B{run}"


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


def make_api(
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
    symbols: tuple[str, str],
    router: FakeRouter,
    postgres_dsn: str = "postgresql://not.used/x",
) -> Api:
    """A replica whose market stands at noon: its replay is slower than any test."""
    settings = Settings(
        redis_url=redis_url,
        postgres_dsn=postgres_dsn,
        symbols=symbols,
        replay_start=NOON,
        replay_wall_start=datetime.now(UTC),
        replay_speed=1e-12,
    )
    for name, text in settings.environment().items():
        monkeypatch.setenv(name, text)
    api = Api(router, router)  # type: ignore[arg-type]
    api._features = FakeFeatures()  # type: ignore[assignment]
    return api


@pytest.fixture
async def api(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, symbols: tuple[str, str], router: FakeRouter
) -> AsyncIterator[Api]:
    api = make_api(monkeypatch, redis_url, symbols, router)
    yield api
    await api._online.close()


def open_store(redis_url: str) -> OnlineStore:
    clock = ManualClock(NOON)
    return OnlineStore.open(
        redis_url,
        MARKET_ID,
        CORE.version,
        CORE.names,
        clock=clock,
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )


@pytest.fixture
async def writer(redis_url: str) -> AsyncIterator[OnlineStore]:
    store = open_store(redis_url)
    yield store
    await store.close()


def signal(symbol: str, age: timedelta = timedelta(0)) -> Signal:
    return Signal(symbol, NOON - age, 0.6, 0.1, "v1.0.0", CORE.version, MARKET_ID, "simulated")


async def test_a_fresh_signal_comes_from_the_cache_and_nobody_else_is_asked(
    api: Api, writer: OnlineStore, symbols: tuple[str, str], router: FakeRouter
) -> None:
    await writer.write_signals([signal(symbols[0], HOUR)], 60.0)
    answer = await api.predict(symbols[0])
    assert (answer.signal, answer.served_from) == (signal(symbols[0], HOUR), "cache")
    assert (answer.freshness, round(answer.feature_age_s)) == (Freshness.FRESH, 3600)
    assert router.n_asked == 0


def key_in(arm: Arm, share: float) -> str:
    """A key that is in an arm of v1.1.0."""
    return next(key for n in range(1_000) if arm_of(key := f"key{n}", "v1.1.0", share) == arm)


@pytest.fixture
async def canary(writer: OnlineStore) -> AsyncIterator[CanaryShare]:
    yield CanaryShare("v1.1.0", 0.5)
    await writer.end_canary()


async def test_a_key_in_the_canarys_arm_is_answered_with_its_signal_and_nobody_else(
    api: Api, writer: OnlineStore, symbols: tuple[str, str], router: FakeRouter, canary: CanaryShare
) -> None:
    served = [signal(symbol) for symbol in symbols]
    beside = [replace(one, model_version="v1.1.0", target_position=-0.5) for one in served]
    await writer.write_signals(served, 60.0)
    await writer.write_canary(canary, beside, 60.0)
    for key_id, arm, expected in (
        (key_in("canary", 0.5), "canary", beside),
        (key_in("champion", 0.5), "champion", served),
        ("", "champion", served),
    ):
        answers = await api.predict_many(symbols, key_id)
        assert [(a.signal, a.arm, a.served_from, a.problem) for a in answers.values()] == [
            (one, arm, "cache", "") for one in expected
        ]
    # What is asked for by its name is nobody's arm.
    named = await api.predict(symbols[0], "v1.0.0", key_in("canary", 0.5))
    assert (named.signal, named.arm) == (served[0], None)
    await writer.write_canary(CanaryShare("v1.1.0", 1.0), beside, 60.0)
    assert (await api.predict(symbols[0])).arm == "canary"
    await writer.end_canary()
    assert (await api.predict(symbols[0], None, key_in("canary", 0.5))).arm == "champion"
    assert router.n_asked == 0


@pytest.mark.parametrize("why", ["silent", "old", "of another version", "torn"])
async def test_a_canary_without_a_fresh_signal_leaves_the_champions_and_the_answer_says_so(
    api: Api,
    writer: OnlineStore,
    symbols: tuple[str, str],
    router: FakeRouter,
    canary: CanaryShare,
    why: str,
) -> None:
    served = signal(symbols[0])
    await writer.write_signals([served], 60.0)
    beside = replace(signal(symbols[0], 5 * HOUR if why == "old" else 0 * HOUR), model_version="v1.1.0")
    await writer.write_canary(canary, [] if why == "silent" else [beside], 60.0)
    if why == "of another version":
        await writer.write_canary(CanaryShare("v1.1.1", 1.0), [], 60.0)
    if why == "torn":
        await writer._client.set(f"{symbols[0]}:signal:canary", "{", px=60_000)
    answer = await api.predict(symbols[0], None, key_in("canary", 0.5))
    assert (answer.signal, answer.arm, answer.served_from) == (served, "champion", "cache")
    assert "champion's" in answer.problem
    assert (await api.predict(symbols[0], None, "")).problem == (
        "" if why != "of another version" else answer.problem
    )
    assert router.n_asked == 0


async def test_what_was_read_a_moment_ago_is_held_for_each_arm_and_for_no_other_symbol(
    api: Api, writer: OnlineStore, symbols: tuple[str, str], canary: CanaryShare
) -> None:
    keys = [key_in(arm, 0.5) for arm in ("champion", "canary")]
    await writer.write_signals([signal(symbols[0])], 60.0)
    beside = replace(signal(symbols[0]), model_version="v1.1.0", probability_up=0.7)
    await writer.write_canary(canary, [beside], 60.0)
    assert [api.held(symbols[0], key) for key in keys] == [None, None]
    await api.predict(symbols[0], None, keys[0])
    held = [api.held(symbols[0], key) for key in keys]
    assert [(a.signal, a.arm, a.served_from) for a in held if a is not None] == [
        (signal(symbols[0]), "champion", "l1"),
        (beside, "canary", "l1"),
    ]
    assert [api.held(symbol, key) for symbol in (symbols[1], "DOGEUSDT") for key in keys] == [None] * 4


async def test_what_is_held_and_has_grown_old_is_looked_for(
    api: Api, writer: OnlineStore, symbols: tuple[str, str]
) -> None:
    await writer.write_signals([signal(symbols[0], 5 * HOUR)], 60.0)
    await api.predict(symbols[0])
    assert api.held(symbols[0], "") is None


async def test_what_the_cache_has_not_is_asked_of_the_router(
    api: Api, symbols: tuple[str, str], router: FakeRouter
) -> None:
    router.answer = Routed(signal(symbols[0]), "computed")
    answer = await api.predict(symbols[0])
    assert (answer.signal, answer.served_from) == (signal(symbols[0]), "computed")


@pytest.mark.parametrize("version", [None, "v1.0.0"])
async def test_the_router_is_told_how_long_the_caller_still_waits(
    api: Api, symbols: tuple[str, str], router: FakeRouter, version: str | None
) -> None:
    router.answer = Routed(signal(symbols[0]), "computed")
    await api.predict(symbols[0], version)
    assert router.within_s is None
    with deadline(5.0):
        await api.predict(symbols[0], version)
    assert router.within_s is not None
    assert 4.0 < router.within_s < 5.0


@pytest.mark.parametrize("routed_age_h", [None, 1, 9])
async def test_of_what_there_is_the_newest_is_given(
    api: Api, writer: OnlineStore, symbols: tuple[str, str], router: FakeRouter, routed_age_h: int | None
) -> None:
    await writer.write_signals([signal(symbols[0], 5 * HOUR)], 60.0)
    if routed_age_h is not None:
        router.answer = Routed(signal(symbols[0], routed_age_h * HOUR), "computed")
    answer = await api.predict(symbols[0])
    is_routed = routed_age_h == 1
    assert answer.served_from == ("computed" if is_routed else "memory")
    assert answer.freshness is (Freshness.FRESH if is_routed else Freshness.STALE)
    assert answer.signal.as_of == NOON - (1 if is_routed else 5) * HOUR


async def test_what_is_too_old_is_not_given_whoever_has_it(
    api: Api, symbols: tuple[str, str], router: FakeRouter
) -> None:
    router.answer = Routed(signal(symbols[0], 25 * HOUR), "memory")
    with pytest.raises(NotReady, match="90000 s old"):
        await api.predict(symbols[0])


async def test_without_a_signal_the_routers_reason_is_told(api: Api, symbols: tuple[str, str]) -> None:
    with pytest.raises(NotReady) as refused:
        await api.predict(symbols[0])
    assert (refused.value.message, refused.value.hint) == ("No model is active.", "Train one.")


async def test_a_version_by_name_is_asked_of_the_router_unless_it_is_the_one_in_the_cache(
    api: Api, writer: OnlineStore, symbols: tuple[str, str], router: FakeRouter
) -> None:
    await writer.write_signals([signal(symbols[0], HOUR)], 60.0)
    assert (await api.predict(symbols[0], "v1.0.0")).served_from == "cache"
    assert router.n_asked == 0
    other = replace(signal(symbols[0], HOUR), model_version="v1.0.7", target_position=-0.2)
    router.answer = Routed(other, "computed")
    assert (await api.predict(symbols[0], "v1.0.7")).signal == other
    # What it said is nobody else's answer, also when nothing newer is there.
    assert (await api.predict(symbols[0])).signal == signal(symbols[0], HOUR)
    assert other not in api._last.values()
    # An answer of another version is none, and what was raised is raised here.
    with pytest.raises(NotReady, match=f"{symbols[0]} has no signal of v1.0.8"):
        await api.predict(symbols[0], "v1.0.8")
    router.refusal = RegistryConflict("Version v1.0.9 reads another view.")
    with pytest.raises(RegistryConflict, match="another view"):
        await api.predict(symbols[0], "v1.0.9")


async def test_a_symbol_that_is_not_served_is_unknown(api: Api, router: FakeRouter) -> None:
    with pytest.raises(UnknownSymbol, match="XUSDT is not served"):
        await api.predict("XUSDT")
    assert router.n_asked == 0


async def test_signals_of_another_market_are_none(api: Api, symbols: tuple[str, str], redis_url: str) -> None:
    other = OnlineStore.open(
        redis_url,
        "another",
        CORE.version,
        CORE.names,
        clock=ManualClock(NOON),
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )
    await other.write_signals([replace(signal(symbols[0]), market_id="another")], 60.0)
    await other.close()
    with pytest.raises(NotReady):
        await api.predict(symbols[0])


async def test_ready_means_that_one_symbol_is_fresh_and_the_others_are_named(
    api: Api, writer: OnlineStore, symbols: tuple[str, str]
) -> None:
    state = await api.look_if_ready()
    assert (state.ready, state.model_version) == (False, None)
    assert state.reasons == [*(f"{s} has no signal yet." for s in symbols), "No model is active."]
    await writer.write_signals([signal(symbols[1], 3 * HOUR)], 60.0)
    state = await api.look_if_ready()
    assert not state.ready
    assert state.reasons[1] == f"{symbols[1]} has no signal since 2024-05-01T09:00:00+00:00."
    await writer.write_signals([signal(symbols[1])], 60.0)
    state = await api.look_if_ready()
    assert (state.ready, state.model_version) == (True, "v1.0.0")
    assert state.reasons == [f"{symbols[0]} has no signal yet."]


async def test_ready_waits_for_the_features_of_every_symbol_that_has_bars(
    api: Api, writer: OnlineStore, symbols: tuple[str, str]
) -> None:
    features: Any = api._features
    await writer.write_signals([signal(symbols[0])], 60.0)
    features.answer = NotReady("The actor does not answer.")
    state = await api.look_if_ready()
    assert not state.ready
    assert state.reasons[-1] == f"Features are missing for {', '.join(symbols)}: The actor does not answer."
    features.answer = list(symbols)
    rows = np.ones((2, len(CORE.names)))
    await writer.write_features([FeatureWindow(symbols[0], NOON, CORE.names, rows)])
    state = await api.look_if_ready()
    assert (state.ready, state.reasons[-1]) == (False, f"{symbols[1]} has no features yet. Shard 1 is away.")
    # The other symbol has no bars: nobody waits for it.
    features.answer = []
    assert (await api.look_if_ready()).ready
    # Once all are there the actor is not asked, and may as well be dead.
    features.answer, features.n_asked = NotReady("The actor does not answer."), 0
    await writer.write_features([FeatureWindow(symbols[1], NOON, CORE.names, rows)])
    assert (await api.look_if_ready()).ready
    assert features.n_asked == 0


async def test_ages_are_those_of_the_features_and_nan_without_any(
    api: Api, writer: OnlineStore, symbols: tuple[str, str]
) -> None:
    await writer.write_features(
        [FeatureWindow(symbols[0], NOON - 3 * HOUR, CORE.names, np.ones((2, len(CORE.names))))]
    )
    ages = await api.feature_ages()
    assert ages[symbols[0]] == pytest.approx(3 * 3600.0, abs=1.0)
    assert math.isnan(ages[symbols[1]])


def bars_until(symbol: str, close: datetime, n: int = 250) -> Bars:
    """Every bar trades 10 dollars a unit, and 1,000 units."""
    ts = np.datetime64(close.replace(tzinfo=None), "us") - np.arange(n, 0, -1) * np.timedelta64(HOUR)
    price = np.full(n, 10.0)
    return Bars(symbol, HOUR, ts, price, price, price, price, np.full(n, 1_000.0))


@pytest.fixture
async def api_with_bars(
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
    symbols: tuple[str, str],
    router: FakeRouter,
    tick_store: TickStore,
    postgres_dsn: str,
) -> AsyncIterator[Api]:
    async with tick_store._client.connection("which_database") as (db, _):
        database = await db.fetchval("SELECT current_database()")
    await tick_store.write_many(MARKET_ID, [bars_until(symbols[0], NOON)])
    dsn = postgres_dsn.rsplit("/", 1)[0] + f"/{database}"
    api = make_api(monkeypatch, redis_url, symbols, router, dsn)
    yield api
    await api._online.close()
    await api._requests.close()


async def test_features_say_of_every_value_how_old_it_is(
    api_with_bars: Api, writer: OnlineStore, symbols: tuple[str, str]
) -> None:
    rows = np.ones((2, len(CORE.names)))
    rows[-1, 3] = np.nan
    await writer.write_features([FeatureWindow(symbols[0], NOON - 3 * HOUR, CORE.names, rows)])
    known = await api_with_bars.features(symbols[0], 20_000.0)
    assert known.vector.event_time == NOON - 3 * HOUR
    assert (known.view_version, known.names) == (CORE.version, CORE.names)
    first = known.vector.value(CORE.names[0])
    assert (first.value, first.freshness) == (1.0, Freshness.STALE)
    assert first.age_s == pytest.approx(3 * 3600.0, abs=1.0)
    assert known.vector.value(CORE.names[3]).freshness is Freshness.MISSING
    # The order is two bars' worth of the 10,000 dollars that each bar trades.
    size = known.requested.values["order_size_24"]
    assert (size.value, size.freshness) == (pytest.approx(math.log(2.0)), Freshness.FRESH)
    assert known.requested.values["bar_age"].value == pytest.approx(0.0, abs=1e-3)
    assert known.requested.problem == ""


async def test_without_an_order_or_bars_features_of_a_request_are_missing_and_never_zero(
    api_with_bars: Api, symbols: tuple[str, str]
) -> None:
    without_order = (await api_with_bars.features(symbols[0], None)).requested
    assert without_order.values["order_size_24"].value is None
    assert without_order.values["bar_age"].value is not None
    without_bars = await api_with_bars.features(symbols[1], 1e4)
    assert {value.freshness for value in without_bars.requested.values.values()} == {Freshness.MISSING}
    assert without_bars.requested.problem == f"{symbols[1]} has no finished bars at {NOON.isoformat()}."
    assert without_bars.vector.freshness is Freshness.MISSING
    with pytest.raises(UnknownSymbol):
        await api_with_bars.features("XUSDT", None)


async def test_newer_bars_are_read_when_they_are_due_and_the_old_ones_say_their_age(
    api_with_bars: Api, tick_store: TickStore, symbols: tuple[str, str]
) -> None:
    requests = api_with_bars._requests
    at_noon = await requests.answer(Request(symbols[0], NOON))
    assert at_noon.values["bar_age"].value == 0.0
    late = await requests.answer(Request(symbols[0], NOON + 3 * HOUR))
    assert (late.values["bar_age"].value, late.values["bar_age"].freshness) == (3.0, Freshness.STALE)
    await tick_store.write_many(MARKET_ID, [bars_until(symbols[0], NOON + 3 * HOUR)])
    assert (await requests.answer(Request(symbols[0], NOON + 3 * HOUR))).values["bar_age"].value == 0.0
    # What is asked of the past is answered without what came later.
    assert (await requests.answer(Request(symbols[0], NOON + HOUR / 2))).values["bar_age"].value == 0.5


async def test_without_the_tick_store_the_vector_is_given_and_the_problem_told(
    api: Api, writer: OnlineStore, symbols: tuple[str, str]
) -> None:
    rows = np.ones((1, len(CORE.names)))
    await writer.write_features([FeatureWindow(symbols[0], NOON, CORE.names, rows)])
    known = await api.features(symbols[0], 1e4)
    assert known.vector.freshness is Freshness.FRESH
    assert {value.freshness for value in known.requested.values.values()} == {Freshness.MISSING}
    assert known.requested.problem.startswith("The newest bars cannot be read: ")


async def test_without_redis_and_router_the_last_answer_is_given_and_nothing_is_called_ready(
    monkeypatch: pytest.MonkeyPatch, symbols: tuple[str, str], router: FakeRouter, tmp_path: Path
) -> None:
    servers = EmbeddedServers(Settings(home=tmp_path, postgres_dsn="postgresql://not.used/x"))
    try:
        url = servers.start().redis_url
        api, writer = make_api(monkeypatch, url, symbols, router), open_store(url)
        await writer.write_signals([signal(symbols[0], HOUR)], 60.0)
        await writer.close()
        assert (await api.predict(symbols[0])).served_from == "cache"
    finally:
        servers.stop()
    router.error = RayActorError()
    answer = await api.predict(symbols[0])
    assert (answer.signal, answer.served_from) == (signal(symbols[0], HOUR), "memory")
    with pytest.raises(NotReady, match="The router does not answer: "):
        await api.predict(symbols[1])
    with pytest.raises(StoreUnavailable):
        await api.features(symbols[0], None)
    state = await api.look_if_ready()
    assert not state.ready
    assert len(state.reasons) == 1
    assert all(math.isnan(age_s) for age_s in (await api.feature_ages()).values())
    # The router is back before Redis is: its answer is newer than what is remembered.
    router.error, router.answer = None, Routed(signal(symbols[1]), "computed")
    assert (await api.predict(symbols[1])).served_from == "computed"
    await api._online.close()
