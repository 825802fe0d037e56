"""The policy in shadow, as the face shows it: what it wants, how old that is, and whether it may be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from levibot.errors import LeviBotError, NotReady
from levibot.resilience.guard import Guard
from levibot.serving.answer import AnswerPolicy
from levibot.settings import Settings
from levibot.stores.online import Freshness
from levibot.stores.policy_ledger import PolicyRecord

TIMEOUT_S = 2.5


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """A decision with its age on the market's clock."""

    record: PolicyRecord
    feature_age_s: float
    freshness: Freshness


class Policies:
    """Asks the policy's replica. Its fallback is an error that says so: nothing depends on the answer."""

    def __init__(self, handle: DeploymentHandle[Any], settings: Settings) -> None:
        self._handle = handle
        self._clock = settings.clock()
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
        told: PolicyRecord | LeviBotError = await self._ask.call(self._of_replica, symbol)
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

    async def _of_replica(self, symbol: str) -> PolicyRecord | LeviBotError:
        told: PolicyRecord | LeviBotError = await self._handle.decision.remote(symbol)
        return told
