"""Gradient-boosted trees of another make (Chen & Guestrin 2016): grown by level, in single precision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import xgboost

from levibot.errors import RegistryError
from levibot.learning.models.forest import Forest, Tree
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.model import Kind
from levibot.learning.models.sequence import ONE_ROW, Samples, Sequence
from levibot.market.bars import FloatArray

# As for LightGBM: callers fit and predict several at once.
_THREADS = 1
_MAX_BIN = 64

_WHOLE_NUMBERS = ("left_children", "right_children", "parents", "split_indices", "default_left", "split_type")
_NUMBERS = ("split_conditions", "base_weights", "loss_changes", "sum_hessian")
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class XGBoostParameters:
    """min_leaf_share: smallest leaf as a share of the training rows. The rest are XGBoost's own."""

    trees: int = 120
    learning_rate: float = 0.03
    depth: int = 4
    min_leaf_share: float = 0.01
    row_share: float = 0.5
    column_share: float = 0.4
    l2: float = 50.0

    def for_xgboost(self, n_rows: int, seed: int) -> dict[str, Any]:
        """Named as XGBoost names them."""
        return {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "base_score": 0.0,
            "eta": self.learning_rate,
            "max_depth": self.depth,
            "min_child_weight": max(1, int(n_rows * self.min_leaf_share)),
            "subsample": self.row_share,
            "colsample_bytree": self.column_share,
            "reg_lambda": self.l2,
            "max_bin": _MAX_BIN,
            "seed": seed,
            "nthread": _THREADS,
            "verbosity": 0,
        }


