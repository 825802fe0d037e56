"""What every model can do."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, Self

from levibot.learning.models.sequence import Samples, Sequence
from levibot.market.bars import FloatArray

Kind = Literal["lightgbm", "xgboost", "lstm", "linear"]


class Model(Protocol):
    """A fitted regressor that is stored as data. Frozen; safe to share between threads.

    A class of models is made by `fit(lesson, *, parameters, seed)`, and the same three give the same bytes.
    """

    kind: ClassVar[Kind]
    # Of the one file a model is stored in.
    suffix: ClassVar[str]

    @property
    def sequence(self) -> Sequence:
        """The rows of the past that a prediction reads."""
        ...

    @property
    def n_features(self) -> int: ...

    @property
    def n_horizons(self) -> int: ...

    def predict(self, samples: Samples) -> FloatArray:
        """(N, H): what is expected of each label, in its units. NaN features are allowed and infinite ones
        count as very large; the prediction is finite. A point's prediction depends on its own rows alone.
        Raises DataError on other features.
        """
        ...

    def to_bytes(self) -> bytes:
        """The model in its data format; no code."""
        ...

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The same model again. Raises RegistryError on anything else."""
        ...
