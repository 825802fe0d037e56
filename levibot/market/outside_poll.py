"""Looks at one source outside again and again, and stores what it says: its own pace, its own faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import structlog

from levibot.clock import Clock
from levibot.errors import LeviBotError, SourceDisabled
from levibot.market.intake import Account, Intake
from levibot.market.observations import Reading, by_series, screen_readings
from levibot.market.outside_source import Newest, OutsideSource
from levibot.resilience.guard import Guard
from levibot.telemetry.metrics import DEFAULT, Metrics

# A reading counts from so long after it was read. By then it is stored, or it is not stored at all: whoever
# asks what was known at an instant gets the same answer at that instant and ever after.
STORED_WITHIN = timedelta(seconds=5)
# Of one attempt to store, well below.
STORE_TIMEOUT_S = 4.0
LONGEST_WAIT_S = 3600.0
# A few looks may fail before anybody is woken.
SHORTEST_LIMIT_S, LOOKS_MISSED = 900.0, 3

DISABLED, WORKING, FAILING, WAITING = "disabled", "working", "failing", "waiting"
log = structlog.get_logger()

# Told what happens: the kind of event, and what belongs to it.
Tell = Callable[[str, dict[str, Any]], None]


class OutsidePoll:
    """One source's loop. State: how it is, and since when it is silent.

    guard: of the calls to the store, with STORE_TIMEOUT_S and one attempt: a reading that is not stored in
    time is read again at the next look. A fault of the source or the store ends a look, never the loop.
    """

    def __init__(
        self,
        source: OutsideSource,
        intake: Intake,
        guard: Guard,
        clock: Clock,
        tell: Tell,
        *,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.source = source
        self._intake = intake
        self._guard = guard
        self._clock = clock
        self._tell = tell
        self._metrics = metrics
        self._state = WAITING
        self._reason = ""
        self._answered_at = clock.now()
        self._account = Account()

    @property
    def silence_limit_s(self) -> float:
        """Silence that the source does not reach while all is well."""
        return max(SHORTEST_LIMIT_S, LOOKS_MISSED * self.source.every_s)

    def status(self) -> dict[str, Any]:
        """State, the reason for it, and what came of all looks since the process began."""
        return {
            "state": self._state,
            "reason": self._reason,
            "answered_at": self._answered_at.isoformat(),
            "n_new": self._account.n_new,
            "n_rejected": self._account.n_rejected,
        }

    def measure(self) -> None:
        """Set the metrics of silence, as it is now; a disabled source has none."""
        silence, limit = self._metrics.outside_silence_seconds, self._metrics.outside_silence_limit_seconds
        if self._state == DISABLED:
            for gauge in (silence, limit):
                gauge.remove(self.source.name)
            return
        age = self._clock.now() - self._answered_at
        silence.labels(self.source.name).set(max(0.0, age.total_seconds()))
        limit.labels(self.source.name).set(self.silence_limit_s)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            wait_s = await self.turn()
            await asyncio.sleep(wait_s)

    async def turn(self) -> float:
        """One look; returns how many seconds to wait before the next."""
        try:
            status = await self.source.status()
            if status.is_disabled:
                self._become(DISABLED, status.reason)
                return self.source.every_s
            self._intake.begin()
            readings = await self.source.look(await self._guard.call(self._newest))
            account = Account()
            # A series of a symbol at a time, all or none: its history must not be stored by half.
            for rows in by_series(readings).values():
                account += await self._guard.call(self._take, rows)
        except SourceDisabled as exc:
            # The budget ended between the two questions.
            self._become(DISABLED, exc.message)
            return self.source.every_s
        except LeviBotError as exc:
            self._fail(str(exc))
            return max(self.source.every_s, min(exc.retry_after_s or 0.0, LONGEST_WAIT_S))
        except Exception as exc:
            log.error("a look at a source failed", source=self.source.name, exc_info=exc)
            self._fail(f"{type(exc).__name__}: {exc}")
            return self.source.every_s
        self._note(account)
        return self.source.every_s

    async def _newest(self) -> Newest:
        return await self._intake.store.observations.newest_events(self._intake.market_id, self.source.name)

    async def _take(self, readings: Sequence[Reading]) -> Account:
        known_by = self._clock.now() + STORED_WITHIN
        return await self._intake.take_observations(screen_readings(self.source.name, readings, known_by))

    def _note(self, account: Account) -> None:
        self._metrics.outside_polls.labels(self.source.name, "ok").inc()
        self._metrics.observations.labels(self.source.name).inc(account.n_new)
        self._answered_at = self._clock.now()
        self._account += account
        self._become(WORKING, "")
        if account.n_new or account.n_rejected:
            payload = {"n_new": account.n_new, "n_rejected": account.n_rejected}
            self._tell("observations", {"source": self.source.name, **payload})

    def _fail(self, reason: str) -> None:
        self._metrics.outside_polls.labels(self.source.name, "failed").inc()
        self._become(FAILING, reason)

    def _become(self, state: str, reason: str) -> None:
        if state != self._state:
            # Each change is told once, not each look.
            payload = {"source": self.source.name, "state": state, "reason": reason}
            log.log(30 if state == FAILING else 20, "a source outside has another state", **payload)
            self._tell("outside_source", payload)
            if self._state == DISABLED:
                # It was not silent: nobody asked.
                self._answered_at = self._clock.now()
        self._state, self._reason = state, reason
