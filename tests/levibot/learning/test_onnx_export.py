"""The gate between a model and its ONNX form, and forms that it must not let through."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from levibot.errors import DataError, RegistryError
from levibot.learning.calibration import Platt
from levibot.learning.learned import Horizon, Learned
from levibot.learning.models.kinds import ModelParameters, fit, kind_of
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.lightgbm import LightGBMModel, LightGBMParameters
from levibot.learning.models.linear import LinearParameters
from levibot.learning.models.lstm import LSTMParameters
from levibot.learning.models.model import Model
from levibot.learning.models.onnx_graph import to_onnx
from levibot.learning.models.onnx_model import OnnxModel
from levibot.learning.models.sequence import Samples
from levibot.learning.models.xgboost import XGBoostParameters
from levibot.learning.onnx_export import LARGEST_DIFFERENCE, export, export_member, judge

N_ROWS, N_SYMBOLS = 400, 2
KINDS: tuple[ModelParameters, ...] = (
    LightGBMParameters(trees=20, learning_rate=0.3, l2=0.0),
    XGBoostParameters(trees=20, learning_rate=0.3, l2=0.0, column_share=1.0),
    LSTMParameters(units=6, steps=4, every_bars=3, epochs=2),
    LinearParameters(),
)


def points() -> Samples:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(N_ROWS, N_SYMBOLS, 3))
    # Missing where the other feature is large, and never missing in the last column.
    features[features[:, :, 0] > 1.0, 1] = np.nan
    row, column = np.nonzero(np.ones((N_ROWS, N_SYMBOLS), dtype=np.bool_))
    return Samples(features, row, column)


POINTS = points()


def fitted(parameters: ModelParameters) -> Model:
    newest = POINTS.newest()
    label = newest[:, 0] + np.where(np.isnan(newest[:, 1]), 2.0, newest[:, 1]) + (newest[:, 2] > 0.5)
    return fit(Lesson(POINTS, label[:, None], 5), parameters=parameters, seed=0)


@pytest.fixture(scope="module", params=KINDS, ids=[kind_of(parameters) for parameters in KINDS])
def model(request: pytest.FixtureRequest) -> Model:
    return fitted(request.param)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_onnx_form_is_equal_and_served(model: Model) -> None:
    result = export(model, POINTS, rng=rng())
    assert set(result.largest_differences) == {"training", "random", "near-threshold", "extreme"}
    # Trees compare and add in the same precision; a net is in single precision in ONNX.
    allowed = 1e-6 if model.kind == "lstm" else 1e-12
    assert max(result.largest_differences.values()) <= allowed
    assert (result.served, result.kind) == ("onnx", model.kind)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["served"] == "onnx"


def test_the_onnx_form_reads_what_the_model_reads(model: Model) -> None:
    loaded = OnnxModel.from_bytes(to_onnx(model))
    assert (loaded.sequence, loaded.n_features, loaded.n_horizons) == (
        model.sequence,
        model.n_features,
        model.n_horizons,
    )
    onnx.checker.check_model(onnx.load_from_string(to_onnx(model)))
    assert to_onnx(model) == to_onnx(model)
    few = Samples(POINTS.features, POINTS.row[:7], POINTS.column[:7])
    # One point or several, the beginning of the history included.
    np.testing.assert_allclose(loaded.predict(few), loaded.predict(POINTS)[:7], atol=1e-6)
    assert loaded.predict(Samples(POINTS.features, POINTS.row[:0], POINTS.column[:0])).shape == (0, 1)
    with pytest.raises(DataError):
        loaded.predict(Samples(POINTS.features[:, :, :2], POINTS.row, POINTS.column))


def test_a_served_form_travels_between_processes(model: Model) -> None:
    exported = OnnxModel.from_bytes(to_onnx(model))
    arrived = pickle.loads(pickle.dumps(exported))
    np.testing.assert_array_equal(arrived.predict(POINTS), exported.predict(POINTS))


@pytest.mark.parametrize("n_bytes", [0, 3, 100])
def test_broken_graphs_are_refused(model: Model, n_bytes: int) -> None:
    with pytest.raises(RegistryError):
        OnnxModel.from_bytes(to_onnx(model)[:n_bytes])


def test_a_graph_of_something_else_is_refused(model: Model) -> None:
    graph = onnx.load_from_string(to_onnx(model))
    del graph.metadata_props[:]
    with pytest.raises(RegistryError, match="every_bars"):
        OnnxModel.from_bytes(graph.SerializeToString())


def changed(model: Model, attribute: str, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The model's graph with one attribute of its trees rewritten."""
    graph = onnx.load_from_string(to_onnx(model))
    node = next(node for node in graph.graph.node if node.op_type == "TreeEnsemble")
    given = next(given for given in node.attribute if given.name == attribute)
    if given.type == onnx.AttributeProto.TENSOR:
        given.t.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(given.t)), given.t.name))
    else:
        given.ints[:] = change(np.array(given.ints)).tolist()
    return bytes(graph.SerializeToString())


