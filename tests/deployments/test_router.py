"""The router without Ray: real Redis, a registry on disk, and a model as a test wants it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deployments.router import Routed, Router
from levibot.clock import ManualClock
from levibot.errors import (
    NotReady,
    RegistryConflict,
    RegistryError,
    SettingsError,
    StoreUnavailable,
    UnknownVersion,
)
from levibot.features.served import EVENT_TYPE, ServedVector
from levibot.features.views import CORE
from levibot.learning.blending import LearnedOpinion, SignalParameters
from levibot.learning.signal import KIND
from levibot.market.bars import FloatArray
from levibot.serving.canary_desk import CanaryBar
from levibot.settings import Settings
from levibot.stores.canary_setting import CanarySetting
from levibot.stores.events import Event
from levibot.stores.live_weights import KEY, HeldWeights, LiveWeights
from levibot.stores.model_files import ModelFolder
from levibot.stores.online import FeatureWindow, OnlineStore
from levibot.stores.online_signals import CanaryShare
from levibot.stores.redis import open_redis
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MEMBERS = ("trend", "strength", "lightgbm")
MARKET_ID = "simulated:seed=7:edge=0.03:1h"


class Method:
    """`handle.say.remote(...)` of a deployment's handle."""

    def __init__(self, remote: Callable[..., Awaitable[object]]) -> None:
        self.remote = remote


class FakeModel:
    """Stands in for the handle of the deployment of members."""

    def __init__(self) -> None:
        self.say, self.load = Method(self._say), Method(self._load)
        self.broken: set[str] = set()
        self.away: set[str] = set()
        self.held_back: dict[str, asyncio.Event] = {}
        self.takes_s = 0.0
        self.unforeseen: list[Exception] = []
        self.asked: list[str] = []
        self.loaded: list[str] = []

    async def _load(self, version: str) -> None:
        self.loaded.append(version)
        if version in self.held_back:
            await self.held_back[version].wait()
        if version in self.broken:
            raise RegistryError(f"model.txt of version {version} is not what was published.")
        if version in self.away:
            raise StoreUnavailable("s3://models did not answer.")

    async def _say(self, version: str, window: FloatArray) -> dict[str, LearnedOpinion]:
        self.asked.append(version)
        await asyncio.sleep(self.takes_s)
        if self.unforeseen:
            raise self.unforeseen.pop()
        half = np.full((1, window.shape[1]), 0.5)
        return {"lightgbm": LearnedOpinion(half, half, half)}


