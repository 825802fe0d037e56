"""`python -m benchmarks.cache`: a hit in process against functools.lru_cache; the hit rate on a request mix.

The mix is `benchmarks/request_mix.csv`, recorded of a running system by `benchmarks/record_mix.py`: a line a
prediction, milliseconds since the first, numbers of symbol and bar. Time in the replay is the mix's own, on
a clock that is moved from request to request.
"""

from __future__ import annotations

import asyncio
import csv
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.clock import ManualClock
from levibot.stores.cache import Cache
from levibot.telemetry.metrics import Metrics

MIX = Path(__file__).with_name("request_mix.csv")
SEED = 7
# The time of a hit is the median over batches: what interrupts one batch is no part of a hit.
BATCH, N_BATCHES, N_QUICK_BATCHES = 1_000, 200, 20
KEYS = [f"S{i}USDT:1" for i in range(50)]
SIGNAL = {"symbol": "BTCUSDT", "probability_up": 0.53, "target_position": 0.1, "model_version": "v1"}
START = datetime(2024, 1, 1, tzinfo=UTC)


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


async def _hit_rate(mix: list[Request]) -> float:
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
    for asked in mix:
        clock.advance((asked.ms - at_ms) / 1000)
        at_ms = asked.ms
        # As the API asks: a signal is of one symbol and one bar.
        answer = await cache.get_or_load(f"S{asked.symbol}USDT:{asked.bar}", load)
        n_loads += answer.tier == "loader"
    return 1.0 - n_loads / len(mix)


class Request(NamedTuple):
    """One prediction that was asked for. ms: since the first. symbol, bar: numbers."""

    ms: int
    symbol: int
    bar: int


def read_mix() -> list[Request]:
    """The recorded predictions, oldest first."""
    with MIX.open() as file:
        return [Request(*map(int, row)) for row in csv.reader(file)]


def main() -> None:
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
            "mix": f"recorded: {len(mix)} predictions in {mix[-1].ms / 1000:.0f} s, of "
            f"{len({asked.symbol for asked in mix})} symbols and {len({asked.bar for asked in mix})} bars, "
            f"{len({asked[1:] for asked in mix})} keys in all; 100 entries at most"
        },
    )
    report(result, as_json=options.json)


if __name__ == "__main__":
    main()
