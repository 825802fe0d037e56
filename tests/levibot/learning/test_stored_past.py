"""The past as a history has it, held against the past as the bars in memory give it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning import stored_past
from levibot.learning.history import step_rows
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.stored_past import StoredPast, key_of
from levibot.learning.training import SIGNAL, TrainingParameters
from levibot.learning.walk_forward import walk_forward
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import FIELDS, Panel, to_datetime
from levibot.market.simulator import SimulatedSource
from levibot.stores.frozen_history import FrozenHistories
from levibot.stores.offline import OfflineStore

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
START, TEST, END = (datetime(2020, month, 1, tzinfo=UTC) for month in (1, 6, 8))
HORIZONS = SIGNAL.horizons_bars
QUICK = TrainingParameters(booster=LightGBMParameters(trees=10), n_models=1, n_folds=2)
SPLITS = walk_forward(START, TEST, END, refit="monthly")


@pytest.fixture(scope="module")
def panel() -> Panel:
    """With a symbol that is listed late, a hole in one, and an outage of all."""
    source = SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.05)
    whole = Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})
    fields = {name: getattr(whole, name).copy() for name in FIELDS}
    for field in fields.values():
        field[:700, 2] = np.nan
        field[3000:3005, 1] = np.nan
    holed = replace(whole, **fields)
    kept = np.ones(len(holed), dtype=np.bool_)
    kept[2500:2530] = False
    cut = {name: getattr(holed, name)[kept] for name in FIELDS}
    return replace(holed, ts=holed.ts[kept], **cut)


@pytest.fixture(scope="module")
def computed(panel: Panel) -> ComputedPast:
    return ComputedPast(panel, CORE, HORIZONS)


def histories(folder: Path) -> FrozenHistories:
    return FrozenHistories(folder, say=pytest.fail)


def test_a_history_gives_bit_for_bit_what_the_bars_give(
    panel: Panel, computed: ComputedPast, tmp_path: Path
) -> None:
    with stored_past.stored_past(histories(tmp_path), panel, CORE, HORIZONS) as stored:
        for as_of in (TEST, TEST + 12 * HOUR + HOUR / 2, to_datetime(panel.closes_at[2505]), END):
            ours, theirs = stored.at(as_of), computed.at(as_of)
            np.testing.assert_array_equal(ours.features, theirs.features)
            for mine, yours in zip(ours.labels, theirs.labels, strict=True):
                np.testing.assert_array_equal(mine.values, yours.values)
                np.testing.assert_array_equal(mine.available_at, yours.available_at)
        for rows in (slice(2400, 3100), slice(690, 705), slice(len(panel) - 1, len(panel)), slice(5, 5)):
            np.testing.assert_array_equal(stored.at_closes(rows), computed.at_closes(rows))
        ours_said, theirs_said = (
            walk_forward_opinions(past, SPLITS, seed=1, training=QUICK) for past in (stored, computed)
        )
        assert np.isfinite(ours_said.values).any()
        np.testing.assert_array_equal(ours_said.values, theirs_said.values)
        np.testing.assert_array_equal(ours_said.unit, theirs_said.unit)


def test_the_second_run_computes_nothing(
    panel: Panel, computed: ComputedPast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stored_past.stored_past(histories(tmp_path), panel, CORE, HORIZONS):
        pass
    monkeypatch.setattr(stored_past, "step_rows", lambda *_: pytest.fail("computed again"))
    with stored_past.stored_past(histories(tmp_path), panel, CORE, HORIZONS) as stored:
        np.testing.assert_array_equal(stored.at(TEST).features, computed.at(TEST).features)


def test_other_bars_definitions_or_horizons_have_another_key(panel: Panel) -> None:
    key = key_of(panel, CORE, HORIZONS)
    assert key_of(panel, CORE, HORIZONS) == key
    moved = replace(panel, close=panel.close * (1.0 + 1e-12))
    outside = replace(panel, extra={"funding_rate": np.zeros(panel.close.shape)})
    fewer = replace(CORE, features=CORE.features[:-1])
    others = [
        key_of(moved, CORE, HORIZONS),
        key_of(outside, CORE, HORIZONS),
        key_of(panel, fewer, HORIZONS),
        key_of(panel, CORE, (8,)),
    ]
    assert len({key, *others}) == 5


@pytest.fixture(scope="module")
def late(panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> StoredPast:
    """Of a history that was written at the close of its newest bar, and not declared to have been kept."""
    known = panel.rows(slice(0, 2400))
    clock = ManualClock(to_datetime(known.closes_at[-1]))
    store = OfflineStore.open(tmp_path_factory.mktemp("history"), "market", clock)
    store.write(step_rows(CORE, known, 0, len(known), HORIZONS), reason="test")
    return StoredPast(store, known, CORE, HORIZONS)


def test_what_was_not_available_is_not_known(late: StoredPast) -> None:
    assert len(late.at(to_datetime(late.panel.closes_at[-1])).features) == 2400
    with pytest.raises(DataError, match=r"no features of \d+ bars that were finished"):
        late.at(to_datetime(late.panel.closes_at[-2]))


def test_a_decision_on_a_row_that_came_late_is_refused(late: StoredPast) -> None:
    assert np.isfinite(late.at_closes(slice(2399, 2400))).any()
    with pytest.raises(DataError, match="came later than its bar's close"):
        late.at_closes(slice(2398, 2400))
