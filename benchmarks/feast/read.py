"""Reads the same features through Feast on Redis. Runs in an environment of its own, which has Feast.

Prints one JSON object: its version, and the latencies of one symbol and of many.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped, unused-ignore]
from feast import (  # type: ignore[import-not-found]
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast import __version__ as feast_version
from feast.types import Float64  # type: ignore[import-not-found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", required=True, help="host:port,password=…")
    parser.add_argument("--symbols", type=int, required=True)
    parser.add_argument("--features", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, names = _store(Path(folder), args.redis, args.symbols, args.features)
        rows = [{"symbol": f"S{n}"} for n in range(args.symbols)]
        features = [f"bars:{name}" for name in names]
        one = _latencies(lambda: store.get_online_features(features, rows[:1]).to_dict(), args.calls)
        many = _latencies(lambda: store.get_online_features(features, rows).to_dict(), args.calls // 4)
    found = {
        "version": feast_version,
        **{f"get_{name}": value for name, value in one.items()},
        **{f"get_many_{name}": value for name, value in many.items()},
    }
    sys.stdout.write(json.dumps(found) + "\n")


def _store(folder: Path, redis: str, n_symbols: int, n_features: int) -> tuple[FeatureStore, list[str]]:
    """A feature store that holds one row of every symbol."""
    names = [f"feature_{n}" for n in range(n_features)]
    now = datetime.now(UTC)
    values = np.random.default_rng(7).normal(size=(n_symbols, n_features))
    frame = pd.DataFrame(values, columns=names)
    frame["symbol"] = [f"S{n}" for n in range(n_symbols)]
    frame["event_timestamp"] = now
    path = folder / "bars.parquet"
    frame.to_parquet(path)
    config = RepoConfig(
        project="benchmark",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "redis", "connection_string": redis},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    symbol = Entity(name="symbol", join_keys=["symbol"], value_type=ValueType.STRING)
    view = FeatureView(
        name="bars",
        entities=[symbol],
        ttl=timedelta(minutes=1),
        schema=[Field(name=name, dtype=Float64) for name in names],
        source=FileSource(path=str(path), timestamp_field="event_timestamp"),
    )
    store.apply([symbol, view])
    store.write_to_online_store("bars", frame)
    return store, names


def _latencies(call, n: int) -> dict[str, float]:  # type: ignore[no-untyped-def]
    call()
    took = []
    for _ in range(n):
        started = time.perf_counter()
        answer = call()
        took.append(time.perf_counter() - started)
        if answer["feature_0"][0] is None:
            raise RuntimeError("Feast found nothing: this is no measure of a read")
    return {"p50_us": float(np.quantile(took, 0.5)) * 1e6, "p99_us": float(np.quantile(took, 0.99)) * 1e6}


if __name__ == "__main__":
    main()