@pytest.fixture(scope="module")
def trees() -> Model:
    return fitted(KINDS[0])


def test_thresholds_in_single_precision_are_found_beside_them_and_nowhere_else(trees: Model) -> None:
    """As TreeEnsembleRegressor holds them in `nodes_values`: right on every row that anybody looks at."""
    singles = changed(trees, "nodes_splits", lambda splits: splits.astype(np.float32).astype(np.float64))
    result = judge(trees, singles, POINTS, rng=rng())
    assert result.largest_differences["near-threshold"] > LARGEST_DIFFERENCE
    assert result.largest_differences["training"] == result.largest_differences["random"] == 0.0
    assert result.served == "native"
    assert "on near-threshold points: more than the 1e-05" in result.why


def test_missing_values_that_go_the_other_way_are_found(trees: Model) -> None:
    swapped = changed(trees, "nodes_missing_value_tracks_true", lambda left: 1 - left)
    result = judge(trees, swapped, POINTS, rng=rng())
    assert result.largest_differences["extreme"] > LARGEST_DIFFERENCE
    assert (result.largest_differences["random"], result.served) == (0.0, "native")


def test_a_small_error_of_every_leaf_is_found(trees: Model) -> None:
    shifted = changed(trees, "leaf_weights", lambda weights: weights + 1e-6)
    assert judge(trees, shifted, POINTS, rng=rng()).served == "native"


def test_a_prediction_that_is_not_finite_is_found(trees: Model) -> None:
    broken = changed(trees, "leaf_weights", lambda weights: np.full_like(weights, np.inf))
    result = judge(trees, broken, POINTS, rng=rng())
    assert result.served == "native"
    assert (
        json.loads(json.dumps(result.to_json(), allow_nan=False))["largest_differences"]["training"] is None
    )


def test_trees_without_a_split_have_an_onnx_form() -> None:
    rows = POINTS.newest()
    lesson = Lesson(POINTS, np.full((len(rows), 1), 0.25), 5)
    flat = LightGBMModel.fit(lesson, parameters=LightGBMParameters(trees=3), seed=0)
    assert export(flat, POINTS, rng=rng()).served == "onnx"
    assert OnnxModel.from_bytes(to_onnx(flat)).predict(POINTS)[0, 0] == pytest.approx(0.25)


def test_an_export_needs_points(trees: Model) -> None:
    with pytest.raises(DataError, match="there are none"):
        export(trees, Samples(POINTS.features, POINTS.row[:0], POINTS.column[:0]), rng=rng())


def member_of(model: Model) -> Learned:
    horizon = Horizon(8, 1.0, 0.0, Platt(1.0, 0.0), 0.01)
    return Learned(model.kind, (horizon,), (model,))


def test_a_member_serves_the_form_that_passed_and_stores_both(model: Model) -> None:
    exported = export_member(member_of(model), POINTS, rng=rng())
    numbers, files = exported.to_files()
    assert {name.rsplit(".")[1] for name in files} == {model.suffix, "onnx"}
    loaded = Learned.from_files(json.loads(json.dumps(numbers)), files)
    assert loaded.to_files() == (numbers, files)
    served = OnnxModel.from_bytes(to_onnx(model)).predict(POINTS)
    np.testing.assert_array_equal(loaded.predict(POINTS), served)
    with pytest.raises(RegistryError, match="1 models of a member are served in 2 forms"):
        Learned.from_files(numbers | {"forms": numbers["forms"] * 2}, files)


def test_a_member_whose_export_failed_serves_the_model_and_says_why(trees: Model) -> None:
    shifted = changed(trees, "leaf_weights", lambda weights: weights + 0.01)
    form = judge(trees, shifted, POINTS, rng=rng()).served_form()
    numbers, files = replace(member_of(trees), forms=(form,)).to_files()
    assert [name.rsplit(".")[1] for name in files] == ["txt"]
    loaded = Learned.from_files(numbers, files)
    np.testing.assert_array_equal(loaded.predict(POINTS), trees.predict(POINTS))
    assert "more than the 1e-05" in loaded.forms[0].report["why"]
