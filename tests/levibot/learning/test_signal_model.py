"""The signal model: trained once on a simulated market, then held to what it promises."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.errors import DataError, RegistryError
from levibot.features.engine import compute, compute_tail
from levibot.features.views import CORE
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.models.lstm import LSTMParameters
from levibot.learning.models.xgboost import XGBoostParameters
from levibot.learning.onnx_export import export_signal
from levibot.learning.past import ComputedPast, Knowledge
from levibot.learning.signal import SignalModel, SignalParameters, Signals
from levibot.learning.training import SIGNAL, TrainingParameters, needed_bars, train
from levibot.market.bars import FloatArray, Panel
from levibot.market.simulator import SimulatedSource
from levibot.stores.model_files import ModelFolder
from levibot.stores.registry import Registry

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
FIT_AT = datetime(2020, 7, 1, tzinfo=UTC)
QUICK = TrainingParameters(booster=LightGBMParameters(trees=20), n_folds=2)
FIELDS = ("probability_up", "expected_return", "target_position")


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=11, edge=0.05)
    end = datetime(2020, 9, 1, tzinfo=UTC)
    return Panel.align({symbol: source.bars(symbol, START, end) for symbol in SYMBOLS})


@pytest.fixture(scope="module")
def features(panel: Panel) -> FloatArray:
    return compute(CORE, panel)


def known_at(as_of: datetime, panel: Panel, features: FloatArray) -> Knowledge:
    return ComputedPast(panel, CORE, SIGNAL.horizons_bars, features).at(as_of)


@pytest.fixture(scope="module")
def model(panel: Panel, features: FloatArray) -> SignalModel:
    return train(known_at(FIT_AT, panel, features), seed=2, train_start=START, training=QUICK)


@pytest.fixture(scope="module")
def batch(model: SignalModel, features: FloatArray) -> Signals:
    return model.evaluate(features)


def test_what_is_served_is_what_was_backtested(
    model: SignalModel, features: FloatArray, batch: Signals
) -> None:
    for row in (1_400, 2_000, len(features) - 1):
        served = model.signals(features[row - model.window_bars + 1 : row + 1])
        for field in FIELDS:
            np.testing.assert_allclose(
                getattr(served, field), getattr(batch, field)[row], rtol=1e-9, atol=1e-15
            )


def test_bars_give_live_the_signal_that_history_gave(
    model: SignalModel, panel: Panel, batch: Signals
) -> None:
    served = model.signals(compute_tail(CORE, panel, model.window_bars))
    np.testing.assert_allclose(served.target_position, batch.target_position[-1], rtol=1e-6, atol=1e-9)


def test_a_window_one_row_short_is_not_the_same(
    model: SignalModel, features: FloatArray, batch: Signals
) -> None:
    """That every row of the window counts is what makes its length part of the model."""
    served = model.signals(features[len(features) - model.window_bars + 1 :])
    assert not np.allclose(served.target_position, batch.target_position[-1], rtol=1e-9, atol=0.0)


def test_positions_never_exceed_the_equity(batch: Signals, model: SignalModel, features: FloatArray) -> None:
    gross = np.nansum(np.abs(batch.target_position), axis=1)
    assert gross.max() <= 1.0 + 1e-12
    calm = features.copy()
    calm[:, :, CORE.index("vol_fast")] = 0.05
    for bars in model.parameters.lookbacks_bars:
        calm[:, :, CORE.index(f"trend_{bars}")] = 4.0
        calm[:, :, CORE.index(f"relative_trend_{bars}")] = 4.0
    gross = np.nansum(np.abs(model.evaluate(calm).target_position), axis=1)
    assert gross.max() == pytest.approx(1.0)


def test_probabilities_are_probabilities(batch: Signals) -> None:
    known = batch.probability_up[np.isfinite(batch.probability_up)]
    assert len(known) > 1_000
    assert ((known > 0.0) & (known < 1.0)).all()


@pytest.mark.parametrize("missing", ["trend_168", "relative_trend_1344", "vol_fast", "vol_slow", "all"])
def test_a_symbol_without_its_features_has_no_signal(
    model: SignalModel, features: FloatArray, missing: str
) -> None:
    window = features[-model.window_bars :].copy()
    columns = slice(None) if missing == "all" else CORE.index(missing)
    window[-1, 1, columns] = np.nan
    signals = model.signals(window)
    for field in FIELDS:
        assert np.isnan(getattr(signals, field)).tolist() == [False, True, False]


def test_a_missing_row_within_the_window_does_not_silence_the_symbol(
    model: SignalModel, features: FloatArray
) -> None:
    window = features[-model.window_bars :].copy()
    window[5:9, 0] = np.nan
    assert np.isfinite(model.signals(window).target_position).all()


def test_other_missing_features_are_allowed(model: SignalModel, features: FloatArray) -> None:
    window = features[-model.window_bars :].copy()
    window[:, :, CORE.index("rsi_14")] = np.nan
    assert np.isfinite(model.signals(window).target_position).all()


def test_shorts_of_the_learned_part_count_their_share(model: SignalModel, features: FloatArray) -> None:
    flat = features.copy()
    for bars in model.parameters.lookbacks_bars:
        flat[:, :, CORE.index(f"trend_{bars}")] = 0.0
        flat[:, :, CORE.index(f"relative_trend_{bars}")] = 0.0
    half = model.evaluate(flat).target_position
    full = (
        replace(model, parameters=replace(model.parameters, short_share=1.0)).evaluate(flat).target_position
    )
    assert (half < 0.0).any()
    np.testing.assert_allclose(full[half < 0.0], 2.0 * half[half < 0.0])
    np.testing.assert_allclose(full[half > 0.0], half[half > 0.0])


@pytest.mark.parametrize("shape", [(30, 2, 54), (30, 3, 1), (0, 3, 54), (30, 3)])
def test_features_of_another_shape_are_refused(model: SignalModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="this model reads"):
        model.signals(np.zeros(shape))


def test_the_registry_brings_back_the_same_model(
    model: SignalModel, features: FloatArray, batch: Signals, tmp_path: Path
) -> None:
    registry = Registry(ModelFolder(tmp_path))
    stored = registry.load(registry.publish(model.metadata(), model.to_files()))
    loaded = SignalModel.from_files(stored.metadata, stored.files)
    assert loaded.metadata() == model.metadata()
    assert loaded.to_files() == model.to_files()
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(loaded.evaluate(features), field), getattr(batch, field))


def test_the_metadata_says_how_to_make_the_model_again(model: SignalModel) -> None:
    metadata = json.loads(json.dumps(model.metadata(), allow_nan=False))
    assert metadata["view_version"] == CORE.version
    assert metadata["symbols"] == list(SYMBOLS)
    assert metadata["horizons_bars"] == [8, 24]
    assert metadata["train_end"] == "2020-07-01T00:00:00+00:00"
    assert metadata["window_bars"] == model.window_bars
    assert len(metadata["data_hash"]) == 64


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "other", "kind 'other'"),
        ("train_end", "soon", "not those"),
        ("parameters", {"x": 1}, "not those"),
    ],
)
def test_broken_metadata_is_refused(model: SignalModel, key: str, value: object, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        SignalModel.from_files({**model.metadata(), key: value}, model.to_files())


def test_a_missing_file_is_refused(model: SignalModel) -> None:
    files = model.to_files()
    del files["lightgbm_h24_0.txt"]
    with pytest.raises(RegistryError, match="lightgbm_h24_0"):
        SignalModel.from_files(model.metadata(), files)


def test_the_same_inputs_train_the_same_model(panel: Panel, features: FloatArray, model: SignalModel) -> None:
    def again(seed: int) -> SignalModel:
        return train(known_at(FIT_AT, panel, features), seed=seed, train_start=START, training=QUICK)

    assert again(2).to_files() == model.to_files()
    assert again(3).to_files() != model.to_files()


def test_training_says_how_many_bars_it_needs(panel: Panel, features: FloatArray) -> None:
    early = START + 1_500 * HOUR
    with pytest.raises(
        DataError, match=rf"at least {needed_bars(3, training=QUICK)} bars .*; there are 1[45]\d\d\."
    ):
        train(known_at(early, panel, features), seed=0, train_start=START, training=QUICK)


def test_a_training_window_without_rows_is_refused(panel: Panel, features: FloatArray) -> None:
    known = known_at(FIT_AT, panel, features)
    with pytest.raises(DataError, match="rows with a label; 400 are needed"):
        train(known, seed=0, train_start=FIT_AT - timedelta(days=3), training=QUICK)


def test_progress_counts_up_to_its_total(panel: Panel, features: FloatArray) -> None:
    seen: list[tuple[int, int]] = []
    known = ComputedPast(panel, CORE, (4,), features).at(FIT_AT)
    train(
        known,
        seed=0,
        train_start=START,
        signal=SignalParameters(horizons_bars=(4,)),
        training=QUICK,
        progress=lambda done, total, what: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.fixture(scope="module")
def four_kinds(panel: Panel, features: FloatArray) -> SignalModel:
    training = replace(
        QUICK,
        kinds=("lightgbm", "xgboost", "linear", "lstm"),
        xgboost=XGBoostParameters(trees=20),
        lstm=LSTMParameters(units=4, epochs=2),
    )
    known = ComputedPast(panel, CORE, SIGNAL.horizons_bars, features).at(FIT_AT)
    return train(known, seed=2, train_start=START, training=training)


def test_four_kinds_learn_and_a_net_reads_further_back(four_kinds: SignalModel, model: SignalModel) -> None:
    learned = [(member.kind, [part.bars for part in member.horizons]) for member in four_kinds.learned]
    trees_and_lines = [(kind, [bars]) for kind in ("lightgbm", "xgboost", "linear") for bars in (8, 24)]
    assert learned == [*trees_and_lines, ("lstm", [8, 24])]
    assert four_kinds.window_bars == model.window_bars + 11 * 8
    # Those of a kind are the same with and without the others.
    assert four_kinds.to_files()["lightgbm_h8_0.txt"] == model.to_files()["lightgbm_h8_0.txt"]


def test_four_kinds_serve_what_they_backtested(four_kinds: SignalModel, features: FloatArray) -> None:
    batch = four_kinds.evaluate(features)
    loaded = SignalModel.from_files(json.loads(json.dumps(four_kinds.metadata())), four_kinds.to_files())
    for row in (1_500, len(features) - 1):
        window = features[row - loaded.window_bars + 1 : row + 1]
        for field in FIELDS:
            served, backtested = getattr(loaded.signals(window), field), getattr(batch, field)[row]
            np.testing.assert_allclose(served, backtested, rtol=1e-9, atol=1e-15)
        short = loaded.signals(window[1:]).target_position
        assert not np.allclose(short, batch.target_position[row], rtol=1e-9, atol=0.0)


def test_an_exported_signal_says_the_same(four_kinds: SignalModel, features: FloatArray) -> None:
    exported = export_signal(four_kinds, features, rng=np.random.default_rng(0))
    metadata = json.loads(json.dumps(exported.metadata(), allow_nan=False))
    loaded = SignalModel.from_files(metadata, exported.to_files())
    assert loaded.metadata() == metadata
    n_models = sum(len(member.models) for member in four_kinds.learned)
    assert [form["served"] for form in metadata["served"]] == ["onnx"] * n_models
    window = features[-loaded.window_bars :]
    for field in FIELDS:
        served, native = getattr(loaded.signals(window), field), getattr(four_kinds.signals(window), field)
        np.testing.assert_allclose(served, native, rtol=1e-4, atol=1e-7)
