"""Models as ONNX graphs.

Every graph reads `features`, (N, steps, F) in double precision, oldest row first, NaN where unknown, and
gives `prediction`, (N, H): what `Model.predict` reads and gives, standardisation included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from levibot.learning.models.forest import Forest, Tree
from levibot.learning.models.lightgbm import LightGBMModel
from levibot.learning.models.linear import LinearModel
from levibot.learning.models.lstm import LSTMModel
from levibot.learning.models.model import Model
from levibot.learning.models.onnx_model import EVERY_BARS, INPUT, OUTPUT
from levibot.learning.models.standardisation import Standardisation
from levibot.learning.models.xgboost import LARGEST, XGBoostModel

_TREES = "ai.onnx.ml"
# TreeEnsemble, the first operator of trees that keeps thresholds in double precision, is there since 5.
_OPSETS = (("", 21), (_TREES, 5))
_IR_VERSION = 10

_LESS_OR_EQUAL, _LESS = 0, 1
_SUM = 1

AnyArray = npt.NDArray[Any]


def to_onnx(model: Model) -> bytes:
    """The model as an ONNX file. Raises TypeError on a kind that has no graph."""
    graph = _Graph()
    if isinstance(model, LightGBMModel):
        graph.add("Squeeze", INPUT, graph.constant([1]), to="row")
        graph.add_forest(model.forest(), np.float64, "row", to=OUTPUT)
    elif isinstance(model, XGBoostModel):
        graph.add("Squeeze", INPUT, graph.constant([1]), to="row")
        graph.add("Clip", "row", graph.constant(-LARGEST), graph.constant(LARGEST), to="clipped")
        graph.add("Cast", "clipped", to="single", to_type=TensorProto.FLOAT)
        graph.add_forest(model.forest(), np.float32, "single", to="sum")
        graph.add("Cast", "sum", to=OUTPUT, to_type=TensorProto.DOUBLE)
    elif isinstance(model, LinearModel):
        graph.add("Squeeze", INPUT, graph.constant([1]), to="row")
        graph.add_standardisation(model.standardisation, "row", to="scaled")
        graph.add("MatMul", "scaled", graph.constant(model.weights), to=OUTPUT)
    elif isinstance(model, LSTMModel):
        graph.add_lstm(model)
    else:
        raise TypeError(f"There is no ONNX graph for {type(model).__name__}.")
    return graph.to_bytes(model)


@dataclass(slots=True)
class _Graph:
    """Nodes and constants, added in the order of their use."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, value: AnyArray | float | list[int]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(
        self, operator: str, *inputs: str, to: str, domain: str = "", to_type: int | None = None, **also: Any
    ) -> None:
        if to_type is not None:
            also["to"] = to_type
        outputs = ["", to] if operator == "LSTM" else [to]
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, domain=domain, **also))

    def add_standardisation(self, scale: Standardisation, features: str, *, to: str) -> None:
        self.add("Sub", features, self.constant(scale.mean), to="from_mean")
        self.add("Mul", "from_mean", self.constant(scale.inverse_scale), to="in_scale")
        self.add("IsNaN", "in_scale", to="is_missing")
        self.add("Where", "is_missing", self.constant(0.0), "in_scale", to="filled")
        self.add("Clip", "filled", self.constant(-scale.clip), self.constant(scale.clip), to=to)

    def add_lstm(self, model: LSTMModel) -> None:
        weights = model.weights
        self.add_standardisation(model.standardisation, INPUT, to="scaled")
        self.add("Cast", "scaled", to="single", to_type=TensorProto.FLOAT)
        self.add("Transpose", "single", to="by_step", perm=[1, 0, 2])
        no_bias = np.zeros_like(weights.bias)
        self.add(
            "LSTM",
            "by_step",
            self.constant(_in_onnx_order(weights.from_features)[None]),
            self.constant(_in_onnx_order(weights.from_state)[None]),
            self.constant(np.concatenate([_in_onnx_order(weights.bias), no_bias.astype(np.float32)])[None]),
            to="states",
            hidden_size=weights.head.shape[1],
        )
        self.add("Squeeze", "states", self.constant([0]), to="state")
        head = self.constant(weights.head.astype(np.float32))
        head_bias = self.constant(weights.head_bias.astype(np.float32))
        self.add("Gemm", "state", head, head_bias, to="sum", transB=1)
        self.add("Cast", "sum", to=OUTPUT, to_type=TensorProto.DOUBLE)

    def add_forest(self, forest: Forest, precision: type[Any], features: str, *, to: str) -> None:
        trees = [_with_a_node(tree) for tree in forest.trees]
        first_node = np.cumsum([0, *(len(tree.feature) for tree in trees)])
        first_leaf = np.cumsum([0, *(len(tree.value) for tree in trees)])
        mode = _LESS if forest.is_strict else _LESS_OR_EQUAL
        n_nodes, n_leaves = int(first_node[-1]), int(first_leaf[-1])

        def child(side: str) -> tuple[list[int], list[int]]:
            """Where each node's child is, among the nodes or the leaves of all trees, and whether a leaf."""
            number, is_leaf = [], []
            for tree, node, leaf in zip(trees, first_node, first_leaf, strict=False):
                children = getattr(tree, side)
                number += np.where(children < 0, leaf + ~children, node + children).tolist()
                is_leaf += (children < 0).astype(int).tolist()
            return number, is_leaf

        (left, left_is_leaf), (right, right_is_leaf) = child("left"), child("right")
        self.add(
            "TreeEnsemble",
            features,
            to=to,
            domain=_TREES,
            n_targets=1,
            aggregate_function=_SUM,
            tree_roots=first_node[:-1].tolist(),
            nodes_modes=numpy_helper.from_array(np.full(n_nodes, mode, dtype=np.uint8)),
            nodes_featureids=np.concatenate([tree.feature for tree in trees]).tolist(),
            nodes_splits=_tensor([tree.threshold for tree in trees], precision),
            nodes_missing_value_tracks_true=np.concatenate(
                [tree.goes_left_when_missing for tree in trees]
            ).tolist(),
            nodes_truenodeids=left,
            nodes_trueleafs=left_is_leaf,
            nodes_falsenodeids=right,
            nodes_falseleafs=right_is_leaf,
            leaf_targetids=[0] * n_leaves,
            leaf_weights=_tensor([tree.value for tree in trees], precision),
        )

    def to_bytes(self, model: Model) -> bytes:
        shape = [None, model.sequence.steps, model.n_features]
        graph = helper.make_graph(
            self.nodes,
            model.kind,
            [helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, [None, model.n_horizons])],
            self.constants,
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
        whole = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        helper.set_model_props(whole, {EVERY_BARS: str(model.sequence.every_bars)})
        return bytes(whole.SerializeToString(deterministic=True))


def _with_a_node(tree: Tree) -> Tree:
    """A tree without a split as one that splits in vain: the operator has no other form of it."""
    if len(tree.feature):
        return tree
    zero, first, second = np.zeros(1, dtype=np.intp), np.array([~0]), np.array([~1])
    return Tree(zero, np.zeros(1), zero, first, second, np.repeat(tree.value, 2))


def _tensor(parts: list[npt.NDArray[np.float64]], precision: type[Any]) -> TensorProto:
    return numpy_helper.from_array(np.concatenate(parts).astype(precision))


def _in_onnx_order(gates: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Input, forget, cell, output become input, output, forget, cell."""
    take, keep, new, show = np.split(gates.astype(np.float32), 4)
    return np.concatenate([take, show, keep, new])
