"""The canary, as the face shows it: what each arm does, and whether it was rolled back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from levibot.errors import NotReady, StoreError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.serving.canary_report import CanaryReport, read_report
from levibot.settings import Settings
from levibot.stores.connect import open_ticks
from levibot.stores.ticks import TickStore


@dataclass(frozen=True, slots=True)
class CanaryState:
    """What is known at `market_time`; report: None where there never was a canary. problem: empty, or why
    this is not of now.
    """

    report: CanaryReport | None
    market_time: datetime
    problem: str = ""


class Canaries:
    """Reads PostgreSQL, which whoever judges a canary reads too. State: what it answered last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = settings.clock()
        self._ticks: TickStore | None = None
        self._last: CanaryReport | None = None
        self._has_answered = False
        self._postgres = Guard(
            "api:canary",
            timeout_s=2.0 * settings.store_timeout_s,
            attempts=1,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )

    async def canary(self) -> CanaryState:
        """The canary that was set last. Raises NotReady where PostgreSQL never answered."""
        problem = ""
        try:
            self._last = await self._postgres.call(self._read)
            self._has_answered = True
        except StoreError as exc:
            problem = str(exc)
        if not self._has_answered:
            raise NotReady(problem, hint="See /healthz.")
        return CanaryState(self._last, self._clock.now(), problem)

    async def close(self) -> None:
        if self._ticks is not None:
            await self._ticks.close()

    async def _read(self) -> CanaryReport | None:
        if self._ticks is None:
            self._ticks = await open_ticks(self._settings)
        return await read_report(self._ticks, self._settings.market_id, self._settings.interval)
