"""Looks at the features after every bar and once a week at what the model listens to; says what it finds."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict
from datetime import date
from typing import Any

import structlog
from ray.actor import ActorHandle

from actors import event_letters, event_log
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import StoreUnavailable
from levibot.monitoring.watch import Checked, FeatureWatch, Weighed
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_references, open_registry, open_ticks
from levibot.stores.event import Event
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging
from levibot.telemetry.metrics import DEFAULT

NAME = "feature_monitor"
# A look costs a moment of a core: not more often, however fast a replay runs.
POLL_S = 30.0
RETRY_S = 5.0
LOOK_TIMEOUT_S = 120.0
MAX_MOVED = 20
log = structlog.get_logger()


class FeatureMonitor:
    """Sets the metrics of drift and importance, and writes an event where one begins or ends.

    State: which features are beyond a limit, so that each drift is told once; the day and week told last.
    After a crash a drift that goes on is told again.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        self._events = event_log.Client(NAME, event_letters.keeper(settings))
        # Its fallback is to wait: the metrics say when drift was last measured.
        self._guard = Guard(
            NAME, timeout_s=LOOK_TIMEOUT_S, attempts=1, reset_s=RETRY_S, transient=(StoreUnavailable,)
        )
        self._checked: Checked | None = None
        self._beyond: set[str] = set()
        self._day: date | None = None
        self._week: tuple[str, int, int] | None = None
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def status(self) -> dict[str, Any]:
        """What was found last, and the problem that the monitor has now, if any."""
        checked = self._checked
        return {
            "as_of": checked.as_of.isoformat() if checked else None,
            "model_version": checked.model_version if checked else None,
            "drifting": [drift.name for drift in checked.drifting] if checked else [],
            "problem": self._problem,
        }

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        await follow_for_ever("the watch over the features", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Look again and again until a problem comes up, which is raised."""
        settings = self._settings
        ticks = await open_ticks(settings)
        try:
            watch = FeatureWatch(
                ticks,
                open_registry(settings),
                open_references(settings),
                market_id=settings.market_id,
                interval=settings.interval,
            )
            while True:
                now = self._clock.now()
                self._note(await self._guard.call(watch.check, now))
                week = (self._checked.model_version if self._checked else "", *now.isocalendar()[:2])
                if week != self._week:
                    self._note_importance(await self._guard.call(watch.weigh, now))
                    self._week = week
                self._problem = ""
                await asyncio.sleep(POLL_S)
        finally:
            await ticks.close()

    def _note(self, checked: Checked) -> None:
        DEFAULT.drift_checked_at.set(time.time())
        if self._checked is not None and (self._checked.as_of, self._checked.model_version) == (
            checked.as_of,
            checked.model_version,
        ):
            return
        self._checked = checked
        for drift in checked.drifts:
            DEFAULT.feature_psi.labels(drift.name).set(drift.psi)
            DEFAULT.feature_drift.labels(drift.name).set(drift.excess)
        DEFAULT.drift_shadow_loss.clear()
        DEFAULT.drift_shadow_loss.labels(checked.model_version).set(checked.loss.loss)
        drifting = {drift.name: drift for drift in checked.drifting}
        events = [
            self._event("feature_drift", checked, drift.to_json())
            for drift in drifting.values()
            if drift.name not in self._beyond
        ]
        events += [
            self._event("feature_drift_over", checked, {"feature": name})
            for name in sorted(self._beyond - drifting.keys())
        ]
        self._beyond = set(drifting)
        if checked.as_of.date() != self._day:
            self._day = checked.as_of.date()
            summary = {"n_features": len(checked.drifts), "drifting": list(drifting)}
            events.append(self._event("feature_drift_day", checked, summary))
        if events:
            self._events.tell(events)

    def _event(self, event_type: str, checked: Checked, payload: dict[str, Any]) -> Event:
        # Each alarm carries what the model lost meanwhile: noise and damage look alike without it.
        payload = payload | {"model_version": checked.model_version, "shadow_loss": checked.loss.to_json()}
        return Event(event_type=event_type, symbol="", ts=checked.as_of, payload=payload)

    def _note_importance(self, weighed: Weighed) -> None:
        DEFAULT.feature_importance.clear()
        for name, share in weighed.importance.items():
            DEFAULT.feature_importance.labels(name).set(share)
        payload: dict[str, Any] = {"model_version": weighed.model_version, "importance": weighed.importance}
        if weighed.change is not None:
            moved = list(weighed.change.moved.items())[:MAX_MOVED]
            correlation = weighed.change.correlation
            payload["rank_correlation"] = None if math.isnan(correlation) else correlation
            payload["moved"] = {name: {"before": old, "after": new} for name, (old, new) in moved}
        self._events.tell(
            [Event(event_type="feature_importance", symbol="", ts=weighed.as_of, payload=payload)]
        )


def start(settings: Settings) -> ActorHandle:
    """The cluster's feature monitor, started if it is not there yet."""
    return start_detached(FeatureMonitor, NAME, settings)
