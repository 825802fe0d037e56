"""Takes the shadow accounts through every finished bar, and tells what each has earned."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from ray.actor import ActorHandle

from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import LeviBotError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.serving.arms import CANARY, CHAMPION
from levibot.serving.shadow_pricing import ShadowPricing
from levibot.settings import Settings
from levibot.stores.canaries import book_of
from levibot.stores.connect import open_ticks
from levibot.stores.query_profile import PROFILE
from levibot.stores.ticks import TickStore
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging
from levibot.telemetry.metrics import DEFAULT
from levibot.trading.backtest import START_EQUITY

NAME = "shadow_ledger"
RETRY_S = 0.5
TURN_TIMEOUT_S = 60.0
FASTEST_POLL_S, SLOWEST_POLL_S = 0.25, 5.0
# So long after it has come back nothing is priced with what is missing: the writers come back too.
SETTLE_S = 5.0
# The sums over all days are not made more often.
EARNED_S = 5.0
log = structlog.get_logger()


class ShadowLedger:
    """Shares the accounts' progress; holds no formula of its own. After a crash the store says how far it is.

    State: what it says of itself, and when it last came back.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        # Its fallback is to wait: bars and decisions are stored, and are priced later, each once.
        self._guard = Guard(
            NAME, timeout_s=TURN_TIMEOUT_S, attempts=1, reset_s=RETRY_S, transient=(StoreUnavailable,)
        )
        # And the accounts of a canary wait alone: the market's are priced whatever becomes of them.
        self._guard_canary = Guard(
            "canary ledger",
            timeout_s=TURN_TIMEOUT_S,
            attempts=1,
            reset_s=RETRY_S,
            transient=(StoreUnavailable,),
        )
        self._priced_to: datetime | None = None
        self._n_fills = 0
        self._equity: dict[str, float] = {}
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def status(self) -> dict[str, Any]:
        """How far the accounts are, what they hold in quote currency, and the problem there is, if any.

        n_fills: since the process began.
        """
        return {
            "priced_to": self._priced_to.isoformat() if self._priced_to else None,
            "equity": dict(self._equity),
            "n_fills": self._n_fills,
            "problem": self._problem,
        }

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        await follow_for_ever("the shadow ledger", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Price bar after bar until a problem comes up, which is raised."""
        settings = self._settings
        ticks = await open_ticks(settings)
        back_at, earned_at = time.monotonic(), 0.0
        poll_s = self._poll_s()
        try:
            pricing = ShadowPricing(ticks, settings.market_id, settings.symbols, settings.interval)
            while True:
                waits = time.monotonic() - back_at < SETTLE_S
                priced = await self._guard.call(self._turn, pricing, waits)
                self._problem = ""
                if time.monotonic() - earned_at > EARNED_S:
                    await self._guard.call(self._note_earned, ticks)
                    earned_at = time.monotonic()
                if not await self._priced_canary(ticks, waits) and not priced:
                    await asyncio.sleep(poll_s)
        finally:
            await ticks.close()

    async def _turn(self, pricing: ShadowPricing, waits: bool) -> bool:
        """Whether there was something to price."""
        priced = await pricing.turn(self._clock.now(), waits=waits)
        if priced is None:
            return False
        self._priced_to = priced.priced_to
        self._n_fills += len(priced.fills)
        self._equity = {name: account.equity for name, account in priced.book.accounts.items()}
        return True

    async def _priced_canary(self, ticks: TickStore, waits: bool) -> bool:
        """Whether there was something to price of a canary; what goes wrong there stops no other account."""
        try:
            return await self._guard_canary.call(self._turn_canary, ticks, waits)
        except LeviBotError as exc:
            self._problem = f"The accounts of the canary wait: {exc}"
            log.warning("the accounts of the canary wait", reason=str(exc))
            return False

    async def _turn_canary(self, ticks: TickStore, waits: bool) -> bool:
        """The same of both arms of the canary, while there is one that was not rolled back."""
        settings = self._settings
        run = await ticks.canaries.newest(settings.market_id)
        if run is None or run.ended_at is not None:
            return False
        priced = []
        for arm in (CHAMPION, CANARY):
            pricing = ShadowPricing(
                ticks,
                settings.market_id,
                settings.symbols,
                settings.interval,
                book_id=book_of(settings.market_id, run.setting, arm),
            )
            priced.append(await pricing.turn(self._clock.now(), waits=waits))
        return any(one is not None for one in priced)

    async def _note_earned(self, ticks: TickStore) -> None:
        for earned in await ticks.shadow.earned(self._settings.market_id):
            DEFAULT.shadow_pnl.labels(earned.account, earned.regime).set(earned.pnl / START_EQUITY)

    def _poll_s(self) -> float:
        rate = self._clock.rate
        bar_s = self._settings.interval.total_seconds() / rate if rate > 0.0 else SLOWEST_POLL_S
        return min(SLOWEST_POLL_S, max(FASTEST_POLL_S, bar_s / 4))


def start(settings: Settings) -> ActorHandle:
    """The cluster's shadow ledger, started if it is not there yet."""
    return start_detached(ShadowLedger, NAME, settings)
