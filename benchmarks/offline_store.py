"""A training set out of the feature history: 1 M rows of 100 features and a label, joined by symbol and time.

`python -m benchmarks.offline_store [--json] [--quick]`. Ours beside DuckDB's ASOF join on its own file, the
join_asof of polars on Parquet, and the merge_asof of pandas with its load, on the same rows, each from disk
to columns in memory. The reference is the fastest of the three; every one of them is in the notes. What each
returns is checked once, value by value, before anything is timed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.clock import ManualClock
from levibot.stores.history_rows import Rows, Series
from levibot.stores.offline import OfflineStore

N_SYMBOLS, N_BARS, N_FEATURES = 20, 50_000, 100
QUICK_BARS = 5_000
SEED = 7
GOAL_S = 1.0
START = datetime(2019, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LABEL = "forward_return_24"

Values = npt.NDArray[np.float64]


class View:
    """A view of so many features."""

    name = "benchmark"
    version = "0123456789ab"
    names = tuple(f"feature_{k}" for k in range(N_FEATURES))


def drawn(n_bars: int) -> tuple[dict[str, Values], dict[str, Values], npt.NDArray[np.datetime64]]:
    """Features (T, F) and labels (T,) by symbol, and the closes of the bars (T,)."""
    rng = np.random.default_rng(SEED)
    symbols = [f"COIN{k:02d}USDT" for k in range(N_SYMBOLS)]
    features = {symbol: rng.standard_normal((n_bars, N_FEATURES)) for symbol in symbols}
    labels = {symbol: rng.standard_normal(n_bars) for symbol in symbols}
    first = np.datetime64(START.replace(tzinfo=None), "us")
    return features, labels, first + np.arange(1, n_bars + 1) * np.timedelta64(3_600_000_000, "us")


def filled(folder: Path, n_bars: int) -> tuple[OfflineStore, float]:
    """Our store with all rows, and how many of them it took in a second."""
    features, labels, closes = drawn(n_bars)
    clock = ManualClock(START + (n_bars + 25) * HOUR)
    store = OfflineStore.open(folder / "history", "benchmark", clock)
    view, label = Series.of_view(View()), Series.of_label(LABEL)
    known = closes + np.timedelta64(25, "h")
    rows = [Rows(view, symbol, closes, closes, values) for symbol, values in features.items()]
    rows += [Rows(label, symbol, closes, known, values[:, None]) for symbol, values in labels.items()]
    began = time.perf_counter()
    store.write(rows, reason="benchmark")
    return store, N_SYMBOLS * n_bars / (time.perf_counter() - began)


def write_references(folder: Path, n_bars: int) -> None:
    """The same rows for the others: sorted Parquet, not compressed, and a DuckDB file made of it."""
    features, labels, closes = drawn(n_bars)
    schema = pa.schema(
        [("symbol", pa.string()), ("event_ts", pa.timestamp("us"))]
        + [(name, pa.float64()) for name in View.names]
    )
    with pq.ParquetWriter(folder / "features.parquet", schema, compression="none") as writer:
        for symbol, values in features.items():
            columns = [pa.array([symbol] * n_bars), pa.array(closes), *map(pa.array, values.T.copy())]
            writer.write_table(pa.table(columns, schema=schema))
    parts = [
        pa.table({"symbol": [symbol] * n_bars, "event_ts": closes, "label": values})
        for symbol, values in labels.items()
    ]
    pq.write_table(pa.concat_tables(parts), folder / "labels.parquet", compression="none")
    with duckdb.connect(str(folder / "reference.duckdb")) as db:
        for name in ("features", "labels"):
            db.execute(f"CREATE TABLE {name} AS FROM read_parquet('{folder / name}.parquet')")


def ours(store: OfflineStore, n_bars: int) -> tuple[Values, Values]:
    """Features (N, F) and label (N,)."""
    now = START + (n_bars + 25) * HOUR
    training = store.get_training_set(View(), LABEL, START, now, as_of=now)
    return training.features, training.label


def with_duckdb(folder: Path) -> pa.Table:
    with duckdb.connect(str(folder / "reference.duckdb"), read_only=True, config={"threads": 2}) as db:
        return db.sql(
            "SELECT labels.label, features.* FROM labels ASOF JOIN features "
            "ON labels.symbol = features.symbol AND labels.event_ts >= features.event_ts"
        ).to_arrow_table()


def with_polars(folder: Path) -> pl.DataFrame:
    labels, features = (pl.read_parquet(folder / f"{name}.parquet") for name in ("labels", "features"))
    return labels.set_sorted("event_ts").join_asof(
        features.set_sorted("event_ts"), on="event_ts", by="symbol", check_sortedness=False
    )


def with_pandas(folder: Path) -> pd.DataFrame:
    labels, features = (
        pd.read_parquet(folder / f"{name}.parquet").sort_values("event_ts") for name in ("labels", "features")
    )
    return pd.merge_asof(labels, features, on="event_ts", by="symbol")


def check(store: OfflineStore, folder: Path, n_bars: int) -> None:
    """All four give the same rows. Raises AssertionError."""
    features, label = ours(store, n_bars)
    assert features.shape == (N_SYMBOLS * n_bars, N_FEATURES)
    order = np.argsort(label)
    expected = features[order]
    for name, frame in (
        ("duckdb", with_duckdb(folder).to_pandas()),
        ("polars", with_polars(folder).to_pandas()),
        ("pandas", with_pandas(folder)),
    ):
        if not np.array_equal(frame.sort_values("label")[list(View.names)].to_numpy(), expected):
            raise AssertionError(f"{name} gives other rows than ours")


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    result = call()
    took_s = time.perf_counter() - began
    del result
    return took_s


def _twice(took_s: float) -> Mapping[str, float]:
    """One time under two names: one goal is a ratio, the other the seconds themselves."""
    return {"training_set_s": took_s, "own_s": took_s}


def main() -> None:
    options = arguments(__doc__ or "")
    n_bars = QUICK_BARS if options.quick else N_BARS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, rows_per_s = filled(folder, n_bars)
        write_references(folder, n_bars)
        check(store, folder, n_bars)
        times: dict[str, list[float]] = {"duckdb": [], "polars": [], "pandas": []}
        references: dict[str, Callable[[Path], object]] = {
            "duckdb": with_duckdb,
            "polars": with_polars,
            "pandas": with_pandas,
        }

        def fastest() -> Mapping[str, float]:
            for name, call in references.items():
                times[name].append(seconds(partial(call, folder)))
            return {"training_set_s": min(taken[-1] for taken in times.values())}

        result = compare(
            "offline_store",
            lambda: _twice(seconds(lambda: ours(store, n_bars))),
            fastest,
            what="the fastest of DuckDB ASOF, polars join_asof and pandas merge_asof, each turn",
            goal={"training_set_s": ("<=", 1.0), "own_s": ("<=", GOAL_S)},
            repeats=QUICK_REPEATS if options.quick else REPEATS,
            packages=("duckdb", "numpy", "pandas", "polars", "pyarrow"),
        )
        notes: dict[str, Any] = {
            "rows": N_SYMBOLS * n_bars,
            "features": N_FEATURES,
            "ingested_rows_per_s": round(rows_per_s),
            **{f"{name}_s": round(median(taken), 3) for name, taken in times.items()},
        }
        store.close()
    report(replace(result, notes=notes), as_json=options.json)


if __name__ == "__main__":
    main()
