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
        "newest_close": "2020-01-03T00:00:00+00:00",
    }
    again = levibot("ingest", *MARKET, "--until", "2020-01-03", "--json").json()
    assert (again["read"], again["new"], again["newest_close"]) == ({}, 0, first.json()["newest_close"])
    # Half an hour past a close: the bar that is under way is not stored.
    later = levibot("ingest", *MARKET, "--until", "2020-01-03T01:30:00")
    assert (later.code, later.err) == (0, "")
    assert later.out == "2 new bars of simulated:seed=3:edge=0.0:1h, up to 2020-01-03T01:00:00+00:00.\n"

    # The same stores, another market, with one row that cannot be.
    folder = write_market(tmp_path / "market [b]", 24, high=50.0)
    recorded = ("--source", "parquet", "--path", folder, "--symbols", "BTCUSDT")
    refused = levibot("ingest", *recorded, "--json")
    assert (refused.code, refused.json()["error"]["code"]) == (2, "bad_data")
    assert refused.error() == (
        f"BTCUSDT in {folder / 'BTCUSDT.parquet'}: row 2 (2020-01-01T02:00:00Z): high 50 is below its open "
        "102. Rows count from 0. Load the row again or take it out: an outage is a missing row."
    )
    write_market(folder, 24)
    mended = levibot("ingest", *recorded)
    assert (mended.code, mended.err) == (0, "")
    # All of them are new: nothing of the broken file had been stored.
    assert mended.out == f"24 new bars of parquet:{folder}:1h, up to 2020-01-02T00:00:00+00:00.\n"

    assert not [p for p in psutil.Process().children(recursive=True) if str(home) in " ".join(p.cmdline())]


def test_a_broken_market_starts_no_store(levibot: Command, home: Path, tmp_path: Path) -> None:
    folder = write_market(tmp_path / "market", 24, close=float("nan"))
    refused = levibot("ingest", "--source", "parquet", "--path", folder, "--symbols", "BTCUSDT")
    assert refused.code == 2
    assert "row 2 (2020-01-01T02:00:00Z): close nan is not a finite number." in refused.error()
    assert not home.exists()


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
