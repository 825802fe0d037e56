"""A Parquet file of trades into PostgreSQL: the ingest beside a bare COPY of the same rows.

`python -m benchmarks.ingest [--json] [--quick]`, on an embedded server of its own. The trades are those of
`LEVIBOT_MARKET_DATA`, again and again with later instants and ids, or drawn where it is not set.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.market.intake import Intake
from levibot.market.ticks import COLUMNS, Ticks, joined
from levibot.market.trade_ingest import load_trades
from levibot.market.trades_parquet import BATCH_ROWS, ParquetTrades
from levibot.settings import Settings
from levibot.stores import tick_rows
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.ticks import TickStore

MARKET, SYMBOL = "benchmark", "BTCUSDT"
N_ROWS, QUICK_ROWS = 1_000_000, 100_000
SEED = 7

Columns = dict[str, npt.NDArray[Any]]


def recorded_trades(folder: Path) -> Columns:
    """The trades of a recorded market."""
    table = pq.read_table(folder / "trades" / f"{SYMBOL}.parquet")
    return {name: table[name].to_numpy() for name in ("ts", "price", "qty", "trade_id", "is_buyer_maker")}


def drawn_trades(n: int) -> Columns:
    """Trades of a random walk on a grid of cents, some 30 a second."""
    rng = np.random.default_rng(SEED)
    return {
        "ts": np.datetime64("2024-08-09", "ms") + rng.exponential(33.0, n).cumsum().astype("timedelta64[ms]"),
        "price": np.round(60_000.0 * np.exp(rng.normal(0.0, 1e-5, n).cumsum()), 2),
        "qty": np.round(rng.exponential(0.02, n) + 1e-5, 5),
        "trade_id": np.arange(1, n + 1),
        "is_buyer_maker": rng.random(n) < 0.5,
    }


def repeated(trades: Columns, n: int) -> Columns:
    """The first `n` of the trades again and again, each time later and with higher ids."""
    times = -(-n // len(trades["ts"]))
    last = {name: trades[name][-1] - trades[name][0] + 1 for name in ("ts", "trade_id")}
    whole = {
        name: np.concatenate([column + k * last[name] if name in last else column for k in range(times)])
        for name, column in trades.items()
    }
    return {name: column[:n] for name, column in whole.items()}


async def load_ours(dsn: str, folder: Path, n_rows: int) -> Mapping[str, float]:
    """Read, screen, de-duplicate, store, account; a transaction a batch."""
    store = await TickStore.open(dsn, timeout_s=30.0)
    try:
        await _empty(dsn)
        started = time.perf_counter()
        account = await load_trades(ParquetTrades(folder, (SYMBOL,)), SYMBOL, Intake(store, MARKET))
        took_s = time.perf_counter() - started
    finally:
        await store.close()
    if (account.n_new, account.n_read) != (n_rows, n_rows):
        raise AssertionError(f"{n_rows} rows were given, and the account is {account}")
    return {"rows_per_s": n_rows / took_s}


async def copy_bare(dsn: str, encoded: bytes, n_rows: int) -> Mapping[str, float]:
    """One binary COPY of rows that were encoded before, into the same table, emptied."""
    db = await asyncpg.connect(dsn)
    try:
        await _empty(dsn)
        started = time.perf_counter()
        await db.copy_to_table(
            "ticks", source=_blocks(encoded), columns=["market_id", "symbol", *COLUMNS], format="binary"
        )
        took_s = time.perf_counter() - started
        n_there = await db.fetchval("SELECT count(*) FROM ticks")
    finally:
        await db.close()
    if n_there != n_rows:
        raise AssertionError(f"{n_rows} rows were copied, and {n_there} are there")
    return {"rows_per_s": n_rows / took_s}


def main() -> None:
    options = arguments(__doc__ or "")
    n_rows = QUICK_ROWS if options.quick else N_ROWS
    recording = os.environ.get("LEVIBOT_MARKET_DATA")
    trades = drawn_trades(n_rows) if recording is None else recorded_trades(Path(recording))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The server may run as another user.
        folder.chmod(0o755)
        (folder / "trades").mkdir()
        pq.write_table(pa.table(repeated(trades, n_rows)), folder / "trades" / f"{SYMBOL}.parquet")
        ticks: Ticks = joined(part.sound for part in ParquetTrades(folder, (SYMBOL,)).batches(SYMBOL))
        encoded = tick_rows.encode(MARKET, ticks)
        servers = EmbeddedServers(Settings.load(home=folder / "home", redis_url="redis://unused"))
        try:
            dsn = servers.start().postgres_dsn
            asyncio.run(_prepare(dsn, ticks))
            result = compare(
                "ingest",
                lambda: asyncio.run(load_ours(dsn, folder, n_rows)),
                lambda: asyncio.run(copy_bare(dsn, encoded, n_rows)),
                what="one binary COPY of the same rows, encoded before, into the same table",
                goal={"rows_per_s": (">=", 0.6)},
                repeats=QUICK_REPEATS if options.quick else REPEATS,
                packages=("asyncpg", "numpy", "pyarrow"),
                notes={
                    "rows": n_rows,
                    "batch_rows": BATCH_ROWS,
                    "trades": "drawn" if recording is None else "recorded, repeated",
                },
            )
        finally:
            servers.stop()
    report(result, as_json=options.json)


async def _prepare(dsn: str, ticks: Ticks) -> None:
    """Tables, and the partitions that both sides need: one trade an hour makes them."""
    store = await TickStore.open(dsn, timeout_s=30.0)
    try:
        await store.migrate()
        _, hourly = np.unique(ticks.ts.astype("datetime64[h]"), return_index=True)
        await store.ticks.write(MARKET, [ticks.rows(hourly)])
    finally:
        await store.close()


async def _empty(dsn: str) -> None:
    db = await asyncpg.connect(dsn)
    try:
        await db.execute("TRUNCATE ticks, tick_marks")
    finally:
        await db.close()


async def _blocks(encoded: bytes) -> AsyncIterator[bytes]:
    for block in tick_rows.blocks(encoded):
        yield block


if __name__ == "__main__":
    main()
