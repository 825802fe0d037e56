"""The backfill gives the same bytes here and on a cluster, and the history takes them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.errors import DataError
from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.learning.history import step_rows
from levibot.market.bars import Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.stores.history_parts import decode, encode, load_parts
from levibot.stores.history_rows import Series
from levibot.stores.offline import OfflineStore
from tune.backfill_features import Backfill, run_here, run_on_cluster

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N = 1600
JOB = Backfill(CORE, (8,), step_rows=400)
NOW = MARKET_START + N * HOUR


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    return Panel.align({s: source.bars(s, MARKET_START, NOW) for s in SYMBOLS})


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_ray_data_gives_the_same_bytes_as_one_process(cluster: None, panel: Panel, tmp_path: Path) -> None:
    here = run_here(JOB, panel, tmp_path / "here")
    there = run_on_cluster(JOB, panel, tmp_path / "there")
    assert len(here) == -(-len(panel) // 400)
    assert there == here
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_the_history_takes_the_files_and_a_repeat_adds_nothing(panel: Panel, tmp_path: Path) -> None:
    run_here(JOB, panel, tmp_path / "steps")
    clock = ManualClock(NOW)
    store = OfflineStore.open(tmp_path / "history", "market", clock)
    assert load_parts(store, tmp_path / "steps", assume_available_at_close=True) > 2 * len(panel)
    assert load_parts(store, tmp_path / "steps", assume_available_at_close=True) == 0
    features = compute(CORE, panel)
    known = store.read(Series.of_view(CORE), SYMBOLS, as_of=MARKET_START + 1550 * HOUR)["ETHUSDT"]
    rows = np.isfinite(features[:, 1]).any(axis=1)
    rows &= panel.closes_at <= np.datetime64((MARKET_START + 1550 * HOUR).replace(tzinfo=None))
    np.testing.assert_allclose(known.values(range(len(CORE.names))), features[rows, 1], rtol=1e-6, atol=1e-12)
    store.close()


def test_what_holds_no_steps_is_refused(tmp_path: Path) -> None:
    store = OfflineStore.open(tmp_path / "history", "market", ManualClock(NOW))
    with pytest.raises(DataError, match="holds no step"):
        load_parts(store, tmp_path)
    (tmp_path / "step-000000000.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match="cannot be read"):
        load_parts(store, tmp_path)
    store.close()


def test_rows_come_back_as_they_were(panel: Panel, tmp_path: Path) -> None:
    rows = step_rows(CORE, panel, 1400, 1500, (8, 24))
    back = list(decode(encode(rows)))
    assert [(r.series, r.symbol) for r in back] == [(r.series, r.symbol) for r in rows]
    for ours, theirs in zip(rows, back, strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)
        np.testing.assert_array_equal(ours.event_ts, theirs.event_ts)
        np.testing.assert_array_equal(ours.known_at, theirs.known_at)
