"""`ingest` with the embedded stores that it starts for itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from tests.levibot.conftest import Command

MARKET = ("--symbols", "BTCUSDT,ETHUSDT", "--seed", "3", "--edge", "0")
START = datetime(2020, 1, 1)  # noqa: DTZ001 - the option's own form


def write_market(folder: Path, n: int, **broken: float) -> Path:
    """A recorded hour market of one symbol; `broken` is written into the third row."""
    folder.mkdir(exist_ok=True)
    close = 100.0 + np.arange(n)
    columns = {"open": close, "high": close + 1.0, "low": close - 1.0, "close": close, "volume": np.ones(n)}
    for name, value in broken.items():
        columns[name] = columns[name].copy()
        columns[name][2] = value
    ts = np.datetime64(START, "us") + np.arange(n) * np.timedelta64(1, "h")
    pq.write_table(pa.table({"ts": pa.array(ts), **columns}), folder / "BTCUSDT.parquet")
    return folder


@pytest.mark.stores
def test_a_second_pass_brings_nothing_new_and_a_longer_one_only_the_rest(
    levibot: Command, home: Path, tmp_path: Path
) -> None:
    first = levibot("ingest", *MARKET, "--until", "2020-01-03", "--json")
    assert (first.code, first.err) == (0, "")
    assert first.json() == {
        "market": "simulated:seed=3:edge=0.0:1h",
        "read": {"BTCUSDT": 48, "ETHUSDT": 48},
        "new": 96,
        "there": 0,
        "rejected": {},
        "rejected_and_not_kept": 0,
        "gaps": {"found": 0, "bars_filled": 0, "bars_lacking": 0},
        "newest_close": "2020-01-03T00:00:00+00:00",
        "observations": 0,
    }
    again = levibot("ingest", *MARKET, "--until", "2020-01-03", "--json").json()
    assert (again["read"], again["new"], again["newest_close"]) == ({}, 0, first.json()["newest_close"])
    # Half an hour past a close: the bar that is under way is not stored.
    later = levibot("ingest", *MARKET, "--until", "2020-01-03T01:30:00")
    assert (later.code, later.err) == (0, "")
    assert later.out == "2 new bars of simulated:seed=3:edge=0.0:1h, up to 2020-01-03T01:00:00+00:00.\n"

    # The same stores, another market, with one row that cannot be: the others come in, and it is told.
    folder = write_market(tmp_path / "market [b]", 24, high=50.0)
    recorded = ("--source", "parquet", "--path", folder, "--symbols", "BTCUSDT")
    partly = levibot("ingest", *recorded)
    assert (partly.code, partly.err) == (0, "")
    assert partly.out.splitlines() == [
        f"23 new bars of parquet:{folder}:1h, up to 2020-01-02T00:00:00+00:00.",
        "1 row went to quarantine (1 high_low).",
        "1 hole between bars: 0 bars filled in, 1 not in the source.",
    ]
    # Nothing is there twice, and the hole is asked for again: the file may have been mended.
    again = levibot("ingest", *recorded, "--json").json()
    assert (again["new"], again["there"], again["rejected"]) == (0, 1, {})
    assert again["gaps"] == {"found": 1, "bars_filled": 0, "bars_lacking": 1}
    # Mended, the hole is found and filled with exactly what was missing.
    write_market(folder, 24)
    mended = levibot("ingest", *recorded, "--json").json()
    assert (mended["new"], mended["rejected"]) == (1, {})
    assert mended["gaps"] == {"found": 1, "bars_filled": 1, "bars_lacking": 0}
    assert levibot("ingest", *recorded, "--json").json()["gaps"]["found"] == 0

    assert not [p for p in psutil.Process().children(recursive=True) if str(home) in " ".join(p.cmdline())]


def test_a_broken_market_starts_no_store(levibot: Command, home: Path, tmp_path: Path) -> None:
    folder = write_market(tmp_path / "market", 24)
    path = folder / "BTCUSDT.parquet"
    pq.write_table(pq.read_table(path).drop_columns("volume"), path)
    refused = levibot("ingest", "--source", "parquet", "--path", folder, "--symbols", "BTCUSDT")
    assert refused.code == 2
    assert refused.error() == (
        f"BTCUSDT in {path} has no column 'volume'. "
        "Bars need the columns ts, open, high, low, close, volume; found ts, open, high, low, close."
    )
    assert not home.exists()


@pytest.mark.stores
def test_recorded_trades_are_loaded_once_and_what_is_missing_is_told(
    levibot: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "market"
    (folder / "trades").mkdir(parents=True)
    ids = np.delete(np.arange(1, 101), [40, 41, 60])
    price = np.full(len(ids), 100.0)
    price[[7, 8]] = -1.0
    columns = {"price": price, "qty": np.ones(97), "trade_id": ids, "is_buyer_maker": ids % 2 == 0}
    ts = np.datetime64(START, "us") + ids * np.timedelta64(250, "ms")
    pq.write_table(pa.table({"ts": pa.array(ts), **columns}), folder / "trades" / "BTCUSDT.parquet")
    recorded = ("--source", "parquet", "--path", folder, "--symbols", "BTCUSDT", "--trades")
    first = levibot("ingest", *recorded)
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [
        f"95 new trades of parquet:{folder}:1h.",
        "2 rows went to quarantine (2 not_positive).",
        "BTCUSDT has 3 holes in its trade ids: 5 trades not in the source.",
    ]
    assert levibot("ingest", *recorded, "--json").json() == {
        "market": f"parquet:{folder}:1h",
        "read": {"BTCUSDT": 97},
        "new": 0,
        "there": 97,
        "rejected": {},
        "rejected_and_not_kept": 0,
        "gaps": {"BTCUSDT": {"found": 3, "trades_lacking": 5, "ids_are_dense": True}},
    }


def test_a_market_without_recorded_trades_says_where_they_come_from(levibot: Command) -> None:
    refused = levibot("ingest", "--trades")
    assert refused.code == 2
    assert refused.error().startswith("There are no trades to load of source simulated.")


def test_a_symbol_without_a_file_is_refused_with_what_is_there(levibot: Command, tmp_path: Path) -> None:
    folder = write_market(tmp_path / "market", 24)
    refused = levibot("ingest", "--source", "parquet", "--path", folder, "--symbols", "BTCUSDT,ETHUSDT")
    assert refused.code == 2
    assert "ETHUSDT.parquet" in refused.error()
    assert refused.error().endswith("what is there: BTCUSDT.")


@pytest.mark.stores
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_ended_pass_leaves_no_server_behind(home: Path, ending: signal.Signals) -> None:
    environment = os.environ | {"LEVIBOT_HOME": str(home)}
    command = [sys.executable, "-m", "levibot", "ingest", *MARKET, "--until", "2099-01-01"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as child:
        log = home / "logs" / "valkey.log"
        for _ in range(1000):
            if log.exists() and log.stat().st_size > 0:
                break
            time.sleep(0.02)
        child.send_signal(ending)
        assert child.wait(30) == 130
    assert EmbeddedServers(Settings.load(home=home)).end_leftovers() == []
