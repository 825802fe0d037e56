"""A model as onnxruntime predicts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from onnxruntime.capi.onnxruntime_pybind11_state import (  # type: ignore[import-untyped]
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
)

from levibot.errors import RegistryError
from levibot.learning.models.sequence import Samples, Sequence
from levibot.market.bars import FloatArray

INPUT, OUTPUT = "features", "prediction"
# Name of the metadata that says how far the rows of a sequence lie apart.
EVERY_BARS = "every_bars"

_FATAL = 4


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """The graph that `onnx_graph.to_onnx` made of a model, on one thread. Safe to share between threads."""

    data: bytes
    session: onnxruntime.InferenceSession
    sequence: Sequence
    n_features: int
    n_horizons: int

    def __reduce__(self) -> tuple[Callable[[bytes], OnnxModel], tuple[bytes]]:
        """A session does not travel between processes; the graph it was made of does."""
        return OnnxModel.from_bytes, (self.data,)

    def predict(self, samples: Samples) -> FloatArray:
        """(N, H): as `Model.predict`."""
        samples.check(self.n_features)
        if len(samples) == 0:
            return np.empty((0, self.n_horizons))
        features = samples.sequences(self.sequence)
        predicted: FloatArray = self.session.run([OUTPUT], {INPUT: features})[0]
        return predicted

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises RegistryError on anything but such a graph."""
        session = open_session(data)
        try:
            (source,), (result,) = session.get_inputs(), session.get_outputs()
            _, steps, n_features = (int(size or 0) for size in source.shape)
            _, n_horizons = (int(size or 0) for size in result.shape)
            every_bars = int(session.get_modelmeta().custom_metadata_map[EVERY_BARS])
        except (KeyError, TypeError, ValueError) as exc:
            raise RegistryError(f"These bytes are not an ONNX graph of a model: {exc}") from exc
        names = (source.name, source.type, result.name)
        if names != (INPUT, "tensor(double)", OUTPUT) or min(steps, every_bars, n_features, n_horizons) < 1:
            raise RegistryError(
                f"The ONNX graph is of {names} and {source.shape}, which no model of ours is."
            )
        return cls(data, session, Sequence(steps, every_bars), n_features, n_horizons)


def open_session(data: bytes) -> onnxruntime.InferenceSession:
    """A session of one thread. Raises RegistryError on what is no ONNX graph."""
    options = onnxruntime.SessionOptions()
    # Several models predict at once; threads of their own would only wait for each other.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    # onnxruntime's own errors have nothing in common.
    except (TypeError, ValueError, Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as exc:
        raise RegistryError(f"These bytes are not an ONNX graph of a model: {exc}") from exc