@dataclass(frozen=True, slots=True)
class XGBoostModel:
    """A fitted booster of one horizon. Implements Model."""

    kind: ClassVar[Kind] = "xgboost"
    suffix: ClassVar[str] = "json"

    booster: xgboost.Booster

    @classmethod
    def fit(cls, lesson: Lesson, *, parameters: XGBoostParameters, seed: int) -> Self:
        """Least squares of the label of one horizon. Raises DataError."""
        lesson.check()
        labels = lesson.only_label()
        data = xgboost.QuantileDMatrix(
            as_singles(lesson.samples.newest()),
            labels,
            weight=lesson.weights,
            max_bin=_MAX_BIN,
            nthread=_THREADS,
        )
        booster = xgboost.train(parameters.for_xgboost(len(labels), seed), data, parameters.trees)
        # Through its text and back, so that a model in memory and the same model from disk cannot differ.
        return cls.from_bytes(bytes(booster.save_raw("json")))

    @property
    def sequence(self) -> Sequence:
        return ONE_ROW

    @property
    def n_features(self) -> int:
        return int(self.booster.num_features())

    @property
    def n_horizons(self) -> int:
        return 1

    def predict(self, samples: Samples) -> FloatArray:
        samples.check(self.n_features)
        if len(samples) == 0:
            return np.empty((0, 1))
        predicted = self.booster.inplace_predict(as_singles(samples.newest()))
        return np.asarray(predicted, dtype=np.float64)[:, None]

    def mean_abs_shap(self, features: FloatArray) -> FloatArray:
        """(F,) of (N, F): the mean absolute SHAP value of each feature, in units of the label."""
        data = xgboost.DMatrix(as_singles(features), nthread=_THREADS)
        # The last column is the mean prediction.
        values = np.asarray(self.booster.predict(data, pred_contribs=True), dtype=np.float64)[:, :-1]
        mean: FloatArray = np.abs(values).mean(axis=0)
        return mean

    def forest(self) -> Forest:
        """The trees themselves."""
        return read_forest(self.to_bytes())

    def to_bytes(self) -> bytes:
        return bytes(self.booster.save_raw("json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        # XGBoost 3.2 ends the process on an empty file and on a child that is not there: it gets none.
        read_forest(data)
        booster = xgboost.Booster({"nthread": _THREADS})
        try:
            booster.load_model(bytearray(data))
        except xgboost.core.XGBoostError as exc:
            raise RegistryError("These bytes are not an XGBoost model in JSON form.") from exc
        return cls(booster)


def as_singles(features: FloatArray) -> npt.NDArray[np.float32]:
    """In single precision, as XGBoost compares them; what is too large becomes the largest number."""
    singles: npt.NDArray[np.float32] = np.clip(features, -LARGEST, LARGEST).astype(np.float32)
    return singles


def read_forest(data: bytes) -> Forest:
    """The trees of a regression. Raises RegistryError on anything else."""
    try:
        whole = json.loads(data)
        learner = whole["learner"]
        numbers, booster = learner["learner_model_param"], learner["gradient_booster"]
        model, objective = booster["model"], learner["objective"]
        n_trees, n_features = int(model["gbtree_model_param"]["num_trees"]), int(numbers["num_feature"])
        said = {
            "version": whole["version"][0],
            "objective": objective["name"],
            "booster": booster["name"],
            "base_score": float(numbers["base_score"].strip("[]")),
            "shape": (numbers["num_class"], numbers["num_target"], numbers["boost_from_average"]),
            "weight": objective["reg_loss_param"]["scale_pos_weight"],
            "parallel": model["gbtree_model_param"]["num_parallel_tree"],
            "trees": (len(model["trees"]), model["tree_info"], model["iteration_indptr"]),
            "categories": model["cats"],
            "names": (learner["feature_names"], learner["feature_types"], learner["attributes"]),
        }
        wanted = {
            "version": 3,
            "objective": "reg:squarederror",
            "booster": "gbtree",
            "base_score": 0.0,
            "shape": ("0", "1", "0"),
            "weight": "1",
            "parallel": "1",
            "trees": (n_trees, [0] * n_trees, list(range(n_trees + 1))),
            "categories": {"enc": [], "feature_segments": [], "sorted_idx": []},
            "names": ([], [], {}),
        }
        if said != wanted:
            raise RegistryError(
                "These bytes are not an XGBoost 3 regression of one label with all its trees."
            )
        trees = [_tree(number, tree, n_features) for number, tree in enumerate(model["trees"])]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as exc:
        raise RegistryError(f"These bytes are not an XGBoost model in JSON form: {exc!r}.") from exc
    forest = Forest(tuple(trees), n_features, True)
    forest.check()
    return forest


def _tree(number: int, tree: dict[str, Any], n_features: int) -> Tree:
    n_nodes = int(tree["tree_param"]["num_nodes"])
    parts = {name: np.array(tree[name]) for name in (*_WHOLE_NUMBERS, *_NUMBERS)}
    is_whole = all(parts[name].dtype.kind == "i" for name in _WHOLE_NUMBERS)
    is_number = all(parts[name].dtype.kind in "if" for name in _NUMBERS)
    said = {
        "id": tree["id"],
        "lengths": {part.shape for part in parts.values()},
        "param": tree["tree_param"],
        "categories": [tree[name] for name in _CATEGORIES],
        "split_types": int(parts["split_type"].any()),
    }
    wanted = {
        "id": number,
        "lengths": {(n_nodes,)},
        "param": {
            "num_deleted": "0",
            "num_feature": str(n_features),
            "num_nodes": str(n_nodes),
            "size_leaf_vector": "1",
        },
        "categories": [[]] * len(_CATEGORIES),
        "split_types": 0,
    }
    left, right = parts["left_children"], parts["right_children"]
    if said != wanted or not (is_whole and is_number):
        raise RegistryError(
            f"Tree {number} of the XGBoost model is not a tree of {n_nodes} nodes as we grow it."
        )
    is_leaf = left == -1
    children = np.concatenate([left[~is_leaf], right[~is_leaf]])
    if not ((children > 0) & (children < n_nodes)).all() or (right[is_leaf] != -1).any():
        raise RegistryError(f"Tree {number} of the XGBoost model has children that are not there.")
    # Children as Tree counts them: inner nodes and leaves each from 0, a leaf as ~number.
    counted = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1)
    condition = parts["split_conditions"].astype(np.float32).astype(np.float64)
    return Tree(
        parts["split_indices"][~is_leaf],
        condition[~is_leaf],
        parts["default_left"][~is_leaf],
        counted[left[~is_leaf]],
        counted[right[~is_leaf]],
        condition[is_leaf],
    )
