"""A token bucket for each caller, in Redis: one script decides, so that all processes share one count.

Keys: `rate:{name}:{caller}`, one short text each, gone when its bucket would be full again. A refusal writes
nothing. Time is the server's, so callers with different clocks agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis

from levibot.errors import RateLimited, StoreError, UsageError
from levibot.stores.redis import ask
from levibot.telemetry.metrics import DEFAULT, Metrics

# Lua counts in doubles: whole numbers are exact below this.
EXACT = 2**53
MICRO = 1_000_000

# KEYS: the buckets, one after the other. ARGV: capacity and cost in units, units that flow in each
# microsecond, now_us or ''. A unit is so small that one microsecond brings a whole number of them.
# Stored: units and the instant. Returns for each key: allowed, the units left, the microseconds until the
# cost is there.
TAKE = """
local capacity, cost, refill = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_us = math.ceil(capacity / refill)
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local answers = {}
for i = 1, #KEYS do
  local units, at = capacity, now
  local stored = redis.call('GET', KEYS[i])
  if stored then
    local left, instant = string.match(stored, '^(%d+) (%d+)$')
    units, at = tonumber(left), tonumber(instant)
    -- A clock that was set back brings nothing; one that had run far ahead must not block for as long.
    if at - now > full_us then at = now end
    local passed = math.min(math.max(0, now - at), full_us)
    units = math.min(capacity, units + passed * refill)
    at = math.max(at, now)
  end
  local allowed, wait = 0, 0
  if units >= cost then
    allowed, units = 1, units - cost
    local life_ms = math.ceil((capacity - units) / refill / 1000) + 1000
    local bucket = string.format('%.0f %.0f', units, at)
    redis.call('SET', KEYS[i], bucket, 'PX', string.format('%.0f', life_ms))
  else
    local rest = (cost - units) % refill
    wait = (cost - units - rest) / refill + at - now
    if rest > 0 then wait = wait + 1 end
  end
  answers[#answers + 1] = allowed
  answers[#answers + 1] = string.format('%.0f', units)
  answers[#answers + 1] = string.format('%.0f', wait)
end
return answers
"""


class WhenAway(StrEnum):
    """What a limiter says while Redis cannot decide: a limit for fairness allows, one for safety refuses."""

    ALLOW = "allow"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Limit:
    """`refill` calls in each `per_s` seconds, and up to `capacity` at once after a pause.

    Whole numbers, so that the count is exact. Raises UsageError when one is below 1, or when
    capacity · per_s is 9 · 10⁹ or more, where it would not be.
    """

    capacity: int
    refill: int
    per_s: int = 1

    def __post_init__(self) -> None:
        for name in ("capacity", "refill", "per_s"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of a limit is {getattr(self, name)}, and must be at least 1.")
        if (self.capacity + self.refill) * self.unit >= EXACT:
            raise UsageError(
                f"A limit of capacity {self.capacity} per {self.per_s} s is too large to be counted exactly."
            )

    @property
    def unit(self) -> int:
        """The units of one call: `refill` of them flow in each microsecond."""
        return self.per_s * MICRO


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may go on. remaining: whole calls left now. retry_after_s: 0 when allowed.

    is_fallback: Redis did not decide; remaining is 0 then.
    """

    allowed: bool
    remaining: int
    retry_after_s: float
    is_fallback: bool = False


class RateLimiter:
    """The buckets of one limit, for one event loop. Holds no count of its own.

    name: of the limit, part of its keys and metrics. when_away: the answer while Redis cannot decide.
    retry_s: what a refusal without Redis asks the caller to wait. now_us: a clock for tests, in place of
    the server's.
    """

    def __init__(
        self,
        client: Redis,
        name: str,
        limit: Limit,
        *,
        when_away: WhenAway,
        retry_s: float = 1.0,
        now_us: Callable[[], int] | None = None,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.name = name
        self.limit = limit
        self._client = client
        self._when_away = when_away
        self._retry_s = retry_s
        self._now_us = now_us
        self._metrics = metrics
        self._take = client.register_script(TAKE)

    async def take(self, caller: str, cost: int = 1) -> Decision:
        """The decision that lets `caller` go on. Raises RateLimited, with `retry_after_s`, when it may not.

        Raises UsageError when `cost` could never be paid.
        """
        decision = await self.decide(caller, cost)
        if not decision.allowed:
            limit = self.limit
            why = (
                "Redis does not answer, and this limit refuses then"
                if decision.is_fallback
                else "it is spent"
            )
            raise RateLimited(
                f"{caller} may call {limit.refill} times in {limit.per_s} s ({self.name}): {why}.",
                hint=f"Try again in {decision.retry_after_s:.3g} s.",
                retry_after_s=decision.retry_after_s,
            )
        return decision

    async def decide(self, caller: str, cost: int = 1) -> Decision:
        """Whether `caller` may go on, and the tokens are taken if so. Raises UsageError on a wrong cost."""
        return (await self.decide_many([caller], cost))[0]

    async def decide_many(self, callers: Sequence[str], cost: int = 1) -> list[Decision]:
        """One decision for each of `callers`, in their order, in one call of the script."""
        if not 1 <= cost <= self.limit.capacity:
            raise UsageError(
                f"A call costs {cost}, outside 1 to the capacity {self.limit.capacity} of {self.name}."
            )
        if not callers:
            return []
        limit = self.limit
        now_us: int | str = "" if self._now_us is None else self._now_us()
        keys = [f"rate:{self.name}:{caller}" for caller in callers]
        arguments = [limit.capacity * limit.unit, cost * limit.unit, limit.refill, now_us]
        try:
            answer = [int(part) for part in await ask("count calls", self._take(keys, arguments))]
        except StoreError:
            decisions = [self._away()] * len(callers)
        else:
            thirds = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
            decisions = [Decision(bool(yes), left // limit.unit, us / MICRO) for yes, left, us in thirds]
        refused = sum(not decision.allowed for decision in decisions)
        if refused:
            self._metrics.rate_limited.labels(self.name).inc(refused)
        return decisions

    def _away(self) -> Decision:
        if self._when_away is WhenAway.ALLOW:
            return Decision(True, 0, 0.0, is_fallback=True)
        return Decision(False, 0, self._retry_s, is_fallback=True)
