"""What is searched: the parameters of a signal and of its training, and the ranges that are tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Self

from levibot.errors import DataError
from levibot.learning.models.model import Kind
from levibot.learning.signal import SignalParameters
from levibot.learning.training import TrainingParameters

Value = float | int


@dataclass(frozen=True, slots=True)
class Candidate:
    """Everything that training depends on beside the data, the window and the seed."""

    signal: SignalParameters = field(default_factory=SignalParameters)
    training: TrainingParameters = field(default_factory=TrainingParameters)

    def value(self, name: str) -> Any:
        """The field of that name: a path such as `training.booster.leaves`. Raises DataError."""
        found: Any = self
        for part in name.split("."):
            if not is_dataclass(found) or part not in {own.name for own in fields(found)}:
                raise DataError(f"{name!r} is not a parameter of a signal or of its training.")
            found = getattr(found, part)
        return found

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The same with other values by name. Raises DataError on an unknown name and on another type."""
        changed = self
        for name, value in values.items():
            changed = _replaced(changed, name.split("."), _of_type(name, value, self.value(name)))
        return changed

    def to_json(self) -> dict[str, Any]:
        """All values by name, as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in _leaves(asdict(self), "").items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The candidate again; what is not named keeps its default. Raises DataError."""
        return cls().with_values(values)


@dataclass(frozen=True, slots=True)
class Dimension:
    """A parameter that is searched from low to high, both included.

    name: as of `Candidate.value`. Whole numbers only where the parameter is one. is_log: every factor is as
    likely as any other.
    """

    name: str
    low: Value
    high: Value
    is_log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.is_log and self.low <= 0):
            raise DataError(f"{self.name} cannot be searched from {self.low} to {self.high}.")

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


SpaceName = Literal["lightgbm", "xgboost", "lstm", "linear", "trading"]


@dataclass(frozen=True, slots=True)
class Space:
    """The dimensions that are searched together. Two that are equal search the same.

    kinds: of models whose opinions are traded while it is searched; whatever else is not searched is the
    default.
    """

    name: str
    kinds: tuple[Kind, ...]
    dimensions: tuple[Dimension, ...]

    def candidate(self, values: Mapping[str, Value]) -> Candidate:
        """The point of this space. Raises DataError where it lies outside."""
        self.check(values)
        return Candidate().with_values({"training.kinds": self.kinds, **values})

    @property
    def defaults(self) -> dict[str, Value]:
        """Where the parameters lie that are used without a search."""
        return {dimension.name: Candidate().value(dimension.name) for dimension in self.dimensions}

    @property
    def fitted(self) -> tuple[str, ...]:
        """The dimensions that models are fitted with; the others say what becomes of their predictions."""
        return tuple(d.name for d in self.dimensions if d.name.startswith("training."))

    def check(self, values: Mapping[str, Value]) -> None:
        """Raises DataError unless there is a value within the limits for each dimension, and no other."""
        if set(values) != {dimension.name for dimension in self.dimensions}:
            raise DataError(f"{sorted(values)} are not the dimensions of the space {self.name}.")
        for dimension in self.dimensions:
            if not dimension.low <= values[dimension.name] <= dimension.high:
                raise DataError(
                    f"{dimension.name} is {values[dimension.name]}: the space {self.name} reaches from "
                    f"{dimension.low} to {dimension.high}."
                )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kinds": list(self.kinds),
            "dimensions": [asdict(dimension) for dimension in self.dimensions],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The space again. Raises DataError on anything else."""
        try:
            dimensions = tuple(Dimension(**one) for one in values["dimensions"])
            return cls(values["name"], tuple(values["kinds"]), dimensions)
        except (KeyError, TypeError) as exc:
            raise DataError(f"These values are no space to search: {exc!r}.") from exc


# What becomes of a prediction: fees decide here, whatever the model is.
_TRADING = (
    Dimension("signal.no_trade_band", 0.002, 0.06, is_log=True),
    Dimension("signal.half_life_bars", 1.0, 12.0, is_log=True),
    Dimension("signal.short_share", 0.0, 1.0),
)


def _boosted(owner: str, size: Dimension) -> tuple[Dimension, ...]:
    """What two makes of boosted trees have in common, and the size of a tree, which each says its own way."""
    return (
        *_TRADING,
        size,
        Dimension(f"{owner}.trees", 40, 300, is_log=True),
        Dimension(f"{owner}.learning_rate", 0.005, 0.1, is_log=True),
        Dimension(f"{owner}.min_leaf_share", 0.002, 0.05, is_log=True),
        Dimension(f"{owner}.row_share", 0.3, 1.0),
        Dimension(f"{owner}.column_share", 0.1, 0.9),
        Dimension(f"{owner}.l2", 1.0, 200.0, is_log=True),
    )


SPACES: Mapping[SpaceName, Space] = {
    "lightgbm": Space(
        "lightgbm",
        ("lightgbm",),
        _boosted("training.booster", Dimension("training.booster.leaves", 4, 31, is_log=True)),
    ),
    "xgboost": Space(
        "xgboost", ("xgboost",), _boosted("training.xgboost", Dimension("training.xgboost.depth", 2, 6))
    ),
    "lstm": Space(
        "lstm",
        ("lstm",),
        (
            *_TRADING,
            Dimension("training.lstm.units", 4, 48, is_log=True),
            Dimension("training.lstm.steps", 4, 24, is_log=True),
            Dimension("training.lstm.every_bars", 2, 12, is_log=True),
            Dimension("training.lstm.dropout", 0.0, 0.6),
            Dimension("training.lstm.learning_rate", 3e-4, 1e-2, is_log=True),
            Dimension("training.lstm.weight_decay", 1e-3, 0.5, is_log=True),
        ),
    ),
    "linear": Space(
        "linear",
        ("linear",),
        (
            *_TRADING,
            Dimension("training.linear.l2", 1e-3, 10.0, is_log=True),
            Dimension("training.linear.clip", 2.0, 10.0),
        ),
    ),
    "trading": Space("trading", Candidate().training.kinds, _TRADING),
}


def _replaced(owner: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replaced(getattr(owner, path[0]), path[1:], value)
    return replace(owner, **{path[0]: value})


def _leaves(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _of_type(name: str, value: Any, like: Any) -> Any:
    """The value as the parameter has it: JSON knows no tuples, and a float may be a whole number."""
    if isinstance(like, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(like, float) and is_number:
        return float(value)
    if isinstance(like, float) or type(value) is not type(like):
        raise DataError(f"{name} is {value!r}: it must be of the type of {like!r}.")
    return value
