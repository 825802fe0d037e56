"""The fit of the LSTM by torch, on one thread and with its own random numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from levibot.errors import DataError
from levibot.learning.models.lesson import FEWEST_ROWS, Lesson
from levibot.learning.models.lstm import LSTMParameters, LSTMWeights
from levibot.learning.models.sequence import IndexArray, Sequence
from levibot.learning.models.standardisation import Standardisation

# An error that falls by less than this has not fallen.
_LEAST_GAIN = 1e-5


def fit_weights(
    lesson: Lesson, sequence: Sequence, parameters: LSTMParameters, seed: int
) -> tuple[Standardisation, LSTMWeights]:
    """The scale of the features and the weights. The same lesson and seed give the same numbers.

    Raises DataError when too few rows are left beside those that judge.
    """
    teach, judge = _split(lesson, parameters.judge_share)
    standardisation = Standardisation.fit(lesson.samples.newest()[teach], parameters.clip)
    rows, index = lesson.samples.gather(sequence)
    with _one_thread():
        fitting = _Fitting(
            torch.from_numpy(standardisation.apply(rows).astype(np.float32)),
            torch.from_numpy(index),
            torch.from_numpy(lesson.labels.astype(np.float32)),
            None if lesson.weights is None else torch.from_numpy(lesson.weights.astype(np.float32)[:, None]),
            _Net.drawn(rows.shape[1], parameters.units, lesson.labels.shape[1], seed),
        )
        weights = fitting.run(teach, judge, parameters, seed)
    return standardisation, weights


def _split(lesson: Lesson, judge_share: float) -> tuple[IndexArray, IndexArray]:
    """Points that teach, and the newest ones, which judge. Between them lies the reach of a label."""
    row = lesson.samples.row
    first_judge = np.quantile(row, 1.0 - judge_share, method="lower")
    judge = np.flatnonzero(row >= first_judge)
    teach = np.flatnonzero(row + lesson.reach_bars < first_judge)
    if len(teach) < FEWEST_ROWS // 2 or len(judge) == 0:
        raise DataError(
            f"{len(lesson)} rows leave {len(teach)} to teach the LSTM beside {len(judge)} that judge it: "
            f"{FEWEST_ROWS // 2} are needed."
        )
    return teach, judge


@dataclass(frozen=True, slots=True)
class _Net:
    """torch's LSTM by its function: making its module draws from the generator that all threads share."""

    recurrent: list[torch.Tensor]
    head: torch.Tensor
    head_bias: torch.Tensor

    @classmethod
    def drawn(cls, n_features: int, n_units: int, n_horizons: int, seed: int) -> _Net:
        rng = np.random.default_rng([seed, 1])
        span = n_units**-0.5

        def uniform(*shape: int) -> torch.Tensor:
            values = rng.uniform(-span, span, shape).astype(np.float32)
            return torch.from_numpy(values).requires_grad_()

        gates = 4 * n_units
        recurrent = [uniform(gates, n_features), uniform(gates, n_units), uniform(gates), uniform(gates)]
        return cls(recurrent, uniform(n_horizons, n_units), uniform(n_horizons))

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [*self.recurrent, self.head, self.head_bias]

    def last_state(self, sequences: torch.Tensor) -> torch.Tensor:
        """(N, steps, F) to (N, U)."""
        start = torch.zeros(1, len(sequences), self.head.shape[1])
        out: torch.Tensor = torch.lstm(
            sequences, (start, start), self.recurrent, True, 1, 0.0, False, False, True
        )[0]
        return out[:, -1]

    def outputs(self, state: torch.Tensor) -> torch.Tensor:
        return state @ self.head.T + self.head_bias


@dataclass(slots=True)
class _Fitting:
    """rows: (U, F) standardised. index: (N, steps) of them. labels: (N, H). weights: (N, 1), None = equal."""

    rows: torch.Tensor
    index: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor | None
    net: _Net

    def run(self, teach: IndexArray, judge: IndexArray, parameters: LSTMParameters, seed: int) -> LSTMWeights:
        """The weights with the smallest error on the rows that judge."""
        shuffle = np.random.default_rng([seed, 2])
        drop = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(
            self.net.parameters, lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        judging = torch.from_numpy(judge)
        best, best_weights, waited = np.inf, self._weights(), 0
        for _ in range(parameters.epochs):
            for batch in _batches(torch.from_numpy(shuffle.permutation(teach)), parameters.batch_rows):
                optimiser.zero_grad()
                self._taught_error(batch, parameters.dropout, drop).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            error = self._error(judging, parameters.batch_rows)
            if error < best - _LEAST_GAIN:
                best, best_weights, waited = error, self._weights(), 0
            elif (waited := waited + 1) >= parameters.patience:
                break
        return best_weights

    def _taught_error(self, batch: torch.Tensor, dropout: float, drop: torch.Generator) -> torch.Tensor:
        state = self.net.last_state(self.rows[self.index[batch]])
        kept = torch.rand(state.shape, generator=drop) >= dropout
        missed = (self.net.outputs(state * kept / (1.0 - dropout)) - self.labels[batch]).square()
        return (missed if self.weights is None else missed * self.weights[batch]).mean()

    def _error(self, points: torch.Tensor, batch_rows: int) -> float:
        total = 0.0
        with torch.no_grad():
            for batch in _batches(points, batch_rows):
                missed = (
                    self.net.outputs(self.net.last_state(self.rows[self.index[batch]])) - self.labels[batch]
                )
                squares = missed.square()
                total += float((squares if self.weights is None else squares * self.weights[batch]).sum())
        return total / (len(points) * self.labels.shape[1])

    def _weights(self) -> LSTMWeights:
        from_features, from_state, bias, more_bias, head, head_bias = (
            part.detach().double().numpy().copy() for part in self.net.parameters
        )
        return LSTMWeights(from_features, from_state, bias + more_bias, head, head_bias)


def _batches(points: torch.Tensor, batch_rows: int) -> Iterator[torch.Tensor]:
    for begin in range(0, len(points), batch_rows):
        yield points[begin : begin + batch_rows]


class _Threads:
    """How many fits run, and the threads that torch had before the first of them."""

    lock = threading.Lock()
    n_fits = 0
    before = 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread while any fit runs, and as it was afterwards: the number is the whole process's.

    On several threads sums are added in another order, and the same seed would give other weights.
    """
    with _Threads.lock:
        if _Threads.n_fits == 0:
            _Threads.before = torch.get_num_threads()
        _Threads.n_fits += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.n_fits -= 1
            if _Threads.n_fits == 0:
                torch.set_num_threads(_Threads.before)