class FakeLog:
    """Stands in for the client of the event log."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, events: Sequence[Event]) -> None:
        self.events += events


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A replica sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def symbol() -> str:
    """One that no other test writes."""
    return f"S{secrets.token_hex(4).upper()}"


@pytest.fixture
def registry(tmp_path: Path, symbol: str) -> Registry:
    registry = Registry(ModelFolder(tmp_path / "models"))
    manifest = {
        "feature_names": list(CORE.names),
        "symbols": [symbol],
        "interval_s": 3600.0,
        "parameters": SignalParameters().to_json(),
        "training": {"kinds": ["lightgbm"]},
    }
    for _ in range(3):
        registry.publish(manifest, {"model.txt": b"tree\n"})
    registry.activate("v1.0.0", "first")
    return registry


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
async def online(redis_url: str, symbol: str) -> AsyncIterator[OnlineStore]:
    store = OnlineStore.open(
        redis_url,
        MARKET_ID,
        CORE.version,
        CORE.names,
        clock=ManualClock(NOON),
        interval=timedelta(hours=1),
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )
    await store.write_features([FeatureWindow(symbol, NOON, CORE.names, np.ones((2, len(CORE.names))))])
    yield store
    await store.close()


@pytest.fixture
def dsn() -> str:
    """Where signals are written down; nowhere, unless a test says so."""
    return "postgresql://not.used/x"


@pytest.fixture
def config() -> dict[str, object] | None:
    """The first `user_config` of the replica; None: it has not come yet."""
    return {}


@pytest.fixture
async def router(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    redis_url: str,
    registry: Registry,
    symbol: str,
    model: FakeModel,
    online: OnlineStore,
    dsn: str,
    config: dict[str, object] | None,
) -> AsyncIterator[Router]:
    """A replica whose market stands at noon: its replay is slower than any test."""
    settings = Settings(
        home=tmp_path,
        redis_url=redis_url,
        postgres_dsn=dsn,
        symbols=(symbol,),
        replay_start=NOON,
        replay_wall_start=datetime.now(UTC),
        replay_speed=1e-12,
    )
    for name, text in settings.environment().items():
        monkeypatch.setenv(name, text)
    router = Router({("lightgbm",): model})  # type: ignore[dict-item]
    router._events = FakeLog()  # type: ignore[assignment]
    if config is not None:
        router.reconfigure(config)
    yield router
    await router.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen within 10 s")


def told(router: Router, event_type: str) -> list[Event]:
    assert isinstance(router._events, FakeLog)
    return [event for event in router._events.events if event.event_type == event_type]


async def test_a_signal_lives_on_while_no_newer_bar_comes(
    router: Router, online: OnlineStore, symbol: str, model: FakeModel
) -> None:
    for _ in range(3):

        async def is_there() -> bool:
            return await online.read_signal(symbol) is not None

        await until(is_there)
        # As its time to live would, or a FLUSHALL.
        await online._client.delete(f"{symbol}:signal")
    assert model.asked == ["v1.0.0"]
    assert len(told(router, "signal")) == 1


async def test_a_broken_active_version_is_said_and_the_last_good_one_answers(
    router: Router, registry: Registry, symbol: str, model: FakeModel
) -> None:
    registry.activate("v1.0.1", "second")
    model.broken = {"v1.0.2"}
    registry.activate("v1.0.2", "third")

    async def is_answered_by_the_second() -> bool:
        routed = (await router.signals([symbol]))[symbol]
        assert routed.signal is not None
        return (routed.signal.model_version, routed.served_from) == ("v1.0.1", "computed")

    await until(is_answered_by_the_second)
    (refused,) = told(router, "model_refused")
    assert refused.payload == {
        "version": "v1.0.2",
        "reason": "model.txt of version v1.0.2 is not what was published.",
    }


async def test_a_new_version_that_cannot_be_fetched_leaves_the_one_before(
    router: Router, registry: Registry, symbol: str, model: FakeModel
) -> None:
    async def is_answered_by(version: str) -> bool:
        routed = (await router.signals([symbol]))[symbol]
        return routed.signal is not None and routed.signal.model_version == version

    await until(lambda: is_answered_by("v1.0.0"))
    model.away = {"v1.0.1"}
    registry.activate("v1.0.1", "second")

    async def was_tried() -> bool:
        return "v1.0.1" in model.loaded

    await until(was_tried)
    routed = (await router.signals([symbol]))[symbol]
    assert routed.signal is not None
    assert (routed.signal.model_version, routed.served_from) == ("v1.0.0", "computed")
    model.away = set()
    await until(lambda: is_answered_by("v1.0.1"))
    assert told(router, "model_refused") == []


async def test_a_version_that_loads_slowly_holds_no_bar_and_answers_once_it_is_there(
    router: Router, registry: Registry, symbol: str, model: FakeModel, online: OnlineStore
) -> None:
    async def is_answered_by(version: str, at: datetime) -> bool:
        signal = (await router.signals([symbol]))[symbol].signal
        return signal is not None and (signal.model_version, signal.as_of) == (version, at)

    await until(lambda: is_answered_by("v1.0.0", NOON))
    model.held_back["v1.0.1"] = asyncio.Event()
    registry.activate("v1.0.1", "second")

    async def is_loading() -> bool:
        return "v1.0.1" in model.loaded

    await until(is_loading)
    later = NOON + timedelta(hours=1)
    await online.write_features([FeatureWindow(symbol, later, CORE.names, np.ones((2, len(CORE.names))))])
    await until(lambda: is_answered_by("v1.0.0", later))
    assert "v1.0.1" not in model.asked
    model.held_back["v1.0.1"].set()
    await until(lambda: is_answered_by("v1.0.1", later))
    assert model.loaded == ["v1.0.0", "v1.0.1"]


async def test_the_first_version_is_waited_for_and_its_callers_are_told(
    router: Router, symbol: str, model: FakeModel
) -> None:
    model.held_back["v1.0.0"] = asyncio.Event()
    routed = (await router.signals([symbol]))[symbol]
    assert (routed.signal, routed.problem) == (None, "v1.0.0 is being loaded by its members.")
    model.held_back["v1.0.0"].set()

    async def is_there() -> bool:
        return (await router.signals([symbol]))[symbol].signal is not None

    await until(is_there)


async def test_the_deadline_of_one_caller_ends_no_work_that_others_wait_for(
    router: Router, symbol: str, model: FakeModel
) -> None:
    # The follower would begin the work by itself, without a deadline.
    router._follower.cancel()
    await asyncio.gather(router._follower, return_exceptions=True)
    model.takes_s = 0.3

    hurried = asyncio.create_task(router.signals([symbol], 0.1))
    await asyncio.sleep(0)
    versions = asyncio.create_task(router.signals_of("v1.0.9", [symbol], 0.0))
    patient = (await router.signals([symbol]))[symbol]
    assert (patient.served_from, patient.problem) == ("computed", "")
    assert patient.signal is not None
    assert patient.signal.blend is not None
    assert patient.signal.blend.absent == {}
    assert hurried.done()
    late = hurried.result()[symbol]
    assert (late.signal, late.served_from, late.hint) == (None, "memory", "Wait longer.")
    assert late.problem == "Nothing newer came within the 0.1 s that the caller still waits."
    assert isinstance(await versions, NotReady)
    assert model.asked == ["v1.0.0"]


@pytest.mark.parametrize("config", [None])
async def test_nothing_is_decided_before_the_first_configuration(
    router: Router, online: OnlineStore, symbol: str, model: FakeModel
) -> None:
    with pytest.raises(SettingsError, match=r"user_config\.weights is"):
        router.reconfigure({"weights": {"trend": 0.7}})
    # Longer than the follower takes to a signal, which the end of this test shows.
    await asyncio.sleep(0.6)
    assert (model.loaded, await online.read_signal(symbol)) == ([], None)
    alone = {"trend": 0.0, "strength": 0.0, "lightgbm": 1.0}
    router.reconfigure({"weights": alone})

    async def is_there() -> bool:
        return await online.read_signal(symbol) is not None

    await until(is_there)
    signal = await online.read_signal(symbol)
    assert signal is not None
    assert signal.blend is not None
    assert (signal.blend.weights_from, signal.blend.weights) == ("configuration", alone)


async def test_with_no_good_version_the_reason_is_told(router: Router, symbol: str, model: FakeModel) -> None:
    model.broken = {"v1.0.0"}

    async def has_tried_all() -> bool:
        return bool(told(router, "model_refused"))

    await until(has_tried_all)
    routed = (await router.signals([symbol]))[symbol]
    assert routed.signal is None
    assert routed.problem == "model.txt of version v1.0.0 is not what was published."


async def test_an_unforeseen_error_does_not_end_the_follower(
    router: Router, online: OnlineStore, symbol: str, model: FakeModel
) -> None:
    model.unforeseen = [ZeroDivisionError("planted")]

    async def is_there() -> bool:
        return await online.read_signal(symbol) is not None

    await until(is_there)
    assert model.unforeseen == []
    router.check_health()


async def test_a_follower_that_ended_makes_the_replica_ill(router: Router) -> None:
    router._follower.cancel()
    await asyncio.gather(router._follower, return_exceptions=True)
    with pytest.raises(RuntimeError, match="no longer follows"):
        router.check_health()


async def test_a_served_vector_goes_to_the_event_log_as_the_model_got_it(
    router: Router, symbol: str, online: OnlineStore
) -> None:
    await router.signals([symbol])
    await router.signals([symbol])
    (event,) = told(router, EVENT_TYPE)
    served = ServedVector.from_event(event)
    assert (served.symbol, served.view_version, served.event_time) == (symbol, CORE.version, NOON)
    assert served.values == dict((await online.get(symbol)).values)


async def test_a_configuration_in_place_weighs_at_once_and_a_bad_one_changes_nothing(
    router: Router, symbol: str
) -> None:
    async def weighed() -> tuple[str, dict[str, float]]:
        signal = (await router.signals([symbol]))[symbol].signal
        assert signal is not None
        assert signal.blend is not None
        return signal.blend.weights_from, dict(signal.blend.weights)

    assert (await weighed())[0] == "prior"
    alone = {"trend": 0.0, "strength": 0.0, "lightgbm": 1.0}
    router.reconfigure({"weights": alone})
    assert await weighed() == ("configuration", alone)
    router.reconfigure({"weights": alone | {"trend": 0.5}})
    assert await weighed() == ("configuration", alone)
    router.reconfigure({"pinned_version": "v1.0.1"})

    async def is_answered_by_the_pinned() -> bool:
        signal = (await router.signals([symbol]))[symbol].signal
        return signal is not None and signal.model_version == "v1.0.1"

    await until(is_answered_by_the_pinned)
    assert (await weighed())[0] == "prior"


async def dsn_of(tick_store: TickStore, postgres_dsn: str) -> str:
    """Of the database that a test has for itself."""
    async with tick_store._client.connection("which_database") as (db, _):
        name = await db.fetchval("SELECT current_database()")
    return f"{postgres_dsn.rsplit('/', 1)[0]}/{name}"


class TestWrittenDown:
    """With a PostgreSQL to write to."""

    @pytest.fixture
    async def dsn(self, postgres_dsn: str, tick_store: TickStore) -> str:
        return await dsn_of(tick_store, postgres_dsn)

    @pytest.fixture(autouse=True)
    async def weights(self, redis_url: str, online: OnlineStore) -> AsyncIterator[HeldWeights]:
        """Those that have learned from the day before, there before the replica is."""
        live = LiveWeights(open_redis(redis_url, timeout_s=2.0))
        day = NOON.date() - timedelta(days=1)
        held = HeldWeights(
            day, MEMBERS, (0.5, 0.25, 0.25), (0.5, 0.25, 0.25), "", {"bear": 1.0}, "prior", "v1.0.0"
        )
        await live.write(MARKET_ID, [held])
        yield held
        await live._client.delete(KEY)
        await live.close()

    async def test_a_signal_is_taken_under_the_live_weights_and_written_with_what_every_account_wants(
        self, weights: HeldWeights, router: Router, symbol: str, tick_store: TickStore
    ) -> None:
        async def is_written() -> bool:
            return bool(await tick_store.signals.read(MARKET_ID, symbol))

        await until(is_written)
        routed = (await router.signals([symbol]))[symbol]
        assert routed.signal is not None
        blend = routed.signal.blend
        assert blend is not None
        assert (blend.route, blend.abstained, blend.regime) == ("router", "", {"bear": 1.0})
        assert (blend.weights_from, blend.weights_as_of) == ("redis", weights.as_of)
        assert blend.weights_age_s == 43_200.0
        (decision,) = await tick_store.shadow.decisions(MARKET_ID)
        assert (decision.symbol, decision.as_of, decision.model_version) == (symbol, NOON, "v1.0.0")
        assert decision.positions == blend.positions
        (row,) = await tick_store.signals.read(MARKET_ID, symbol)
        assert row.target_position == routed.signal.target_position


def publish(registry: Registry, symbol: str, **changed: object) -> str:
    """One more version of the first one's content, fit for the router's run."""
    fit = {"kind": KIND, "view_version": CORE.version, "window_bars": 1, "symbols": [symbol]}
    return registry.publish({**registry.metadata("v1.0.0"), **fit, **changed}, {"model.txt": b"tree\n"})


async def test_a_version_asked_for_by_name_answers_beside_the_signal_and_never_becomes_it(
    router: Router, registry: Registry, symbol: str, model: FakeModel, online: OnlineStore
) -> None:
    other = publish(registry, symbol)
    serving = (await router.signals([symbol]))[symbol].signal
    assert serving is not None
    answers = await asyncio.gather(*(router.signals_of(other, [symbol]) for _ in range(5)))
    for answer in answers:
        assert isinstance(answer, dict)
        assert answer[symbol].signal == replace(serving, model_version=other)
    # One load, after the one that serves was asked for again, and one question, for five callers.
    assert model.loaded == ["v1.0.0", "v1.0.0", other]
    assert model.asked == ["v1.0.0", other]
    assert await router.signals_of("v1.0.0", [symbol]) == {symbol: Routed(serving, "computed")}
    assert await online.read_signal(symbol) == serving
    assert {event.payload["model_version"] for event in told(router, "signal")} == {"v1.0.0"}
    # At the next bar it is asked again, and is loaded already.
    later = NOON + timedelta(hours=1)
    await online.write_features([FeatureWindow(symbol, later, CORE.names, np.ones((2, len(CORE.names))))])
    answer = await router.signals_of(other, [symbol])
    assert isinstance(answer, dict)
    assert answer[symbol].signal is not None
    assert answer[symbol].signal.as_of == later
    assert model.loaded == ["v1.0.0", "v1.0.0", other]


async def test_a_version_that_is_not_there_does_not_fit_or_is_broken_is_said(
    router: Router, registry: Registry, symbol: str, model: FakeModel
) -> None:
    strange = publish(registry, symbol, symbols=["DOGEUSDT"])
    broken = publish(registry, symbol, window_bars=2)
    model.broken = {broken}
    assert isinstance(await router.signals_of("v9.9.9", [symbol]), UnknownVersion)
    misfit = await router.signals_of(strange, [symbol])
    assert isinstance(misfit, RegistryConflict)
    assert "DOGEUSDT" in misfit.message
    assert type(await router.signals_of(broken, [symbol])) is RegistryError
    # What is asked for by name never refuses the version that serves.
    assert told(router, "model_refused") == []
    assert (await router.signals([symbol]))[symbol].served_from == "computed"


async def test_one_version_is_loaded_at_a_time_and_callers_hear_of_it(
    router: Router, registry: Registry, symbol: str, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("levibot.serving.other_versions.LOADING_S", 0.05)
    slow, other = publish(registry, symbol), publish(registry, symbol, window_bars=2)
    model.held_back[slow] = asyncio.Event()
    for _ in range(2):
        answer = await router.signals_of(slow, [symbol])
        assert isinstance(answer, NotReady)
        assert answer.message == f"Version {slow} is being loaded by its members."
    answer = await router.signals_of(other, [symbol])
    assert isinstance(answer, NotReady)
    assert answer.message == f"Version {other} waits until {slow} is loaded."
    model.held_back[slow].set()

    async def is_answered() -> bool:
        return not isinstance(await router.signals_of(slow, [symbol]), NotReady)

    await until(is_answered)
    assert model.loaded.count(slow) == 1
    assert isinstance(await router.signals_of(other, [symbol]), dict)


class FakeHolder:
    """The members of a canary, as a test wants them."""

    kinds = ("lightgbm",)

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.n_loaded = 0
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.error: Exception | None = None
        self.is_closed = False

    async def load(self, version: str) -> None:
        self.n_loaded += 1
        if isinstance(self.error, RegistryError):
            raise self.error

    async def say(self, version: str, window: FloatArray) -> dict[str, LearnedOpinion]:
        self.asked.append(version)
        await self.hangs.wait()
        if self.error is not None:
            raise self.error
        half = np.full((1, window.shape[1]), 0.25)
        return {"lightgbm": LearnedOpinion(half, half, half)}

    async def close(self) -> None:
        self.is_closed = True


class TestCanary:
    """A version that some callers are answered with, beside the one that serves."""

    @pytest.fixture
    async def dsn(self, postgres_dsn: str, tick_store: TickStore) -> str:
        return await dsn_of(tick_store, postgres_dsn)

    @pytest.fixture
    async def holder(self, router: Router, online: OnlineStore) -> AsyncIterator[FakeHolder]:
        holder = FakeHolder()
        router._canary.desk._open_holder = lambda _: holder
        yield holder
        await online.end_canary()

    async def test_its_signals_lie_beside_those_that_serve_and_the_share_changes_in_place(
        self, router: Router, holder: FakeHolder, symbol: str, registry: Registry, online: OnlineStore
    ) -> None:
        other = publish(registry, symbol)

        async def shows(share: float | None) -> bool:
            canary = (await online.read_arms([symbol])).canary
            return canary == (None if share is None else CanaryShare(other, share))

        for share in (0.25, 0.5):
            router.reconfigure({"canary": {"version": other, "share": share}})
            await until(lambda share=share: shows(share))
        arms = await online.read_arms([symbol])
        served, beside = arms.champion[symbol], arms.canary_signal(symbol)
        assert served is not None
        assert beside is not None
        assert (served.model_version, beside.model_version) == ("v1.0.0", other)
        assert (served.as_of, served.probability_up, beside.probability_up) == (beside.as_of, 0.5, 0.25)
        # Once for the bar, and in no process of those that serve.
        assert holder.asked == [other]
        router.reconfigure({"canary": None})
        await until(lambda: shows(None))
        assert holder.is_closed
        assert {event.payload["model_version"] for event in told(router, "signal")} == {"v1.0.0"}

    @pytest.mark.parametrize("fault", ["hangs", "fails", "refuses"])
    async def test_whatever_it_does_the_champion_answers_the_same_and_in_time(
        self,
        router: Router,
        holder: FakeHolder,
        symbol: str,
        registry: Registry,
        online: OnlineStore,
        model: FakeModel,
        fault: str,
    ) -> None:
        before = (await router.signals([symbol]))[symbol]
        if fault == "hangs":
            holder.hangs.clear()
        else:
            holder.error = ValueError("torn") if fault == "fails" else RegistryError("It is broken.")
        router.reconfigure({"canary": {"version": publish(registry, symbol), "share": 1.0}})

        async def was_tried() -> bool:
            return bool(holder.asked) or holder.n_loaded > 0

        await until(was_tried)
        assert (await router.signals([symbol]))[symbol] == before
        later = NOON + timedelta(hours=1)
        row = np.ones((2, len(CORE.names)))
        await online.write_features([FeatureWindow(symbol, later, CORE.names, row)])
        started = asyncio.get_running_loop().time()

        async def is_later() -> bool:
            signal = (await router.signals([symbol]))[symbol].signal
            return signal is not None and signal.as_of == later

        await until(is_later)
        took_s = asyncio.get_running_loop().time() - started
        routed = (await router.signals([symbol]))[symbol]
        assert routed.signal is not None
        assert (routed.signal.as_of, routed.served_from) == (later, "computed")
        assert (routed.signal.model_version, routed.signal.probability_up) == ("v1.0.0", 0.5)
        assert took_s < 1.0
        assert await online.read_signal(symbol) == routed.signal
        assert model.asked == ["v1.0.0"] * 2
        assert (await online.read_arms([symbol])).canary_signal(symbol) is None

    async def test_one_that_fails_is_taken_back_by_itself_and_a_router_after_does_not_begin_it_again(
        self, router: Router, holder: FakeHolder, symbol: str, registry: Registry, online: OnlineStore
    ) -> None:
        other = publish(registry, symbol)
        holder.error = RegistryError("It is broken.")
        served = (await router.signals([symbol]))[symbol].signal
        assert served is not None
        canary = {"version": other, "share": 0.5}
        router.reconfigure({"canary": canary})

        async def was_tried() -> bool:
            return router._canary.keeping._run is not None and bool(router._canary.keeping._newest)

        await until(was_tried)
        assert (await online.read_arms([symbol])).canary == CanaryShare(other, 0.5)
        # The market of these tests has one bar more at most: the other two are told as the desk would.
        for bar in range(1, 3):
            as_of = NOON + bar * timedelta(hours=1)
            failed = CanaryBar(as_of, "failed", "It is broken.", None, {}, {})
            router._canary.keeping.note(CanarySetting(other, 0.5), failed)

        async def is_hidden() -> bool:
            return (await online.read_arms([symbol])).canary is None

        await until(is_hidden)
        (event,) = told(router, "canary_rolled_back")
        assert (event.payload["version"], event.payload["reason"]) == (other, "errors")
        assert event.payload["numbers"]["n_failed"] == 3
        assert holder.is_closed
        assert (await router.signals([symbol]))[symbol].signal == served

        async def is_on_record() -> bool:
            return not router._canary.keeping._broken

        await until(is_on_record)
        holder.error, holder.n_loaded = None, 0
        router._canary.keeping._run = None
        await asyncio.sleep(1.5)
        assert (holder.n_loaded, await is_hidden()) == (0, True)
        router.reconfigure({"canary": canary | {"attempt": 2}})

        async def is_shown() -> bool:
            return (await online.read_arms([symbol])).canary == CanaryShare(other, 0.5)

        await until(is_shown)
