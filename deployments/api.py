"""The HTTP face. A prediction is a cache read; the graph behind it is walked only when the cache has none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors import event_log, online_features
from actors.processes import Said
from deployments.canaries import Canaries
from deployments.canary_routes import CanariesFace
from deployments.ensemble import Ensemble
from deployments.ensemble_routes import EnsembleFace
from deployments.http import build_http
from deployments.loopback import keep_to_loopback
from deployments.model_routes import ModelsFace
from deployments.models import Models
from deployments.policies import Policies
from deployments.probes import Probes
from deployments.processes import Processes
from deployments.rl_routes import PoliciesFace
from deployments.router import Routed
from deployments.schemas import QueryCostEntry, Readiness
from deployments.slow_queries import SHOWN, top_queries
from deployments.webhook_routes import WebhooksFace
from deployments.webhooks import Webhooks
from levibot.access.admission import Admission
from levibot.access.key_file import KeyFile
from levibot.access.key_limiter import KeyLimiter
from levibot.errors import LeviBotError, NotReady, StoreError, StoreUnavailable, UnknownSymbol
from levibot.features.on_demand import ON_DEMAND
from levibot.features.on_demand import Request as OnDemandRequest
from levibot.features.views import CORE
from levibot.monitoring.health import Health, HealthWatch
from levibot.resilience.deadline import remaining_s
from levibot.resilience.guard import Guard
from levibot.resilience.lately import Lately
from levibot.serving.answer import Answer, AnswerPolicy
from levibot.serving.arms import CANARY, CHAMPION, Arm, of_canary
from levibot.serving.request_features import RequestFeatures, SymbolFeatures
from levibot.serving.signal_cache import SignalCache
from levibot.serving.signal_feed import SignalFeed
from levibot.serving.staleness import staleness_limit_s
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_online, open_signal_stream, open_ticks
from levibot.stores.events import EventPage, EventQuery
from levibot.stores.online import Freshness, Signal
from levibot.stores.online_signals import Arms
from levibot.stores.query_profile import PROFILE
from levibot.stores.rate_limiter import Limit, RateLimiter, WhenAway
from levibot.telemetry.exposition import Family
from levibot.telemetry.logging import configure_logging
from levibot.telemetry.metrics import FEATURE_STALENESS_LIMIT

# How long a caller may wait for better than the last answer: twice this, then the circuit is open.
ROUTER_TIMEOUT_S = 2.5
# How long /readyz waits for a new answer, and how old one may be that it gives instead.
READY_WAIT_S, READY_LASTS_S = 0.1, 3.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Found:
    """A signal, where it was found, and why there is none newer, where that is known."""

    signal: Signal
    served_from: str
    problem: str
    arm: Arm | None = CHAMPION


class Api:
    """One replica of the face. Its fallbacks: Redis, then the router, then what it answered last."""

    def __init__(self, router: DeploymentHandle[Any], policy: DeploymentHandle[Any]) -> None:
        keep_to_loopback()
        settings = Settings.load()
        configure_logging(settings.log_level, "api")
        self.source = settings.source
        self._symbols = settings.symbols
        self._router = router
        self._clock = settings.clock()
        self._online = open_online(settings, CORE)
        self._requests = RequestFeatures(
            ON_DEMAND,
            lambda: open_ticks(settings),
            market_id=settings.market_id,
            interval=settings.interval,
            fresh_bars=settings.fresh_bars,
            timeout_s=settings.store_timeout_s,
        )
        self._policy = AnswerPolicy(settings.interval, settings.fresh_bars, settings.usable_bars)
        FEATURE_STALENESS_LIMIT.set(staleness_limit_s(settings.interval, self._clock.rate))
        self._last: dict[str, Signal] = {}
        self._signals = SignalCache(
            lambda: self._read_signals(settings.symbols), lives_s=settings.signal_cache_s
        )
        self._events = event_log.Reader("api")
        self._features = online_features.Reader("api")
        self._processes = Processes(router, settings)
        self.feed = SignalFeed(open_signal_stream(settings, CORE), timeout_s=settings.store_timeout_s)
        self.models: ModelsFace = Models(settings)
        self.ensemble: EnsembleFace = Ensemble(settings)
        self.canaries: CanariesFace = Canaries(settings)
        self.policies: PoliciesFace = Policies(policy, settings)
        limits = KeyLimiter(
            RateLimiter(
                open_durable(settings),
                "api",
                Limit(settings.rate_limit_burst, settings.rate_limit_per_s),
                when_away=WhenAway.ALLOW,
            )
        )
        is_on = settings.api_keys == "on"
        if not is_on:
            log.warning("API keys are switched off: anybody who reaches this port may do everything")
        self.admission = Admission(KeyFile(settings.home) if is_on else None, limits)
        self.webhooks: WebhooksFace = Webhooks(settings, limits, self._clock)
        # One attempt: the store's client replaces a dead connection by itself, and there are fallbacks.
        self._redis = Guard(
            "redis",
            timeout_s=settings.store_timeout_s,
            attempts=1,
            failure_threshold=3,
            reset_s=2.0,
            transient=(StoreUnavailable,),
        )
        self._ask_router = Guard(
            "router",
            timeout_s=ROUTER_TIMEOUT_S,
            attempts=2,
            transient=(RayError, RayServeException),
            unavailable=NotReady,
        )
        self._readiness = Lately(self.look_if_ready, wait_s=READY_WAIT_S)
        self._health = HealthWatch(
            Probes(settings, self._online, router).all(),
            {
                "redis_cache": lambda: self._redis.state,
                "redis_durable": lambda: limits.state,
                "router": lambda: self._ask_router.state,
                "event_log": lambda: self._events.state,
            },
            transient=(RayError, RayServeException, ValueError, OSError),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at the dependencies for as long as the replica serves."""
        watching = asyncio.get_running_loop().create_task(self._health.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is built."""
        return build_http(self)

    def held(self, symbol: str, key_id: str) -> Answer | None:
        """The fresh signal in the arm of a key that was read a moment ago; None: it must be looked for."""
        read = self._signals.held()
        if read is None or symbol not in self._symbols:
            return None
        found = self._fresh(read, (symbol,), key_id, "l1").get(symbol)
        answer = None if found is None else self._answer(found)
        return None if isinstance(answer, NotReady) else answer

    async def predict(self, symbol: str, version: str | None = None, key_id: str = "") -> Answer:
        """The newest usable signal of the arm that a key is in, or what one version says.

        Raises UnknownSymbol, or NotReady when nothing may be used; of a version UnknownVersion, and
        RegistryConflict where it does not fit this run.
        """
        if version is not None:
            return await self._predict_as(version, symbol)
        answer = (await self.predict_many((symbol,), key_id))[symbol]
        if isinstance(answer, LeviBotError):
            raise answer
        return answer

    async def predict_many(
        self, symbols: Sequence[str], key_id: str = ""
    ) -> dict[str, Answer | LeviBotError]:
        """The newest usable signal of each symbol, or what `predict` would raise; the cache is asked once."""
        served = [symbol for symbol in symbols if symbol in self._symbols]
        answers: dict[str, Answer | LeviBotError] = {}
        for symbol, found in (await self._find(served, key_id)).items():
            answers[symbol] = found if isinstance(found, NotReady) else self._answer(found)
        return {symbol: answers.get(symbol) or self._not_served(symbol) for symbol in symbols}

    async def features(self, symbol: str, order_notional: float | None) -> SymbolFeatures:
        """What is known of a symbol now, and of an order. What is not known is MISSING, and no number.

        Raises UnknownSymbol, UsageError on an order of no size, and StoreError when Redis cannot be read.
        """
        self._check_served(symbol)
        vector = await self._redis.call(self._online.get, symbol)
        now = self._clock.now()
        requested = await self._requests.answer(OnDemandRequest(symbol, now, order_notional))
        return SymbolFeatures(vector, requested, now, CORE.name, CORE.version, CORE.names)

    def health(self) -> list[Health]:
        """Every dependency as it was when it was last looked at."""
        return self._health.report()

    async def readiness(self) -> Readiness:
        """As `look_if_ready`, at once: where a store hangs, what was known a moment ago, or not ready."""
        state, age_s = await self._readiness.get()
        if state is not None and age_s <= READY_LASTS_S:
            return state
        return Readiness(
            ready=False,
            reasons=["What a prediction needs does not answer in time; /healthz says what it is."],
            model_version=None,
            market_time=self._clock.now(),
            source=self.source,
        )

    async def look_if_ready(self) -> Readiness:
        """Ready when the features are warm and one symbol at least has a fresh signal; names what lacks."""
        reasons: list[str] = []
        versions: set[str] = set()
        lacking: list[str] = []
        try:
            for symbol in self._symbols:
                signal = await self._redis.call(self._online.read_signal, symbol)
                if signal is None:
                    reasons.append(f"{symbol} has no signal yet.")
                elif not self._policy.is_fresh(signal, self._clock.now()):
                    reasons.append(f"{symbol} has no signal since {signal.as_of.isoformat()}.")
                else:
                    versions.add(signal.model_version)
            if not versions:
                # The cache tells that something is wrong; the router tells what.
                routed = (await self._route(self._symbols[:1]))[self._symbols[0]]
                reasons += [routed.problem] if routed.problem else []
            lacking = await self._lacking_features()
        except StoreError as exc:
            reasons, versions = [str(exc)], set()
        return Readiness(
            ready=bool(versions) and not lacking,
            reasons=[*reasons, *lacking],
            model_version=max(versions, default=None),
            market_time=self._clock.now(),
            source=self.source,
        )

    async def feature_ages(self) -> dict[str, float]:
        """Seconds since the newest bar of each symbol that features know; NaN where there is none."""
        # A gauge that kept its last value would say fresh for ever.
        ages = dict.fromkeys(self._symbols, math.nan)
        try:
            readings = await self._redis.call(self._online.get_many, self._symbols)
        except StoreError:
            return ages
        found = {s: r.of_bars[1] for s, r in readings.items() if r.freshness is not Freshness.MISSING}
        return ages | {s: age_s for s, age_s in found.items() if age_s is not None}

    async def events(self, query: EventQuery) -> EventPage:
        """A page of the events. Raises StoreUnavailable when the event log does not answer."""
        return await self._events.page(query)

    async def slow_queries(self) -> tuple[list[QueryCostEntry], dict[str, str]]:
        """The queries that took most time over all processes, and why a process said nothing of its own."""
        own = Said("api", [asdict(cost) for cost in PROFILE.top(SHOWN)])
        return top_queries([own, *await self._processes.ask("slow_queries")])

    async def metrics(self) -> dict[str, list[Family]]:
        """The metrics of the other processes; one that does not answer has no entry."""
        said = await self._processes.ask("metrics")
        return {one.process: one.answer for one in said if one.answer is not None}

    def _check_served(self, symbol: str) -> None:
        if symbol not in self._symbols:
            raise self._not_served(symbol)

    def _not_served(self, symbol: str) -> UnknownSymbol:
        return UnknownSymbol(f"{symbol} is not served.", hint=f"Served are: {', '.join(self._symbols)}.")

    async def _lacking_features(self) -> list[str]:
        """Why the vectors of symbols that have bars are not there, one sentence each; empty when they are."""
        readings = await self._redis.call(self._online.get_many, self._symbols)
        missing = [s for s, reading in readings.items() if reading.freshness is Freshness.MISSING]
        if not missing:
            return []
        # Only the actor knows whether a symbol has bars at all. While its vectors live nobody asks.
        try:
            expected, problem = await self._features.expected()
        except LeviBotError as exc:
            return [f"Features are missing for {', '.join(missing)}: {exc.message}"]
        return [f"{s} has no features yet. {problem}".strip() for s in missing if s in expected]

    async def _find(self, symbols: Sequence[str], key_id: str) -> dict[str, _Found | NotReady]:
        """The newest signal of each symbol in the arm of a key, or why there is none at all."""
        read: Arms | None = None
        with suppress(StoreError):
            read = await self._signals.read()
        found: dict[str, _Found | NotReady] = {}
        if read is not None:
            found |= self._fresh(read, symbols, key_id, "cache")
        others = [symbol for symbol in symbols if symbol not in found]
        routed = await self._route(others) if others else {}
        cached = {} if read is None else read.champion
        return found | {s: self._newest(s, cached.get(s), routed[s]) for s in others}

    def _fresh(self, read: Arms, symbols: Sequence[str], key_id: str, served_from: str) -> dict[str, _Found]:
        """Those of the signals that are of the newest bars: the canary's for a key in its arm."""
        now = self._clock.now()
        canary, why_not = of_canary(read, symbols, key_id, lambda one: self._policy.is_fresh(one, now))
        found = {symbol: _Found(one, served_from, "", CANARY) for symbol, one in canary.items()}
        for symbol in symbols:
            one = read.champion.get(symbol)
            if symbol not in found and one is not None and self._policy.is_fresh(one, now):
                found[symbol] = _Found(one, served_from, why_not)
        return found

    async def _read_signals(self, symbols: Sequence[str]) -> Arms:
        read = await self._redis.call(self._online.read_arms, symbols)
        now = self._clock.now()
        self._last |= {
            symbol: one
            for symbol, one in read.champion.items()
            if one is not None and self._policy.is_fresh(one, now)
        }
        return read

    async def _predict_as(self, version: str, symbol: str) -> Answer:
        self._check_served(symbol)
        with suppress(StoreError):
            cached = await self._redis.call(self._online.read_signal, symbol)
            is_it = cached is not None and cached.model_version == version
            if cached is not None and is_it and self._policy.is_fresh(cached, self._clock.now()):
                return self._policy.answer(cached, self._clock.now(), "cache", "", arm=None)
        said = await self._ask_router.call(self._remote_signals_of, version, symbol)
        if isinstance(said, LeviBotError):
            raise said
        routed = said[symbol]
        if routed.signal is None or routed.signal.model_version != version:
            raise NotReady(routed.problem or f"{symbol} has no signal of {version}.", hint=routed.hint)
        found = _Found(routed.signal, routed.served_from, routed.problem, arm=None)
        answer = self._answer(found)
        if isinstance(answer, NotReady):
            raise answer
        return answer

    def _newest(self, symbol: str, cached: Signal | None, routed: Routed) -> _Found | NotReady:
        candidates = (routed.signal, cached, self._last.get(symbol))
        found = max((s for s in candidates if s is not None), key=lambda s: s.as_of, default=None)
        if found is None:
            return NotReady(
                routed.problem or f"{symbol} has no signal yet.", hint=routed.hint or "See /readyz."
            )
        self._last[symbol] = found
        served_from = routed.served_from if found is routed.signal else "memory"
        return _Found(found, served_from, f"{routed.problem} {routed.hint}".strip())

    def _answer(self, found: _Found) -> Answer | NotReady:
        try:
            return self._policy.answer(
                found.signal, self._clock.now(), found.served_from, found.problem, found.arm
            )
        except NotReady as exc:
            return NotReady(exc.message, hint=found.problem or exc.hint)

    async def _route(self, symbols: Sequence[str]) -> dict[str, Routed]:
        try:
            return await self._ask_router.call(self._remote_signals, symbols)
        except (LeviBotError, RayError, RayServeException) as exc:
            away = Routed(None, "memory", f"The router does not answer: {exc}", "Try again.")
            return dict.fromkeys(symbols, away)

    async def _remote_signals(self, symbols: Sequence[str]) -> dict[str, Routed]:
        routed: dict[str, Routed] = await self._router.signals.remote(symbols, remaining_s())
        return routed

    async def _remote_signals_of(self, version: str, symbol: str) -> dict[str, Routed] | LeviBotError:
        said: dict[str, Routed] | LeviBotError = await self._router.signals_of.remote(
            version, (symbol,), remaining_s()
        )
        return said
