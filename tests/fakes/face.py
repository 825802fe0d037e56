"""A fake of what is behind the HTTP face: it answers BTCUSDT, with real keys and a real gate before it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np

from actors.processes import Said
from deployments.canaries import CanaryState
from deployments.ensemble import EnsembleState
from deployments.model_routes import ModelsFace
from deployments.models import Activated, ModelList
from deployments.policies import PolicyAnswer
from deployments.schemas import ErrorResponse, QueryCostEntry, Readiness
from deployments.slow_queries import top_queries
from deployments.webhook_schemas import WebhookSignal
from deployments.webhooks import Accepted
from levibot.access.admission import Admission
from levibot.access.api_key import Role
from levibot.access.key_file import KeyFile
from levibot.errors import LeviBotError, NotReady, UnknownSymbol, UnknownVersion
from levibot.monitoring.health import Health, State
from levibot.resilience.dependencies import DEPENDENCIES
from levibot.serving.answer import Answer
from levibot.serving.request_features import Requested, SymbolFeatures
from levibot.serving.signal_feed import SignalFeed
from levibot.stores.event import EventRow
from levibot.stores.events import Event, EventCursor, EventPage, EventQuery
from levibot.stores.online import Freshness, Signal
from levibot.stores.reading import FeatureReading, ValueReading
from levibot.stores.redis import open_redis
from levibot.stores.signal_stream import SignalStream
from levibot.telemetry.exposition import Family

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SIGNAL = Signal("BTCUSDT", NOON, 0.53, -0.25, "v1.0.2", "abc123", "market", "simulated", 0.01)
FRESH = ValueReading(0.5, Freshness.FRESH, 12.5)
ROW = np.array([[1.5, np.nan]])
VECTOR = FeatureReading(
    *("BTCUSDT", Freshness.FRESH, 12.5, ROW, {"a": 0, "b": 1}, int(NOON.timestamp() * 1e6)),
    *((Freshness.FRESH, 12.5), {}),
)
EVENT = Event("signal", "BTCUSDT", NOON, {"x": [0.1 + 0.2, None]}, "trace", "id")


class NoModels:
    """The registry's own tests are in test_models.py."""

    async def list(self) -> ModelList:
        raise NotReady("There are no models.")

    async def card(self, version: str) -> str:
        raise NotReady(f"There is no {version}.")

    async def activate(self, version: str, reason: str, instead_of: str | None) -> Activated:
        raise NotReady(f"There is no {version} for {reason} instead of {instead_of}.")


class FakeLimits:
    """Every key may ask, until a test says how long it has to wait."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked: list[str] = []

    async def wait_s(self, key_id: str) -> float:
        self.asked.append(key_id)
        return self.seconds


class FakeWebhooks:
    """Refuses all: the real one has its own tests, in test_webhooks.py."""

    async def check(self, timestamp: str, signature: str, body: bytes) -> None:
        raise NotReady("Webhooks are not taken here.")

    async def accept(self, signal: WebhookSignal, idempotency_key: str, trace_id: str) -> Accepted:
        raise NotReady("Webhooks are not taken here.")


class Weighed:
    """The stores' own tests are in test_ensemble.py."""

    def __init__(self) -> None:
        self.state: EnsembleState | None = None
        self.asked: list[int] = []

    async def weights(self, history_days: int) -> EnsembleState:
        self.asked.append(history_days)
        if self.state is None:
            raise NotReady("There are no weights.")
        return self.state


class NoCanary:
    """The stores' own tests are in test_canaries.py."""

    def __init__(self) -> None:
        self.state = CanaryState(None, NOON)

    async def canary(self) -> CanaryState:
        return self.state


class Shadow:
    """The replica's own tests are in test_rl_policy.py."""

    def __init__(self) -> None:
        self.answer: PolicyAnswer | LeviBotError = UnknownVersion("No policy is active.")

    async def decision(self, symbol: str) -> PolicyAnswer:
        if isinstance(self.answer, LeviBotError):
            raise self.answer
        assert symbol == self.answer.record.symbol
        return self.answer


