"""The kinds of models that there are."""

from __future__ import annotations

from collections.abc import Mapping

from levibot.errors import RegistryError
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.lightgbm import LightGBMModel, LightGBMParameters
from levibot.learning.models.linear import LinearModel, LinearParameters
from levibot.learning.models.lstm import LSTMModel, LSTMParameters
from levibot.learning.models.model import Kind, Model
from levibot.learning.models.xgboost import XGBoostModel, XGBoostParameters

ModelParameters = LightGBMParameters | XGBoostParameters | LSTMParameters | LinearParameters

MODELS: Mapping[Kind, type[Model]] = {
    "lightgbm": LightGBMModel,
    "xgboost": XGBoostModel,
    "lstm": LSTMModel,
    "linear": LinearModel,
}


def fit(lesson: Lesson, *, parameters: ModelParameters, seed: int) -> Model:
    """A model of the kind whose parameters these are. Raises DataError."""
    match parameters:
        case LightGBMParameters():
            return LightGBMModel.fit(lesson, parameters=parameters, seed=seed)
        case XGBoostParameters():
            return XGBoostModel.fit(lesson, parameters=parameters, seed=seed)
        case LSTMParameters():
            return LSTMModel.fit(lesson, parameters=parameters, seed=seed)
        case LinearParameters():
            return LinearModel.fit(lesson, parameters=parameters, seed=seed)


def kind_of(parameters: ModelParameters) -> Kind:
    """The kind whose parameters these are."""
    match parameters:
        case LightGBMParameters():
            return "lightgbm"
        case XGBoostParameters():
            return "xgboost"
        case LSTMParameters():
            return "lstm"
        case LinearParameters():
            return "linear"


def from_bytes(kind: str, data: bytes) -> Model:
    """A stored model again. Raises RegistryError on an unknown kind and on broken bytes."""
    for known, model in MODELS.items():
        if known == kind:
            return model.from_bytes(data)
    raise RegistryError(f"The model is of kind {kind!r}: only {', '.join(MODELS)} are known.")
