"""A trained policy as one ONNX graph: the features' scaling, the net, and what its outputs mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from levibot.errors import RegistryError
from levibot.serving.policy import ACTION, LOGITS, OBSERVATION, POSITION, PROBABILITY
from levibot.trading.own_account import CLIP, OWN
from rl.game import Actions
from rl.scaling import Scaling

_OPSET, _IR_VERSION = 21, 10
_SHIFT = 1.0  # from choices 0, 1, 2 to positions -1, 0, 1


def policy_graph(module: Any, scaling: Scaling, actions: Actions) -> bytes:
    """The ONNX file of an RLModule of `rl.policy`; see `levibot.serving.policy` for what it reads and says.

    Raises RegistryError on a layer that has no counterpart here.
    """
    graph, n_features = _Graph(), len(scaling.names)
    graph.add("Slice", OBSERVATION, *graph.constants([0], [n_features], [1]), to="features")
    graph.add("Slice", OBSERVATION, *graph.constants([n_features], [n_features + len(OWN)], [1]), to="own")
    graph.add("IsNaN", "features", to="is_missing")
    graph.add("Sub", "features", graph.constant(np.array(scaling.mean)), to="from_mean")
    graph.add("Div", "from_mean", graph.constant(np.array(scaling.deviation)), to="in_deviations")
    graph.add("Where", "is_missing", graph.constant(0.0), "in_deviations", to="filled")
    graph.add("Clip", "filled", *graph.constants(-CLIP, CLIP), to="clipped")
    graph.add("Cast", "is_missing", to="missing", to_type=TensorProto.DOUBLE)
    graph.add("ReduceMean", "missing", graph.constant([1]), to="missing_share", keepdims=1)
    graph.add("Concat", "clipped", "missing_share", "own", to="scaled", axis=1)
    graph.add("Cast", "scaled", to="seen", to_type=TensorProto.FLOAT)
    last = "seen"
    layers = [*module.encoder.actor_encoder.net.mlp, *module.pi.net.mlp]
    for number, layer in enumerate(layers):
        is_said = number == len(layers) - 1 and actions == "discrete"
        name = LOGITS if is_said else f"layer_{number}"
        graph.add_layer(layer, last, to=name)
        last = name
    if actions == "discrete":
        graph.add("Softmax", LOGITS, to=PROBABILITY, axis=1)
        graph.add("ArgMax", LOGITS, to=ACTION, axis=1, keepdims=0)
        graph.add("Cast", ACTION, to="choice", to_type=TensorProto.DOUBLE)
        graph.add("Sub", "choice", graph.constant(_SHIFT), to=POSITION)
    else:
        limit = np.float32(module.pi.log_std_clip_param_const.item())
        graph.add("Slice", last, *graph.constants([0], [1], [1]), to="mean")
        graph.add("Slice", last, *graph.constants([1], [2], [1]), to="log_deviation")
        # As the policy's own head does: its exponential stays finite.
        graph.add("Clip", "log_deviation", *graph.constants(-limit, limit), to="bounded")
        graph.add("Concat", "mean", "bounded", to=LOGITS, axis=1)
        graph.add("Clip", "mean", *graph.constants(np.float32(-1.0), np.float32(1.0)), to=ACTION)
        graph.add("Cast", ACTION, to="as_double", to_type=TensorProto.DOUBLE)
        graph.add("Squeeze", "as_double", graph.constant([1]), to=POSITION)
    return graph.to_bytes(n_features + len(OWN), layers[-1].out_features, actions)


@dataclass(slots=True)
class _Graph:
    """Nodes and constants, added in the order of their use."""

    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)

    def constant(self, value: npt.ArrayLike) -> str:
        name = f"constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def constants(self, *values: npt.ArrayLike) -> list[str]:
        return [self.constant(value) for value in values]

    def add(self, operator: str, *inputs: str, to: str, to_type: int | None = None, **also: Any) -> None:
        if to_type is not None:
            also["to"] = to_type
        self.nodes.append(helper.make_node(operator, list(inputs), [to], **also))

    def add_layer(self, layer: torch.nn.Module, given: str, *, to: str) -> None:
        if isinstance(layer, torch.nn.Linear):
            weight, bias = (of.detach().cpu().numpy() for of in (layer.weight, layer.bias))
            self.add("Gemm", given, self.constant(weight), self.constant(bias), to=to, transB=1)
        elif isinstance(layer, torch.nn.Tanh):
            self.add("Tanh", given, to=to)
        elif isinstance(layer, torch.nn.ReLU):
            self.add("Relu", given, to=to)
        else:
            raise RegistryError(f"A policy with a layer {type(layer).__name__} has no ONNX graph.")

    def to_bytes(self, n_read: int, n_logits: int, actions: Actions) -> bytes:
        said = [(LOGITS, TensorProto.FLOAT, [None, n_logits])]
        if actions == "discrete":
            said += [(PROBABILITY, TensorProto.FLOAT, [None, n_logits]), (ACTION, TensorProto.INT64, [None])]
        else:
            said.append((ACTION, TensorProto.FLOAT, [None, 1]))
        said.append((POSITION, TensorProto.DOUBLE, [None]))
        graph = helper.make_graph(
            self.nodes,
            "policy",
            [helper.make_tensor_value_info(OBSERVATION, TensorProto.DOUBLE, [None, n_read])],
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in said],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        whole = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return bytes(whole.SerializeToString(deterministic=True))
