"""Decides which model answers, and keeps the signals of the newest bar ready."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors import event_letters, event_log
from deployments.loopback import keep_to_loopback
from deployments.model import TRAIN
from levibot.errors import LeviBotError, NotReady, RegistryError, StoreUnavailable
from levibot.features.views import CORE
from levibot.learning.signal import Signals
from levibot.market.bars import FloatArray
from levibot.resilience.guard import Guard
from levibot.serving.desk import Served, SignalDesk
from levibot.serving.recorder import SignalRecorder
from levibot.serving.sampling import ServedSampler
from levibot.serving.weighing import Weighing
from levibot.settings import Settings
from levibot.stores.active_version import ActiveVersion
from levibot.stores.connect import open_durable, open_online, open_registry, open_ticks
from levibot.stores.events import Event
from levibot.stores.live_weights import LiveWeights
from levibot.stores.online import FeatureReading, Signal
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

POLL_S = 0.25
MODEL_TIMEOUT_S = 5.0
# A version that could not be used is looked at again after so long: its files may have been put back.
REFUSED_S = 30.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Routed:
    """A signal, or why there is none. Errors travel as values: Ray wraps what is raised across a handle."""

    signal: Signal | None
    served_from: str
    problem: str = ""
    hint: str = ""


class Router:
    """Follows the bars: computes each new cross-section once, caches it in Redis and has it written down.

    The members are those of the active model; their weights, and whether the meta-learner leans them, come
    from the ensemble's actor through Redis.
    """

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        keep_to_loopback()
        settings = Settings.load()
        configure_logging(settings.log_level, "router")
        self._settings = settings
        self._clock = settings.clock()
        self._model = model
        self._registry = open_registry(settings)
        self._active = ActiveVersion(self._registry, timeout_s=settings.store_timeout_s)
        self._online = open_online(settings, CORE)
        self._sampler = ServedSampler(settings.market_id, CORE, settings.served_share, random.Random())
        self._weights = LiveWeights(open_durable(settings))
        self._desk = SignalDesk(
            self._online,
            settings.symbols,
            timeout_s=settings.store_timeout_s,
            weigh=Weighing(self._weights, settings.market_id, timeout_s=settings.store_timeout_s).route,
            on_served=self._tell_served,
        )
        self._recorder = SignalRecorder(
            lambda: open_ticks(settings), settings.market_id, timeout_s=settings.store_timeout_s
        )
        self._ask_model = Guard(
            "model",
            timeout_s=MODEL_TIMEOUT_S,
            transient=(RayError, RayServeException),
            unavailable=NotReady,
        )
        self._computing: asyncio.Task[dict[str, Signal]] | None = None
        self._served: str | None = None
        self._refused: dict[str, tuple[float, RegistryError]] = {}
        self._told: dict[str, Signal] = {}
        self._events = event_log.Client("router", event_letters.keeper(settings))
        loop = asyncio.get_running_loop()
        self._recording = loop.create_task(self._recorder.run())
        self._follower = loop.create_task(self._follow())

    async def signals(self, symbols: Sequence[str]) -> dict[str, Routed]:
        """The newest signal of each symbol: computed now if it can be, from memory if it cannot."""
        try:
            signals = await self._compute()
        except LeviBotError as exc:
            last = self._desk.last
            return {s: Routed(last.get(s), "memory", exc.message, exc.hint) for s in symbols}
        return {symbol: self._routed(symbol, signals) for symbol in symbols}

    def _routed(self, symbol: str, signals: Mapping[str, Signal]) -> Routed:
        if symbol not in signals:
            last = self._desk.last.get(symbol)
            return Routed(
                last, "memory", f"{symbol} has no features at the newest bar.", "It may be warming up."
            )
        return Routed(signals[symbol], "computed")

    async def active_model(self) -> str | None:
        """The version that is live, as far as is known."""
        return (await self._active.get()).value

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def close(self) -> None:
        """End the follower and what it waits for, then the connections, so that none is opened again."""
        tasks = [task for task in (self._follower, self._computing, self._recording) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._weights.close()
        await self._online.close()

    def check_health(self) -> None:
        """Serve replaces this replica when its follower has ended."""
        if self._follower.done():
            raise RuntimeError("The router no longer follows the bars.")

    async def _follow(self) -> None:
        while True:
            try:
                await self._compute()
            except LeviBotError as exc:
                log.warning("signals are waiting", reason=str(exc))
                await asyncio.sleep(POLL_S)
            except Exception as exc:
                log.error("the router failed and begins again", exc_info=exc)
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(POLL_S)

    async def _compute(self) -> dict[str, Signal]:
        # One computation, however many wait for it.
        if self._computing is None or self._computing.done():
            self._computing = asyncio.create_task(self._compute_once())
        return await asyncio.shield(self._computing)

    async def _compute_once(self) -> dict[str, Signal]:
        while version := await self._usable_version():
            try:
                return await self._compute_with(version)
            except RegistryError as exc:
                self._refuse(version, exc)
            except StoreUnavailable:
                # A version went live whose files cannot be had now: the replica still has the one before.
                if self._served in (None, version):
                    raise
                return await self._compute_with(self._served)
        if not self._refused:
            raise NotReady("No model is active.", hint=f"Train one: {TRAIN}")
        _, problem = next(reversed(self._refused.values()))
        raise problem

    async def _usable_version(self) -> str | None:
        """The active version; where that cannot be used, the newest of those that were active before."""
        since = time.monotonic() - REFUSED_S
        self._refused = {v: refusal for v, refusal in self._refused.items() if refusal[0] > since}
        active = await self.active_model()
        if active not in self._refused:
            return active
        earlier = [entry["version"] for entry in await asyncio.to_thread(self._registry.history)]
        return next((v for v in reversed(earlier) if v not in self._refused), None)

    def _refuse(self, version: str, exc: RegistryError) -> None:
        log.error("a model version cannot be used", version=version, reason=str(exc))
        self._refused[version] = time.monotonic(), exc
        payload = {"version": version, "reason": str(exc)}
        self._events.tell([Event("model_refused", "", self._clock.now(), payload)])

    async def _compute_with(self, version: str) -> dict[str, Signal]:
        async def predict(window: FloatArray) -> Signals:
            opinions: Signals = await self._ask_model.call(self._remote_signals, version, window)
            return opinions

        served = Served(version, self._settings.source)
        ttl_s = self._settings.feature_ttl_s
        signals = await self._desk.compute(predict, served, ttl_s)
        self._served = version
        self._tell(signals.values())
        return signals

    async def _remote_signals(self, version: str, window: FloatArray) -> Signals:
        try:
            opinions: Signals = await self._model.signals.remote(version, window)
        except RayTaskError as exc:
            # What the replica says of a version is an answer: asking again cures nothing.
            if isinstance(exc.cause, LeviBotError):
                raise exc.cause from None
            raise
        return opinions

    def _tell_served(self, readings: Sequence[FeatureReading]) -> None:
        chosen = self._sampler.choose(readings, self._clock.now())
        if chosen:
            self._events.tell([vector.to_event() for vector in chosen])

    def _tell(self, signals: Collection[Signal]) -> None:
        new = [s for s in signals if self._told.get(s.symbol) != s]
        self._told |= {s.symbol: s for s in new}
        self._recorder.record(new)
        events = [
            Event(
                event_type="signal",
                symbol=s.symbol,
                ts=s.as_of,
                payload={
                    "probability_up": s.probability_up,
                    "target_position": s.target_position,
                    "model_version": s.model_version,
                    "source": s.source,
                },
            )
            for s in new
        ]
        if events:
            self._events.tell(events)
