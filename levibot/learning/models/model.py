"""What every base model can do."""

from __future__ import annotations

from typing import Protocol, Self

from levibot.market.bars import FloatArray


class BaseModel(Protocol):
    """A fitted regressor that is stored as data."""

    def predict(self, features: FloatArray) -> FloatArray:
        """(N, F) to (N,). NaN features are allowed; the prediction is finite."""
        ...

    def to_bytes(self) -> bytes:
        """The model in its data format; no code."""
        ...

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The same model again. Raises RegistryError on anything else."""
        ...
