"""Law 8: a run is reproducible from its data, view, seed and parameters, and the metadata names all four.

The same training runs again, in this process and in a new one, and must give the same bytes. Changing any of
the four must show in the metadata, and in the model.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.signal import SignalModel, SignalParameters
from levibot.learning.training import TrainingParameters, hash_panel, train
from levibot.market.bars import Panel
from levibot.market.simulator import SimulatedSource

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2020, 4, 15, tzinfo=UTC)
QUICK = TrainingParameters(booster=LightGBMParameters(trees=8), n_models=1, n_folds=2)
ONE_HORIZON = SignalParameters(horizons_bars=(8,))
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Recipe:
    """All that a training run is made of."""

    market_seed: int = 11
    view: FeatureView = CORE
    seed: int = 2
    signal: SignalParameters = ONE_HORIZON
    training: TrainingParameters = QUICK

    def panel(self) -> Panel:
        source = SimulatedSource(SYMBOLS, HOUR, self.market_seed, edge=0.05)
        return Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})

    def train(self, panel: Panel | None = None) -> SignalModel:
        panel = self.panel() if panel is None else panel
        return train(
            ComputedPast(panel, self.view, self.signal.horizons_bars).at(END),
            seed=self.seed,
            train_start=START,
            signal=self.signal,
            training=self.training,
        )


RECIPE = Recipe()


def metadata_of(model: SignalModel) -> dict[str, Any]:
    """As it is stored: JSON."""
    found: dict[str, Any] = json.loads(json.dumps(model.metadata(), allow_nan=False))
    return found


def digest(model: SignalModel) -> str:
    """Of every file and of the metadata, byte by byte."""
    whole = {name: hashlib.sha256(data).hexdigest() for name, data in model.to_files().items()}
    return hashlib.sha256(json.dumps([whole, model.metadata()], sort_keys=True).encode()).hexdigest()


@pytest.fixture(scope="module")
def model() -> SignalModel:
    return RECIPE.train()


def test_the_same_run_gives_the_same_bytes(model: SignalModel) -> None:
    again = RECIPE.train()
    assert again.to_files() == model.to_files()
    assert json.dumps(again.metadata()) == json.dumps(model.metadata())


def test_another_process_gives_the_same_bytes(model: SignalModel) -> None:
    # Its hashes of strings are salted otherwise, and it has trained nothing before.
    code = """
from tests.laws.test_law_8_reproducible import RECIPE, digest
print(digest(RECIPE.train()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == digest(model)


def test_the_metadata_is_enough_to_repeat_the_run(model: SignalModel) -> None:
    stored = metadata_of(model)
    assert stored["data_hash"] == hash_panel(RECIPE.panel())
    assert stored["view_version"] == CORE.version
    repeated = Recipe(
        seed=stored["seed"],
        signal=SignalParameters.from_json(stored["parameters"]),
        training=TrainingParameters.from_json(stored["training"]),
    )
    assert repeated == RECIPE
    assert (stored["train_start"], stored["train_end"]) == (START.isoformat(), END.isoformat())


CHANGES = {
    "seed": (replace(RECIPE, seed=3), ("seed",)),
    "data": (replace(RECIPE, market_seed=12), ("data_hash",)),
    "view": (
        replace(RECIPE, view=FeatureView("core", CORE.features[:-1])),
        ("view_version", "feature_names"),
    ),
    "training parameters": (replace(RECIPE, training=replace(QUICK, every_bars=5)), ("training",)),
    "signal parameters": (
        replace(RECIPE, signal=SignalParameters(horizons_bars=(12,))),
        ("parameters", "horizons_bars"),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_changed_is_named_and_gives_another_model(model: SignalModel, what: str) -> None:
    recipe, names = CHANGES[what]
    other = recipe.train()
    before, after = metadata_of(model), metadata_of(other)
    assert {name for name in before if before[name] != after[name]} == set(names)
    assert other.to_files() != model.to_files()


@pytest.mark.parametrize("field", ["open", "high", "low", "close", "volume"])
def test_the_data_hash_changes_with_the_last_bit_of_any_bar(field: str) -> None:
    panel = RECIPE.panel()
    values = getattr(panel, field).copy()
    values[1000, 1] = np.nextafter(values[1000, 1], np.inf)
    assert hash_panel(replace(panel, **{field: values})) != hash_panel(panel)


def test_the_data_hash_does_not_depend_on_how_the_panel_came_about() -> None:
    panel = RECIPE.panel()
    # A cut of a longer panel, as a backtest makes it, in another layout of memory.
    source = SimulatedSource(SYMBOLS, HOUR, RECIPE.market_seed, edge=0.05)
    end = END + 100 * HOUR
    longer = Panel.align({symbol: source.bars(symbol, START, end) for symbol in SYMBOLS})
    cut = longer.rows(slice(0, len(panel)))
    assert hash_panel(cut) == hash_panel(panel)
    assert hash_panel(replace(panel, close=np.asfortranarray(panel.close))) == hash_panel(panel)
    assert hash_panel(replace(panel, symbols=SYMBOLS[::-1])) != hash_panel(panel)
