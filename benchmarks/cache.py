"""`python -m benchmarks.cache`: a hit in process against functools.lru_cache; the hit rate on a request mix.

The mix is `benchmarks/request_mix.csv`: one line a request, milliseconds since the first and the symbol. It
is not traffic of real users, of which there is none: it was drawn once (`--draw`) from a seeded Zipf law over
200 symbols with Poisson arrivals, and is kept so that every run replays the same requests. Time in the replay
is the mix's own, on a clock that is moved from request to request.
"""

from __future__ import annotations

import asyncio
import csv
import random
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.clock import ManualClock
from levibot.stores.cache import Cache
from levibot.telemetry.metrics import Metrics

MIX = Path(__file__).with_name("request_mix.csv")
N_REQUESTS, N_SYMBOLS, REQUESTS_PER_S, ZIPF_EXPONENT, SEED = 6_000, 200, 20.0, 1.1, 7
# The time of a hit is the median over batches: what interrupts one batch is no part of a hit.
BATCH, N_BATCHES, N_QUICK_BATCHES = 1_000, 200, 20
KEYS = [f"S{i}USDT:1" for i in range(50)]
SIGNAL = {"symbol": "BTCUSDT", "probability_up": 0.53, "target_position": 0.1, "model_version": "v1"}
START = datetime(2024, 1, 1, tzinfo=UTC)
BAR_S = 60


async def load() -> dict[str, object]:
    """What the loader gives: the fields of a signal."""
    return dict(SIGNAL)


@lru_cache(maxsize=100)
def _reference(key: str) -> tuple[str, int]:
    return key, 0


async def _hit_us(n_batches: int) -> float:
    cache: Cache[dict[str, object]] = Cache(
        "bench", None, l1_ttl_s=3600.0, l2_ttl_s=3600.0, metrics=Metrics(CollectorRegistry())
    )
    batches = []
    for _ in range(n_batches + 1):
        started = time.perf_counter()
        for i in range(BATCH):
            await cache.get_or_load(KEYS[i % 50], load)
        batches.append((time.perf_counter() - started) / BATCH * 1e6)
    return median(batches[1:])  # the first one fills the cache


async def _hit_rate(mix: list[tuple[int, str]]) -> float:
    """The share of requests that the cache's own tier in this process answers."""
    clock, n_loads = ManualClock(START), 0
    cache: Cache[dict[str, object]] = Cache(
        "mix",
        None,
        clock=clock,
        l1_ttl_s=60.0,
        rng=random.Random(SEED),
        metrics=Metrics(CollectorRegistry()),
    )
    at_ms = 0
    for ms, symbol in mix:
        clock.advance((ms - at_ms) / 1000)
        at_ms = ms
        # As the API asks: a signal is of one symbol and one bar.
        answer = await cache.get_or_load(f"{symbol}:{ms // 1000 // BAR_S}", load)
        n_loads += answer.tier == "loader"
    return 1.0 - n_loads / len(mix)


def read_mix() -> list[tuple[int, str]]:
    """(milliseconds, symbol) of each request, oldest first."""
    with MIX.open() as file:
        return [(int(ms), symbol) for ms, symbol in csv.reader(file)]


def draw_mix() -> list[tuple[int, str]]:
    """The mix, from its seed."""
    rng = np.random.default_rng(SEED)
    weights = 1.0 / np.arange(1, N_SYMBOLS + 1) ** ZIPF_EXPONENT
    symbols = rng.choice(N_SYMBOLS, N_REQUESTS, p=weights / weights.sum())
    at_s = np.cumsum(rng.exponential(1.0 / REQUESTS_PER_S, N_REQUESTS))
    return [(round(1000 * t), f"S{i}USDT") for t, i in zip(at_s - at_s[0], symbols, strict=True)]


def main() -> None:
    """Draw the mix, or measure."""
    if "--draw" in sys.argv:
        with MIX.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(draw_mix())
        return
    options = arguments("The cache, against functools.lru_cache and on a request mix.")
    n_batches = N_QUICK_BATCHES if options.quick else N_BATCHES
    mix = read_mix()

    def ours() -> Mapping[str, float]:
        hit_us = asyncio.run(_hit_us(n_batches))
        return {"hit_us": hit_us, "l1_hit_us": hit_us, "hit_rate": asyncio.run(_hit_rate(mix))}

    def reference() -> Mapping[str, float]:
        batches = []
        for _ in range(n_batches + 1):
            started = time.perf_counter()
            for i in range(BATCH):
                _reference(KEYS[i % 50])
            batches.append((time.perf_counter() - started) / BATCH * 1e6)
        return {"hit_us": median(batches[1:])}

    result = compare(
        "cache",
        ours,
        reference,
        what="functools.lru_cache, which has no expiry, no age, no metrics and no single flight",
        goal={"l1_hit_us": ("<=", 5.0), "hit_rate": (">=", 0.8)},
        repeats=QUICK_REPEATS if options.quick else REPEATS,
        packages=("prometheus-client",),
        notes={
            "mix": f"seeded, not traffic: {len(mix)} requests, Zipf {ZIPF_EXPONENT} over {N_SYMBOLS} "
            f"symbols, {REQUESTS_PER_S:g}/s, a new key of each symbol every {BAR_S} s; 100 entries at most"
        },
    )
    report(result, as_json=options.json)


if __name__ == "__main__":
    main()
