"""Redis killed under a rate limit: never more calls than it allows, and the named answer while it is away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.rate_limiter import Decision, Limit, RateLimiter, WhenAway
from levibot.stores.redis import open_redis
from tests.faults.drill import AWAY_S
from tests.faults.plugin import Faults
from tests.faults.subject import TIMEOUT_S

pytestmark = pytest.mark.stores

# So large that a bucket which was forgotten, and so is full again, is far beyond what flows in meanwhile.
LIMIT = Limit(capacity=500, refill=5)
N_CALLERS = 8
PAUSE_S = 0.002


@dataclass
class Calls:
    """Eight callers of one bucket. State: what was decided, and when; whether they are to stop."""

    limiter: RateLimiter
    began_at: float = field(default_factory=time.monotonic)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    is_stopped: bool = False

    async def keep_calling(self) -> None:
        # By a flag: what a cancelled write came to would not be known.
        while not self.is_stopped:
            decision = await self.limiter.decide("drill")
            self.decisions.append((time.monotonic(), decision))
            await asyncio.sleep(PAUSE_S)

    def n_allowed(self) -> int:
        """How many calls Redis has allowed."""
        return sum(d.allowed and not d.is_fallback for _, d in self.decisions)

    def at_most(self) -> int:
        """How many may have been allowed by now."""
        return LIMIT.capacity + math.ceil(LIMIT.refill * (time.monotonic() - self.began_at))

    def fallbacks(self) -> list[Decision]:
        return [decision for _, decision in self.decisions if decision.is_fallback]

    def first_by_redis(self, since: float) -> float | None:
        """When Redis decided again, None before it does."""
        return next((at for at, d in self.decisions if at >= since and not d.is_fallback), None)


@asynccontextmanager
async def calling(client: Redis, when_away: WhenAway) -> AsyncIterator[Calls]:
    calls = Calls(RateLimiter(client, f"drill-{when_away}", LIMIT, when_away=when_away))
    tasks = [asyncio.create_task(calls.keep_calling()) for _ in range(N_CALLERS)]
    try:
        yield calls
    finally:
        calls.is_stopped = True
        await asyncio.gather(*tasks)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not is_so():  # noqa: ASYNC110 - the callers tell nobody
            await asyncio.sleep(0.01)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[EmbeddedServers]:
    servers = EmbeddedServers(Settings.load(home=tmp_path / "home", postgres_dsn="postgresql://unused/x"))
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture
async def client(servers: EmbeddedServers) -> AsyncIterator[Redis]:
    client = open_redis(servers.start().redis_url, timeout_s=TIMEOUT_S)
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    "when_away",
    [
        pytest.param(
            which,
            marks=pytest.mark.fault(
                f"Redis, rate limit ({which} when away)", "killed (SIGKILL), started again"
            ),
            id=which,
        )
        for which in WhenAway
    ],
)
async def test_redis_killed(
    servers: EmbeddedServers, client: Redis, when_away: WhenAway, faults: Faults
) -> None:
    rss = psutil.Process().memory_info
    async with calling(client, when_away) as calls:
        await until(lambda: calls.n_allowed() >= LIMIT.capacity)
        before = rss().rss
        server = psutil.Process(servers.pids()["redis"])
        server.kill()
        server.wait(10)
        await asyncio.sleep(AWAY_S)
        assert await asyncio.to_thread(servers.restart_dead) == ["redis"]
        back_at = time.monotonic()
        await until(lambda: calls.first_by_redis(back_at) is not None)
        recovered_s = (calls.first_by_redis(back_at) or math.inf) - back_at
        # Long enough for a forgotten bucket to be taken empty again.
        await asyncio.sleep(2.0)
        grown_mb = max(0, rss().rss - before) / 1e6
        n_allowed, at_most = calls.n_allowed(), calls.at_most()
    assert n_allowed <= at_most
    fallbacks = calls.fallbacks()
    assert fallbacks
    assert all(decision.allowed == (when_away is WhenAway.ALLOW) for decision in fallbacks)
    assert all(decision.allowed or decision.retry_after_s > 0 for decision in fallbacks)
    faults.record(
        during=f"{N_CALLERS} callers of one bucket, away {AWAY_S:g} s; {len(calls.decisions):,} decisions",
        recovered_s=recovered_s,
        grown_mb=grown_mb,
        outcome=(
            f"Redis allowed {n_allowed} of at most {at_most}; {len(fallbacks):,} decisions without it, "
            f"each one: {when_away}"
        ),
    )


async def test_a_forgotten_bucket_is_found(client: Redis) -> None:
    async with calling(client, WhenAway.REFUSE) as calls:
        await until(lambda: calls.n_allowed() >= LIMIT.capacity)
        await client.flushall()
        await until(lambda: calls.n_allowed() > calls.at_most())