class FakeFace:
    """Answers BTCUSDT; raises what a test gives it. home: of its file of keys, which has one of each role."""

    source = "simulated"

    def __init__(self, home: Path) -> None:
        self.keys = KeyFile(home)
        self.reader = self.keys.create("reader", Role.READER)[0]
        self.operator = self.keys.create("operator", Role.OPERATOR)[0]
        self.limits = FakeLimits()
        self.admission = Admission(self.keys, self.limits)
        self.webhooks = FakeWebhooks()
        self.is_running = False
        self.states = [Health(one, State.UP, 1.5, 0.2, "closed") for one in DEPENDENCIES]
        self.models: ModelsFace = NoModels()
        self.ensemble = Weighed()
        self.policies = Shadow()
        self.canaries = NoCanary()
        self.error: Exception | None = None
        self.answer = Answer(SIGNAL, 12.5, Freshness.FRESH, "cache")
        # Connects when somebody follows.
        self.feed = SignalFeed(
            SignalStream(open_redis("redis://127.0.0.1:1", timeout_s=1.0), "market", "abc123")
        )
        self.in_memory: dict[str, Answer] = {}
        self.is_ready = True
        self.ages: dict[str, float] = {"BTCUSDT": 12.5, "ETHUSDT": math.nan}
        self.n_asked = 0
        self.key_id = ""
        self.order_notional: float | None = None
        self.known = SymbolFeatures(
            VECTOR, Requested({"bar_age": FRESH}, "Bars are late."), NOON, "core", "abc123", ("a", "b")
        )
        self.query = EventQuery()
        self.page = EventPage((EventRow.of(EVENT),), EventCursor(NOON, "id"))
        self.profiles: list[Said] = []
        self.others: dict[str, list[Family]] = {}

    def held(self, symbol: str, key_id: str) -> Answer | None:
        self.key_id = key_id
        return self.in_memory.get(symbol)

    async def predict(self, symbol: str, version: str | None = None, key_id: str = "") -> Answer:
        self.n_asked += 1
        self.key_id = key_id
        if version not in (None, self.answer.signal.model_version):
            raise UnknownVersion(f"There is no version {version}.", hint="See /ai/models/list.")
        if self.error is not None:
            raise self.error
        if symbol != "BTCUSDT":
            raise UnknownSymbol(f"{symbol} is not served.", hint="Served are: BTCUSDT.")
        return self.answer

    async def predict_many(
        self, symbols: Sequence[str], key_id: str = ""
    ) -> dict[str, Answer | LeviBotError]:
        answers: dict[str, Answer | LeviBotError] = {}
        for symbol in symbols:
            try:
                answers[symbol] = await self.predict(symbol, None, key_id)
            except LeviBotError as exc:
                answers[symbol] = exc
        return answers

    async def features(self, symbol: str, order_notional: float | None) -> SymbolFeatures:
        self.n_asked += 1
        self.order_notional = order_notional
        if self.error is not None:
            raise self.error
        if symbol != "BTCUSDT":
            raise UnknownSymbol(f"{symbol} is not served.", hint="Served are: BTCUSDT.")
        return self.known

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.is_running = True
        yield
        self.is_running = False

    def health(self) -> list[Health]:
        return self.states

    async def readiness(self) -> Readiness:
        reasons = [] if self.is_ready else ["BTCUSDT has no signal yet."]
        return Readiness(
            ready=self.is_ready,
            reasons=reasons,
            model_version="v1.0.2" if self.is_ready else None,
            market_time=NOON + timedelta(seconds=12.5),
            source=self.source,
        )

    async def feature_ages(self) -> dict[str, float]:
        return self.ages

    async def events(self, query: EventQuery) -> EventPage:
        self.n_asked += 1
        self.query = query
        if self.error is not None:
            raise self.error
        return self.page

    async def metrics(self) -> dict[str, list[Family]]:
        return self.others

    async def slow_queries(self) -> tuple[list[QueryCostEntry], dict[str, str]]:
        return top_queries(self.profiles)


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, str]:
    """The error, which has the one shape and carries the id that the header carries."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == ErrorResponse(**answer.json()).model_dump()
    error: dict[str, str] = answer.json()["error"]
    assert error["code"] == code
    assert error["trace_id"] == answer.headers["x-request-id"]
    assert error["message"].endswith(".")
    assert "Traceback" not in answer.text
    return error
