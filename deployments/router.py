"""Decides which model answers, and keeps the signals of the newest bar ready."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import structlog
from ray.serve.handle import DeploymentHandle

from actors import event_letters, event_log
from deployments.graph import RouterConfig, reconfigured
from deployments.holder import MembersHandle
from deployments.loopback import keep_to_loopback
from deployments.model import TRAIN, check_fits_run
from levibot.errors import LeviBotError, NotReady, RegistryError, StoreUnavailable
from levibot.features.views import CORE
from levibot.learning.blending import Signals
from levibot.market.bars import FloatArray
from levibot.serving.canary import Canary
from levibot.serving.desk import Served, SignalDesk
from levibot.serving.member_panel import MemberPanel
from levibot.serving.other_versions import OtherVersions
from levibot.serving.recorder import SignalRecorder
from levibot.serving.sampling import ServedSampler
from levibot.serving.signal_cache import SignalCache
from levibot.serving.weighing import Route, Weighing
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
# Versions beside the one that serves that stay ready for those who ask for them by name. Together with that
# one as many as a replica of members keeps by default.
OTHER_VERSIONS = 2
# So long a call waits for the first version to be loaded, before it says that there is none yet.
FIRST_LOAD_S = 2.0
# A version that could not be used is looked at again after so long: its files may have been put back.
REFUSED_S = 30.0
# Of the time that a caller has left; the rest is for the answer's way back.
WORK_SHARE = 0.8
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

    def __init__(self, members: Mapping[tuple[str, ...], DeploymentHandle[Any]]) -> None:
        keep_to_loopback()
        settings = Settings.load()
        configure_logging(settings.log_level, "router")
        self._settings = settings
        self._clock = settings.clock()
        self._config = RouterConfig()
        # Nothing is decided before it is known how: Serve tells it after the replica was made.
        self._configured = asyncio.Event()
        self._registry = open_registry(settings)
        self._active = ActiveVersion(self._registry, timeout_s=settings.store_timeout_s)
        self._online = open_online(settings, CORE)
        self._sampler = ServedSampler(settings.market_id, CORE, settings.served_share, random.Random())
        self._weights = LiveWeights(open_durable(settings))
        self._weighing = Weighing(self._weights, settings.market_id, timeout_s=settings.store_timeout_s)
        self._desk = SignalDesk(
            self._online,
            settings.symbols,
            timeout_s=settings.store_timeout_s,
            weigh=self._weigh,
            on_served=self._tell_served,
        )
        self._recorder = SignalRecorder(
            lambda: open_ticks(settings), settings.market_id, timeout_s=settings.store_timeout_s
        )
        self._panel = MemberPanel(
            [MembersHandle(kinds, handle) for kinds, handle in members.items()], self._registry.metadata
        )
        self._others = OtherVersions(
            self._panel,
            SignalDesk(
                self._online,
                settings.symbols,
                timeout_s=settings.store_timeout_s,
                weigh=self._weigh,
                n_models=OTHER_VERSIONS,
            ),
            self._check_fits,
            settings.source,
        )
        kinds = [kind for held in members for kind in held]
        self._canary = Canary(
            settings,
            self._online,
            kinds,
            self._registry.metadata,
            self._weigh,
            lambda event: self._events.tell([event]),
        )
        self._computed = SignalCache(self._compute_once, lives_s=settings.signal_cache_s)
        self._served: str | None = None
        self._loading: tuple[str, asyncio.Task[None]] | None = None
        self._refused: dict[str, tuple[float, RegistryError]] = {}
        self._told: dict[str, Signal] = {}
        self._events = event_log.Client("router", event_letters.keeper(settings))
        loop = asyncio.get_running_loop()
        self._recording = loop.create_task(self._recorder.run())
        self._follower = loop.create_task(self._follow())

    def reconfigure(self, user_config: object) -> None:
        """Called by Serve with the `user_config` of the deployment, at first and when it changes."""
        held = self._config if self._configured.is_set() else None
        self._config = reconfigured(RouterConfig, user_config, held)
        self._configured.set()
        if held is None or held.weights != self._config.weights:
            self._desk.ask_again()
            self._computed.forget()
        canary = self._config.canary
        self._canary.configure(None if canary is None else canary.setting())

    async def signals(self, symbols: Sequence[str], within_s: float | None = None) -> dict[str, Routed]:
        """The newest signal of each symbol: computed now if it can be, from memory if it cannot.

        within_s: how long the caller still waits, None where it has not said so.
        """
        try:
            async with _answered_within(within_s):
                signals = self._computed.held() or await self._computed.read()
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

    async def signals_of(
        self, version: str, symbols: Sequence[str], within_s: float | None = None
    ) -> dict[str, Routed] | LeviBotError:
        """What one version says at the newest bar, or why it cannot; it need not be the one that serves.

        within_s: as of `signals`.
        """
        if version == self._served:
            return await self.signals(symbols, within_s)
        try:
            async with _answered_within(within_s):
                signals = await self._others.signals(version, self._served)
        except LeviBotError as exc:
            return exc
        silent = Routed(None, "computed", f"Version {version} says nothing of it at the newest bar.")
        return {s: Routed(signals[s], "computed") if s in signals else silent for s in symbols}

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
        loading = None if self._loading is None else self._loading[1]
        begun = self._follower, self._recording, loading
        tasks = [task for task in begun if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._canary.close()
        await self._others.close()
        await self._weights.close()
        await self._online.close()

    def check_health(self) -> None:
        """Serve replaces this replica when its follower has ended."""
        if self._follower.done():
            raise RuntimeError("The router no longer follows the bars.")

    async def _follow(self) -> None:
        await self._configured.wait()
        while True:
            try:
                await self._computed.read()
            except LeviBotError as exc:
                log.warning("signals are waiting", reason=str(exc))
                await asyncio.sleep(POLL_S)
            except Exception as exc:
                log.error("the router failed and begins again", exc_info=exc)
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(POLL_S)

    async def _compute_once(self) -> dict[str, Signal]:
        while version := await self._usable_version():
            try:
                version = await self._loaded(version)
                return await self._compute_with(version)
            except RegistryError as exc:
                self._refuse(version, exc)
        if not self._refused:
            raise NotReady("No model is active.", hint=f"Train one: {TRAIN}")
        _, problem = next(reversed(self._refused.values()))
        raise problem

    async def _loaded(self, wanted: str) -> str:
        """The version to ask: the one wanted once its members have it, and until then the one before.

        Raises what came of loading it where there is none before, NotReady while that goes on.
        """
        if wanted == self._served:
            return wanted
        if self._loading is None or self._loading[0] != wanted:
            if self._loading is not None:
                self._loading[1].cancel()
            self._loading = wanted, asyncio.create_task(self._panel.load(wanted))
        loading = self._loading[1]
        # No bar waits for it where a version answers.
        await asyncio.wait({loading}, timeout=0.0 if self._served else FIRST_LOAD_S)
        if loading.done():
            self._loading = None
            try:
                loading.result()
            except (NotReady, StoreUnavailable) as exc:
                if self._served is None:
                    raise
                log.warning("a version cannot be loaded now", version=wanted, reason=str(exc))
            else:
                return wanted
        if self._served is None:
            raise NotReady(f"{wanted} is being loaded by its members.", hint="Try again in a moment.")
        return self._served

    async def _weigh(self, members: Sequence[str], as_of: datetime) -> Route:
        if self._config.weights is None:
            return await self._weighing.route(members, as_of)
        return Route.configured(members, self._config.weights)

    async def _usable_version(self) -> str | None:
        """The active version; where that cannot be used, the newest of those that were active before."""
        since = time.monotonic() - REFUSED_S
        self._refused = {v: refusal for v, refusal in self._refused.items() if refusal[0] > since}
        active = self._config.pinned_version or await self.active_model()
        if active not in self._refused:
            return active
        earlier = [entry["version"] for entry in await asyncio.to_thread(self._registry.history)]
        return next((v for v in reversed(earlier) if v not in self._refused), None)

    def _check_fits(self, version: str) -> None:
        check_fits_run(version, self._registry.metadata(version), self._settings.symbols)

    def _refuse(self, version: str, exc: RegistryError) -> None:
        log.error("a model version cannot be used", version=version, reason=str(exc))
        self._refused[version] = time.monotonic(), exc
        if version == self._served:
            self._served = None
        payload = {"version": version, "reason": str(exc)}
        self._events.tell([Event("model_refused", "", self._clock.now(), payload)])

    async def _compute_with(self, version: str) -> dict[str, Signal]:
        async def predict(window: FloatArray) -> Signals:
            return await self._panel.signals(version, window)

        served = Served(version, self._settings.source)
        ttl_s = self._settings.feature_ttl_s
        signals = await self._desk.compute(predict, served, ttl_s)
        self._served = version
        self._tell(signals.values())
        # Only now: they are written, and nobody waits for a canary.
        self._canary.follow(signals)
        return signals

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


@asynccontextmanager
async def _answered_within(seconds: float | None) -> AsyncIterator[None]:
    """Ends the wait of one caller so that the answer reaches it in time; what others wait for goes on.

    Raises NotReady then.
    """
    try:
        async with asyncio.timeout(None if seconds is None else WORK_SHARE * seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise NotReady(
            f"Nothing newer came within the {seconds:.3g} s that the caller still waits.", hint="Wait longer."
        ) from exc
