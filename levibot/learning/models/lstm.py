"""A small recurrent net (Hochreiter & Schmidhuber 1997) over the last rows of a symbol's features.

Fitted by torch (`lstm_fit.py`), which takes seconds to import; predicted here, which takes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import safetensors
import safetensors.numpy

from levibot.errors import RegistryError
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.model import Kind
from levibot.learning.models.sequence import IndexArray, Samples, Sequence
from levibot.learning.models.standardisation import Standardisation
from levibot.market.bars import FloatArray

# Points that are predicted at once: their states stay in the processor's cache.
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class LSTMParameters:
    """How the net is made and fitted.

    units: of the one layer. steps, every_bars: the sequence it reads. clip: standard deviations. dropout:
    share of the last state's units that a step of the fit leaves out. judge_share: newest part of the rows,
    purged, whose error ends the fit when it has not fallen for `patience` epochs, `epochs` at most.
    """

    units: int = 16
    steps: int = 12
    every_bars: int = 8
    clip: float = 4.0
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    batch_rows: int = 1024
    epochs: int = 12
    patience: int = 2
    judge_share: float = 0.15


@dataclass(frozen=True, slots=True)
class LSTMWeights:
    """Of a net with U units. The four gates lie below each other: input, forget, cell, output.

    from_features: (4U, F). from_state: (4U, U). bias: (4U,). head: (H, U). head_bias: (H,).
    """

    from_features: FloatArray
    from_state: FloatArray
    bias: FloatArray
    head: FloatArray
    head_bias: FloatArray


@dataclass(frozen=True, slots=True)
class LSTMModel:
    """A fitted net with one output a horizon. Implements Model."""

    kind: ClassVar[Kind] = "lstm"
    suffix: ClassVar[str] = "safetensors"

    standardisation: Standardisation
    sequence: Sequence
    weights: LSTMWeights

    @classmethod
    def fit(cls, lesson: Lesson, *, parameters: LSTMParameters, seed: int) -> Self:
        """Least squares of all horizons at once, stopped early. Raises DataError."""
        from levibot.learning.models.lstm_fit import fit_weights

        lesson.check()
        sequence = Sequence(parameters.steps, parameters.every_bars)
        standardisation, weights = fit_weights(lesson, sequence, parameters, seed)
        return cls(standardisation, sequence, weights)

    @property
    def n_features(self) -> int:
        return int(self.weights.from_features.shape[1])

    @property
    def n_horizons(self) -> int:
        return len(self.weights.head)

    def predict(self, samples: Samples) -> FloatArray:
        samples.check(self.n_features)
        rows, index = samples.gather(self.sequence)
        halves = _halves(self.weights.head.shape[1])
        # What the gates take from a row is the same in every sequence that reads it.
        gates = self.standardisation.apply(rows) @ (self.weights.from_features.T * halves)
        gates += self.weights.bias * halves
        from_state = self.weights.from_state.T * halves
        predicted = np.empty((len(samples), self.n_horizons))
        for begin in range(0, len(samples), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            predicted[block] = _last_states(gates, from_state, index[block]) @ self.weights.head.T
        return predicted + self.weights.head_bias

    def to_bytes(self) -> bytes:
        scale, weights = self.standardisation, self.weights
        return safetensors.numpy.save(
            {
                "mean": scale.mean,
                "inverse_scale": scale.inverse_scale,
                "clip": np.array([scale.clip]),
                "sequence": np.array([self.sequence.steps, self.sequence.every_bars]),
                "from_features": weights.from_features,
                "from_state": weights.from_state,
                "bias": weights.bias,
                "head": weights.head,
                "head_bias": weights.head_bias,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        try:
            tensors = safetensors.numpy.load(data)
            _check(tensors)
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as exc:
            raise RegistryError(f"These bytes are not an LSTM in safetensors form: {exc!r}.") from exc
        steps, every_bars = (int(number) for number in tensors["sequence"])
        return cls(
            Standardisation(tensors["mean"], tensors["inverse_scale"], float(tensors["clip"][0])),
            Sequence(steps, every_bars),
            LSTMWeights(
                tensors["from_features"],
                tensors["from_state"],
                tensors["bias"],
                tensors["head"],
                tensors["head_bias"],
            ),
        )


def _check(tensors: Mapping[str, FloatArray]) -> None:
    """Raises RegistryError unless the tensors fit each other, and KeyError where one is missing."""
    n_features, n_units, n_horizons = len(tensors["mean"]), tensors["head"].shape[-1], len(tensors["head"])
    wanted = {
        "mean": (n_features,),
        "inverse_scale": (n_features,),
        "clip": (1,),
        "sequence": (2,),
        "from_features": (4 * n_units, n_features),
        "from_state": (4 * n_units, n_units),
        "bias": (4 * n_units,),
        "head": (n_horizons, n_units),
        "head_bias": (n_horizons,),
    }
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != wanted:
        raise RegistryError(f"The LSTM has tensors {shapes}, not {wanted}.")
    for name, tensor in tensors.items():
        kind = np.int64 if name == "sequence" else np.float64
        if tensor.dtype != kind or not np.isfinite(tensor).all():
            raise RegistryError(f"The LSTM's tensor {name} is not of finite {kind.__name__} numbers.")
    if (tensors["sequence"] < 1).any():
        raise RegistryError(f"The LSTM's sequence is {tensors['sequence']}: both numbers must be at least 1.")


def _halves(n_units: int) -> FloatArray:
    """(4U,): 1/2 for the gates that open and close, 1 for the cell.

    sigmoid(x) = tanh(x / 2) / 2 + 1/2. By tanh, as exp of a large number overflows; halves are exact in
    floating point.
    """
    return np.repeat([0.5, 0.5, 1.0, 0.5], n_units)


def _last_states(gates: FloatArray, from_state: FloatArray, index: IndexArray) -> FloatArray:
    """(N, U) after the newest row. gates: (rows, 4U). from_state: (U, 4U). index: (N, steps)."""
    n_units = len(from_state)
    state, cell = np.zeros((len(index), n_units)), np.zeros((len(index), n_units))
    for step in range(index.shape[1]):
        now = gates[index[:, step]]
        now += state @ from_state
        np.tanh(now, out=now)
        take, keep, new, show = (now[:, k * n_units : (k + 1) * n_units] for k in range(4))
        cell = 0.5 * ((keep + 1.0) * cell + (take + 1.0) * new)
        state = 0.5 * (show + 1.0) * np.tanh(cell)
    return state
