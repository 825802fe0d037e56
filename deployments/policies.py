"""The policy in shadow, as the face shows it: what it wants, how old that is, and whether it may be used."""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from levibot.errors import LeviBotError, NotReady, UnknownSymbol
from levibot.resilience.guard import Guard
from levibot.serving.answer import AnswerPolicy
from levibot.settings import Settings
from levibot.stores.online import Freshness
from levibot.stores.policy_ledger import PolicyRecord

TIMEOUT_S = 2.5
# The replica looks for a new close as often.
RENEW_S = 0.25


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """A decision with its age on the market's clock."""

    record: PolicyRecord
    feature_age_s: float
    freshness: Freshness


class Policies:
    """Asks the policy's replica, once at a time for each symbol, however many ask for it.

    State: what it said last, which is given for `RENEW_S` more: a hop costs milliseconds, and the age of a
    decision is told with it. Its fallback is an error that says so: nothing depends on the answer.
    """

    def __init__(self, handle: DeploymentHandle[Any], settings: Settings) -> None:
        self._handle = handle
        self._clock = settings.clock()
        self._symbols = settings.symbols
        self._asked: dict[str, tuple[float, asyncio.Task[PolicyRecord | LeviBotError]]] = {}
        self._ages = AnswerPolicy(settings.interval, settings.fresh_bars, settings.usable_bars)
        self._ask = Guard(
            "rl policy",
            timeout_s=TIMEOUT_S,
            attempts=2,
            transient=(RayError, RayServeException),
            unavailable=NotReady,
        )

    async def decision(self, symbol: str) -> PolicyAnswer:
        """The newest decision on a symbol.

        Raises UnknownSymbol, UnknownVersion without an active policy, RegistryConflict where it was trained
        on another view than is served, and NotReady where there is none that may be used.
        """
        if symbol not in self._symbols:
            served = ", ".join(self._symbols)
            raise UnknownSymbol(f"{symbol} is not served.", hint=f"Served are: {served}.")
        told = await self._told(symbol)
        if isinstance(told, LeviBotError):
            raise told
        now = self._clock.now()
        age_s = max(0.0, (now - told.as_of).total_seconds())
        bar_s = self._ages.interval.total_seconds()
        limit_s = self._ages.usable_bars * bar_s
        if age_s > limit_s:
            raise NotReady(
                f"The newest decision on {symbol} is {age_s:.0f} s old on the market's clock, and nothing "
                f"older than {limit_s:.0f} s is used.",
                hint="The feed has stopped or the recorded market has ended; see /readyz.",
            )
        is_fresh = age_s <= self._ages.fresh_bars * bar_s
        return PolicyAnswer(told, age_s, Freshness.FRESH if is_fresh else Freshness.STALE)

    async def _told(self, symbol: str) -> PolicyRecord | LeviBotError:
        at_s, asking = self._asked.get(symbol, (0.0, None))
        now_s = time.monotonic()
        is_over = asking is not None and asking.done()
        if asking is None or (is_over and (now_s - at_s > RENEW_S or asking.exception() is not None)):
            # In a context of its own: whose deadline the first caller has is not the others'.
            asking = asyncio.create_task(self._ask.call(self._of_replica, symbol), context=Context())
            self._asked[symbol] = now_s, asking
        return await asyncio.shield(asking)

    async def _of_replica(self, symbol: str) -> PolicyRecord | LeviBotError:
        told: PolicyRecord | LeviBotError = await self._handle.decision.remote(symbol)
        return told
