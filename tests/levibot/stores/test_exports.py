"""Exports: what was known, whole or not at all, and checked when it is read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.errors import DataError, LeviBotError, UsageError
from levibot.market.bars import Bars
from levibot.stores import exports
from levibot.stores.export_writer import prune_exports, write_export
from levibot.stores.exports import Export, Manifest, newest_export
from levibot.stores.history_rows import Rows, Series
from levibot.stores.offline import OfflineStore

START = datetime(2024, 1, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
N = 72
LABEL = "forward_return_4"
NOW = START + 100 * HOUR


class View:
    name = "small"
    version = "0123456789ab"
    names = ("a", "b")


def bars_of(symbol: str) -> Bars:
    ts = np.datetime64(START.replace(tzinfo=None), "us") + np.arange(N) * np.timedelta64(3_600_000_000, "us")
    prices = 100.0 + np.arange(N, dtype=float)
    return Bars(symbol, HOUR, ts, prices, prices + 1, prices - 1, prices, np.ones(N))


BARS = {symbol: bars_of(symbol) for symbol in ("BTCUSDT", "ETHUSDT")}
CLOSES = BARS["BTCUSDT"].ts + np.timedelta64(HOUR)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[OfflineStore]:
    opened = OfflineStore.open(tmp_path / "history", "market", clock)
    rng = np.random.default_rng(7)
    rows = []
    for symbol in BARS:
        values = rng.standard_normal((N, 2))
        values[0, 1] = np.nan
        features = Rows(Series.of_view(View()), symbol, CLOSES, CLOSES, values)
        known = CLOSES[:-5] + np.timedelta64(5 * HOUR)
        label = Rows(Series.of_label(LABEL), symbol, CLOSES[:-5], known, rng.standard_normal((N - 5, 1)))
        rows += [features, label]
    opened.write(rows, reason="test")
    yield opened
    opened.close()


def export(store: OfflineStore, folder: Path, as_of: datetime = NOW, **options: Any) -> Manifest:
    options = {"labels": (LABEL,), "start": START, "end": NOW} | options
    return write_export(store, folder, View(), as_of=as_of, market_id="market", bars=BARS, **options)


def test_an_export_holds_what_the_history_knows(store: OfflineStore, tmp_path: Path) -> None:
    manifest = export(store, tmp_path / "one")
    read = Export(tmp_path / "one")
    assert read.manifest == manifest
    assert (manifest.rows, manifest.symbols) == (2 * N, ("BTCUSDT", "ETHUSDT"))
    # January has 48 hours of it, and a close at midnight belongs to February.
    assert [(f.part, f.month, f.rows) for f in manifest.files if f.symbol == "BTCUSDT"] == [
        ("features", "2024-01", 47),
        ("features", "2024-02", 25),
        ("bars", "2024-01", 48),
        ("bars", "2024-02", 24),
    ]
    known = store.read(Series.of_view(View()), ("BTCUSDT",), as_of=NOW)["BTCUSDT"]
    grid = read.grid(View(), (LABEL,), CLOSES)
    np.testing.assert_array_equal(grid.features[:, 0], known.values([0, 1]))
    assert grid.has_row.all()
    np.testing.assert_array_equal(read.bars()["ETHUSDT"].close, BARS["ETHUSDT"].close)
    label = read.table("BTCUSDT")[LABEL].to_numpy()
    np.testing.assert_array_equal(grid.labels[:, 0, 0], label)
    assert np.isnan(label).tolist() == [False] * (N - 5) + [True] * 5
    read.check()


def test_the_same_question_gives_the_same_bytes_whatever_is_written_since(
    store: OfflineStore, clock: ManualClock, tmp_path: Path
) -> None:
    before = export(store, tmp_path / "one")
    clock.advance(86_400.0)
    corrected = Rows(Series.of_view(View()), "BTCUSDT", CLOSES[3:4], CLOSES[3:4], np.full((1, 2), 9.0))
    store.write([corrected], reason="a corrected bar")
    assert export(store, tmp_path / "two") == before
    assert export(store, tmp_path / "three", clock.now()).data_hash != before.data_hash
    newest = newest_export(tmp_path)
    assert newest is not None
    assert newest.manifest.as_of == clock.now().isoformat()


def test_bars_that_closed_later_are_left_out(store: OfflineStore, clock: ManualClock, tmp_path: Path) -> None:
    manifest = export(store, tmp_path / "early", START + 10 * HOUR)
    assert manifest.rows == 0  # nothing was written yet
    read = Export(tmp_path / "early")
    assert len(read.bars()["BTCUSDT"]) == 10
    grid = read.grid(View(), (LABEL,), CLOSES)
    assert np.isnan(grid.features).all()
    assert not grid.has_row.any()


def test_an_export_is_never_written_over(store: OfflineStore, tmp_path: Path) -> None:
    export(store, tmp_path / "one")
    with pytest.raises(UsageError, match="is there already"):
        export(store, tmp_path / "one")


def test_old_exports_are_removed_and_the_newest_stay(store: OfflineStore, tmp_path: Path) -> None:
    for days in (1, 3, 2):
        export(store, tmp_path / "out" / str(days), START + days * 24 * HOUR)
    assert prune_exports(tmp_path / "out", 2) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["2", "3"]


def test_a_file_that_changed_is_refused(store: OfflineStore, tmp_path: Path) -> None:
    manifest = export(store, tmp_path / "one")
    path = tmp_path / "one" / manifest.files[0].path
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(DataError, match=r"month=2024-01\.parquet of the export has changed"):
        Export(tmp_path / "one").grid(View(), (), CLOSES)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        Export(tmp_path / "one").check()


def test_another_version_of_the_view_is_refused(store: OfflineStore, tmp_path: Path) -> None:
    class Other(View):
        version = "ffffffffffff"

    export(store, tmp_path / "one")
    with pytest.raises(DataError, match="version 0123456789ab, not small of version ffffffffffff"):
        Export(tmp_path / "one").grid(Other(), (), CLOSES)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "files": [{}]}']
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="manifest of the export cannot be read"):
        Export(tmp_path)


def test_a_folder_without_a_manifest_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no export"):
        Export(tmp_path)
    assert newest_export(tmp_path) is None


KILLED = """
import os, signal, sys
from pathlib import Path
from levibot.stores import export_writer
from tests.levibot.stores.test_exports import BARS, LABEL, NOW, START, View
from levibot.clock import ManualClock
from levibot.stores.offline import OfflineStore

