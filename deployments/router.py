"""Decides which model answers, and keeps the signals of the newest bar ready."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import structlog
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors import event_log
from deployments.loopback import keep_to_loopback
from levibot.errors import LeviBotError, NotReady
from levibot.features.views import CORE
from levibot.learning.signal import Signals
from levibot.market.bars import FloatArray
from levibot.resilience.guard import Guard
from levibot.serving.desk import Served, SignalDesk
from levibot.settings import Settings
from levibot.stores.connect import open_online, open_registry
from levibot.stores.events import Event
from levibot.stores.online import Signal
from levibot.telemetry.logging import configure_logging

POLL_S = 0.25
MODEL_TIMEOUT_S = 5.0
TRAIN = "ray job submit --working-dir . -- python -m tune.train"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Routed:
    """A signal, or why there is none. Errors travel as values: Ray wraps what is raised across a handle."""

    signal: Signal | None
    served_from: str
    problem: str = ""
    hint: str = ""


class Router:
    """Follows the bars: computes each new cross-section once and caches it in Redis.

    The one route so far is the active model of the registry.
    """

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        keep_to_loopback()
        settings = Settings.load()
        configure_logging(settings.log_level, "router")
        self._settings = settings
        self._model = model
        self._registry = open_registry(settings)
        self._desk = SignalDesk(open_online(settings, CORE.version), settings.symbols)
        self._ask_model = Guard(
            "model",
            timeout_s=MODEL_TIMEOUT_S,
            transient=(RayError, RayServeException),
            unavailable=NotReady,
        )
        self._computing: asyncio.Task[dict[str, Signal]] | None = None
        self._done: tuple[object, str | None] = (None, None)
        self._events = event_log.Client("router")
        self._telling: set[asyncio.Task[None]] = set()
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    async def signal(self, symbol: str) -> Routed:
        """The newest signal of a symbol: computed now if it can be, from memory if it cannot."""
        try:
            signals = await self._compute()
        except LeviBotError as exc:
            return Routed(self._desk.last.get(symbol), "memory", exc.message, exc.hint)
        if symbol not in signals:
            last = self._desk.last.get(symbol)
            return Routed(
                last, "memory", f"{symbol} has no features at the newest bar.", "It may be warming up."
            )
        return Routed(signals[symbol], "computed")

    async def active_model(self) -> str | None:
        """The version that is live."""
        return await asyncio.to_thread(self._registry.active)

    def check_health(self) -> None:
        """Serve replaces this replica when its follower has ended."""
        if self._follower.done():
            raise RuntimeError("The router no longer follows the bars.")

    async def _follow(self) -> None:
        while True:
            try:
                seen = (await self._desk.newest_event(), await self.active_model())
                if None not in seen and seen != self._done:
                    await self._compute()
                    self._done = seen
            except LeviBotError as exc:
                log.warning("signals are waiting", reason=str(exc))
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(POLL_S)

    async def _compute(self) -> dict[str, Signal]:
        # One computation, however many wait for it.
        if self._computing is None or self._computing.done():
            self._computing = asyncio.create_task(self._compute_once())
        return await asyncio.shield(self._computing)

    async def _compute_once(self) -> dict[str, Signal]:
        version = await self.active_model()
        if version is None:
            raise NotReady(
                "No model is active.",
                hint="Train one: ray job submit --working-dir . -- python -m tune.train",
            )

        async def predict(window: FloatArray) -> Signals:
            opinions: Signals = await self._ask_model.call(self._remote_signals, version, window)
            return opinions

        served = Served(version, self._settings.source)
        ttl_s = self._settings.feature_ttl_s
        signals = await self._desk.compute(predict, served, ttl_s)
        self._tell(signals.values())
        return signals

    async def _remote_signals(self, version: str, window: FloatArray) -> Signals:
        opinions: Signals = await self._model.signals.remote(version, window)
        return opinions

    def _tell(self, signals: Collection[Signal]) -> None:
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
            for s in signals
        ]
        # Nobody waits for the log: a signal must not be late because its record is.
        task = asyncio.create_task(self._events.append(events))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
