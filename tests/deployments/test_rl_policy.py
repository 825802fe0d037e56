"""The replica of the policy in shadow: on real stores, and what the face makes of what it says."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest
import torch

from deployments.policies import Policies
from deployments.rl_policy import RlPolicy
from levibot.clock import ManualClock
from levibot.errors import DataError, LeviBotError, NotReady, RegistryConflict, UnknownSymbol, UnknownVersion
from levibot.features.views import CORE
from levibot.market.bars import Bars
from levibot.settings import Settings
from levibot.stores.connect import open_policies, open_ticks
from levibot.stores.event import EventRow
from levibot.stores.events import Event
from levibot.stores.model_files import ModelFolder
from levibot.stores.online import FeatureWindow, Freshness, OnlineStore
from levibot.stores.policy_ledger import PolicyRecord
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore
from rl.export_onnx import export
from rl.game import Game
from rl.planted_market import planted_market
from rl.policy import policy_spec
from rl.spaces import action_space, observation_space
from tests.databases import drop_database

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class FakeLog:
    """Stands in for the client of the event log."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, events: Sequence[Event]) -> None:
        self.events += events


class Handle:
    """Stands in for Serve's handle of a replica: `await handle.decision.remote(symbol)`."""

    def __init__(self, replica: RlPolicy) -> None:
        self._replica = replica

    @property
    def decision(self) -> Handle:
        return self

    async def remote(self, symbol: str) -> PolicyRecord | LeviBotError:
        return await self._replica.decision(symbol)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A replica sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    """The DSN of a migrated database of this test."""
    name = f"test_{secrets.token_hex(6)}"
    dsn = postgres_dsn.rsplit("/", 1)[0] + f"/{name}"
    admin = await asyncpg.connect(postgres_dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        store = await TickStore.open(dsn)
        await store.migrate()
        await store.close()
        yield dsn
        await drop_database(admin, name)
    finally:
        await admin.close()


@pytest.fixture
def symbol() -> str:
    """One that no other test writes."""
    return f"S{secrets.token_hex(4).upper()}"


@pytest.fixture
def settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str, database: str, symbol: str
) -> Settings:
    """A market that stands at noon: its replay is slower than any test."""
    settings = Settings(
        home=tmp_path,
        redis_url=redis_url,
        postgres_dsn=database,
        symbols=(symbol, "ETHUSDT"),
        replay_start=NOON,
        replay_wall_start=datetime.now(UTC),
        replay_speed=1e-12,
    )
    for name, text in settings.environment().items():
        monkeypatch.setenv(name, text)
    return settings


@pytest.fixture
def registry(settings: Settings, symbol: str, tmp_path: Path) -> Registry:
    """One policy of the symbol, which is not active."""
    market, game = planted_market(200, 0.002, 1, keeps_unscaled=True), Game()
    torch.manual_seed(3)
    module = policy_spec(observation_space(market), action_space("discrete")).build()
    made = Registry(ModelFolder(tmp_path / "made"))
    stored = made.load(
        export(module, market, game, made, {"market_id": settings.market_id}, seed=1, n_rows=300)
    )
    registry = open_policies(settings)
    registry.publish({**stored.metadata, "symbols": [symbol]}, stored.files)
    return registry


@pytest.fixture
async def replica(settings: Settings, registry: Registry) -> AsyncIterator[RlPolicy]:
    replica = RlPolicy()
    replica._events = FakeLog()  # type: ignore[assignment]
    yield replica
    await replica.close()


def online_of(settings: Settings) -> OnlineStore:
    return OnlineStore.open(
        settings.redis_url,
        settings.market_id,
        CORE.version,
        CORE.names,
        clock=ManualClock(NOON),
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )


async def told(replica: RlPolicy, symbol: str, condition: Callable[[Any], bool]) -> Any:
    for _ in range(500):
        answer = await replica.decision(symbol)
        if condition(answer):
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"after 10 s it says {answer!r}")


