"""How often each key may ask: counted in Redis for all replicas together, in leases to spare it calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from levibot.errors import StoreError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.stores.rate_limiter import Decision, Limit, RateLimiter
from levibot.telemetry.metrics import DEFAULT, Metrics

# A frozen Redis costs a few requests this much, and then its circuit is open.
TIMEOUT_S = 0.1
# So many requests are taken at once, and need no other look at Redis; fewer where the limit is low.
LONGEST_LEASE = 64
LEASES_PER_S = 20


@dataclass(slots=True)
class _Account:
    """One key on this replica. n_leased: requests that are paid for and not yet used."""

    n_leased: int = 0
    refused_until: float = 0.0
    tokens: float = 0.0
    counted_at: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def use_lease(self) -> bool:
        """Whether a request was paid for already; it is used then."""
        if not self.n_leased:
            return False
        self.n_leased -= 1
        return True


class KeyLimiter:
    """The limit of the keys, for one event loop. State: what is leased, by key.

    A replica takes up to LONGEST_LEASE requests from the shared bucket at once: all replicas together let a
    key's limit pass, and nothing above it. While Redis is away each counts by itself with the same limit.
    monotonic: seconds, for tests.
    """

    def __init__(
        self,
        shared: RateLimiter,
        *,
        timeout_s: float = TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._shared = shared
        self._monotonic = monotonic
        self._metrics = metrics
        self._lease = max(1, min(LONGEST_LEASE, _per_s(shared.limit) // LEASES_PER_S, shared.limit.capacity))
        self._accounts: dict[str, _Account] = {}
        # One attempt: a request does not wait for its own count.
        self._guard = Guard(
            "rate_limit:redis",
            timeout_s=timeout_s,
            attempts=1,
            failure_threshold=3,
            reset_s=1.0,
            transient=(StoreUnavailable,),
            metrics=metrics,
        )

    @property
    def state(self) -> str:
        """Of the circuit to Redis."""
        return self._guard.state

    async def wait_s(self, key_id: str) -> float:
        """0 when the key may ask now, and its request is counted; else the seconds until it may."""
        account = self._accounts.setdefault(key_id, _Account(tokens=float(self._shared.limit.capacity)))
        if account.use_lease():
            return 0.0
        async with account.turn:
            if account.use_lease():
                return 0.0
            left_s = account.refused_until - self._monotonic()
            if left_s > 0.0:
                self._metrics.rate_limited.labels(self._shared.name).inc()
                return left_s
            try:
                decision: Decision = await self._guard.call(self._take, key_id)
            except StoreError:
                return self._own(account)
            if not decision.allowed:
                account.refused_until = self._monotonic() + decision.retry_after_s
                return max(decision.retry_after_s, 1e-3)
            return 0.0

    async def _take(self, key_id: str) -> Decision:
        """One request of the shared bucket, with a lease where it has as many."""
        if self._lease > 1:
            leased = await self._decide(key_id, self._lease)
            if leased.allowed:
                self._accounts[key_id].n_leased += self._lease - 1
                return leased
        return await self._decide(key_id, 1)

    async def _decide(self, key_id: str, cost: int) -> Decision:
        decision = await self._shared.decide(key_id, cost)
        if decision.is_fallback:
            raise StoreUnavailable("Redis does not count requests now.")
        return decision

    def _own(self, account: _Account) -> float:
        """The fallback: this replica's own bucket."""
        limit, now = self._shared.limit, self._monotonic()
        passed_s = max(0.0, now - account.counted_at) if account.counted_at else 0.0
        rate = limit.refill / limit.per_s
        account.tokens = min(float(limit.capacity), account.tokens + passed_s * rate)
        account.counted_at = now
        if account.tokens >= 1.0:
            account.tokens -= 1.0
            return 0.0
        self._metrics.rate_limited.labels(self._shared.name).inc()
        return (1.0 - account.tokens) / rate


def _per_s(limit: Limit) -> int:
    return limit.refill // limit.per_s