folder, at = Path(sys.argv[1]), int(sys.argv[2])
written = 0
whole = export_writer.write_whole
def until(path, data):
    global written
    written += 1
    if written == at:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, data)
export_writer.write_whole = until
store = OfflineStore.open(folder / "history", "market", ManualClock(NOW))
place, market = folder / "out" / "one", {"market_id": "market", "bars": BARS}
export_writer.write_export(store, place, View(), (LABEL,), START, NOW, NOW, **market)
"""


@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_killed_export_leaves_nothing_that_looks_whole(
    store: OfflineStore, tmp_path: Path, at: int
) -> None:
    """Eight files and then the manifest: killed at the first, in the middle, and before the last."""
    store.close()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(at)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    out = tmp_path / "out"
    assert not (out / "one").exists()
    assert newest_export(out) is None
    for half in out.glob("*"):
        with pytest.raises(DataError, match="never finished"):
            Export(half)
    again = OfflineStore.open(tmp_path / "history", "market", ManualClock(NOW))
    export(again, out / "one")
    again.close()
    assert [path.name for path in out.iterdir()] == ["one"]
    Export(out / "one").check()


def test_a_moved_half_export_still_has_no_manifest(store: OfflineStore, tmp_path: Path) -> None:
    export(store, tmp_path / "one")
    (tmp_path / "one" / "manifest.json").rename(tmp_path / "kept.json")
    with pytest.raises(LeviBotError):
        Export(tmp_path / "one")
    assert json.loads((tmp_path / "kept.json").read_text())["format"] == exports.FORMAT