async def test_a_policy_is_active_has_features_decides_once_and_is_told(
    replica: RlPolicy, settings: Settings, registry: Registry, symbol: str
) -> None:
    policies = Policies(Handle(replica), settings)  # type: ignore[arg-type]
    await told(replica, symbol, lambda answer: isinstance(answer, UnknownVersion))
    with pytest.raises(UnknownVersion, match="No policy is active"):
        await policies.decision(symbol)
    with pytest.raises(UnknownSymbol, match="not served"):
        await policies.decision("DOGEUSDT")
    registry.activate("v1.0.0", "shadow")
    lacking = await told(replica, symbol, lambda answer: "no features online" in str(answer))
    assert isinstance(lacking, NotReady)
    assert isinstance(await replica.decision("ETHUSDT"), UnknownSymbol)
    ticks = await open_ticks(settings)
    online = online_of(settings)
    try:
        price = np.array([100.0])
        ts = np.array([NOON.replace(tzinfo=None) - HOUR], dtype="datetime64[us]")
        await ticks.write_bars(settings.market_id, Bars(symbol, HOUR, ts, *[price] * 4, price))
        row = np.ones((2, len(CORE.names)))
        row[-1, 1] = np.nan
        await online.write_features([FeatureWindow(symbol, NOON, CORE.names, row)])
        record = await told(replica, symbol, lambda answer: isinstance(answer, PolicyRecord))
        answer = await policies.decision(symbol)
        assert answer.record == record
        assert (answer.freshness, record.as_of) == (Freshness.FRESH, NOON)
        assert record.features[CORE.names[1]] is None
        assert record.features[CORE.names[0]] == 1.0
        assert sum(record.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
        assert await ticks.policies.history(settings.market_id, "v1.0.0", symbol) == [record]
        # The next close is another decision, and its account is that of the first.
        later = Bars(symbol, HOUR, ts + np.timedelta64(HOUR), *[price] * 4, price)
        await ticks.write_bars(settings.market_id, later)
        await online.write_features([FeatureWindow(symbol, NOON + HOUR, CORE.names, row)])
        second = await told(replica, symbol, lambda answer: answer != record)
        assert (second.as_of, second.follows) == (NOON + HOUR, NOON)
        assert await ticks.policies.history(settings.market_id, "v1.0.0", symbol) == [record, second]
        # And the signal's own accounts know nothing of it.
        assert await ticks.shadow.reach(settings.market_id) is None
    finally:
        await ticks.close()
        await online.close()
    log: Any = replica._events
    event, next_event = log.events
    assert (event.event_type, event.symbol, event.ts) == ("policy_decision", symbol, NOON)
    assert event.payload["features"] == record.features
    assert event.payload["position"] == record.position
    # As the log stores them.
    payloads = [json.loads(EventRow.of(one).payload) for one in (event, next_event)]
    assert [payload["follows"] for payload in payloads] == [None, NOON.isoformat()]


async def test_a_policy_of_another_view_is_a_conflict_that_says_so(
    replica: RlPolicy, settings: Settings, registry: Registry, symbol: str
) -> None:
    stored = registry.load("v1.0.0")
    metadata = {**stored.metadata, "view_version": "another"}
    registry.activate(registry.publish(metadata, stored.files), "by hand")
    told_first = await told(replica, symbol, lambda answer: isinstance(answer, RegistryConflict))
    policies = Policies(Handle(replica), settings)  # type: ignore[arg-type]
    # What else goes wrong before the version is looked at again does not take the refusal's place.
    replica._problem = NotReady("Something else.")
    again = await told(replica, symbol, lambda answer: isinstance(answer, RegistryConflict))
    assert (again.code, again.message, again.hint) == (told_first.code, told_first.message, told_first.hint)
    assert again.hint == "Train one for it: python -m rl.train_ppo"
    with pytest.raises(RegistryConflict, match=f"trained on view core another; .* core {CORE.version}"):
        await policies.decision(symbol)


async def test_a_turn_that_fails_says_its_own_error_and_hint(
    replica: RlPolicy, settings: Settings, registry: Registry, symbol: str
) -> None:
    """The bar at which the account began is gone, so that nothing can be decided."""
    ticks = await open_ticks(settings)
    online = online_of(settings)
    record = PolicyRecord(symbol, NOON - HOUR, None, "v1.0.0", CORE.version, 1.0, 2.0, {}, {}, 1e6)
    try:
        await ticks.policies.decide(settings.market_id, [record])
        await online.write_features([FeatureWindow(symbol, NOON, CORE.names, np.ones((2, len(CORE.names))))])
        registry.activate("v1.0.0", "shadow")
        lost = await told(replica, symbol, lambda answer: isinstance(answer, DataError))
        assert "is not stored any more" in lost.message
        assert "levibot ingest" in lost.hint
    finally:
        await ticks.close()
        await online.close()


class SlowHandle:
    """As Ray gives it, of a replica that answers late; it counts its questions."""

    def __init__(self) -> None:
        self.n_asked = 0

    @property
    def decision(self) -> SlowHandle:
        return self

    async def remote(self, symbol: str) -> PolicyRecord | LeviBotError:
        self.n_asked += 1
        if self.n_asked == 2:
            return NotReady("There is none now.")
        await asyncio.sleep(0.2)
        return PolicyRecord(symbol, NOON, None, "v1.0.0", CORE.version, 1.0, 2.0, {}, {}, 1e6)


async def test_many_callers_share_one_question_and_what_one_of_them_gives_up_is_the_others_still(
    settings: Settings, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = SlowHandle()
    policies = Policies(handle, settings)  # type: ignore[arg-type]
    gone = asyncio.create_task(policies.decision(symbol))
    others = [asyncio.create_task(policies.decision(symbol)) for _ in range(20)]
    await asyncio.sleep(0.02)
    gone.cancel()
    answers = await asyncio.gather(*others)
    assert {answer.record.as_of for answer in answers} == {NOON}
    assert handle.n_asked == 1
    # Once what was said is as old as that, the replica is asked again, and what it says counts.
    monkeypatch.setattr("deployments.policies.RENEW_S", -1.0)
    with pytest.raises(NotReady, match="none now"):
        await policies.decision(symbol)
    assert handle.n_asked == 2
