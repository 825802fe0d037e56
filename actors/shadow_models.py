"""Runs registered versions beside the served one; their answers go to the event log and nowhere else."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from ray.actor import ActorHandle

from actors import event_letters, event_log
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import StoreUnavailable
from levibot.features.views import CORE
from levibot.resilience.guard import Guard
from levibot.serving.child_process import PAUSE_S, START_TIMEOUT_S, environment_of
from levibot.serving.cross_section import CrossSection, newest_cross_section
from levibot.serving.shadow_model import ShadowModel
from levibot.serving.shadow_process import ShadowAnswer, ShadowProcess
from levibot.settings import Settings
from levibot.stores.connect import open_online
from levibot.stores.events import Event
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

NAME = "shadow_models"
POLL_S, RETRY_S = 0.5, 1.0


class ShadowModels:
    """Follows the windows in Redis by itself: who serves neither calls it nor knows of it.

    State: a process for each version, and the problem that keeps it from reading, if any.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        self._events = event_log.Client(NAME, event_letters.keeper(settings))
        # Its fallback is to wait: a cross-section that was missed is not looked for again.
        self._guard = Guard(
            NAME, timeout_s=settings.store_timeout_s, attempts=1, transient=(StoreUnavailable,)
        )
        environment = environment_of(settings)
        self._models = {
            version: ShadowModel(
                version,
                ShadowProcess(
                    (
                        *(sys.executable, "-m", "levibot.serving.shadow_child"),
                        *(version, str(settings.shadow_memory_mb)),
                    ),
                    environment,
                    start_timeout_s=START_TIMEOUT_S,
                    timeout_s=settings.shadow_timeout_s,
                ),
                self._told,
                pause_s=PAUSE_S,
            )
            for version in settings.shadow_versions
        }
        self._problem = ""
        loop = asyncio.get_running_loop()
        self._running = [loop.create_task(model.run()) for model in self._models.values()]
        self._running.append(loop.create_task(self._run()))

    async def status(self) -> dict[str, Any]:
        """The outcome of each version's last question, None before the first, and the problem there is."""
        last = {version: model.last for version, model in self._models.items()}
        return {
            "versions": {
                version: None if answer is None else {"outcome": answer.outcome, "problem": answer.problem}
                for version, answer in last.items()
            },
            "problem": self._problem,
        }

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def close(self) -> None:
        """End the models' processes."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self) -> None:
        await follow_for_ever("the shadow models", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        online = open_online(self._settings, CORE)
        symbols = self._settings.symbols
        offered: CrossSection | None = None
        try:
            while True:
                section = newest_cross_section(await self._guard.call(online.get_windows, symbols), symbols)
                self._problem = ""
                if section is not None and (offered is None or not section.is_same(offered)):
                    offered = section
                    for model in self._models.values():
                        model.offer(section)
                await asyncio.sleep(POLL_S)
        finally:
            await online.close()

    def _told(self, version: str, section: CrossSection, answer: ShadowAnswer) -> None:
        if answer.outcome != "answered":
            payload = {"version": version, "outcome": answer.outcome, "reason": answer.problem}
            self._events.tell([Event("shadow_model_failed", "", self._clock.now(), payload)])
            return
        self._events.tell(
            [
                Event(
                    "shadow_model_signal",
                    symbol,
                    section.newest,
                    {
                        "model_version": version,
                        "probability_up": float(probability),
                        "target_position": float(position),
                    },
                )
                for symbol, probability, position in zip(
                    self._settings.symbols, answer.probability_up, answer.target_position, strict=True
                )
                if np.isfinite(probability) and np.isfinite(position)
            ]
        )


def start(settings: Settings) -> ActorHandle:
    """The cluster's shadow models, started if they are not there yet."""
    return start_detached(ShadowModels, NAME, settings)
