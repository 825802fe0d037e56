"""A policy of reinforcement learning as it is served: one ONNX graph, and what its training was played by.

The graph reads `observation`, (N, F + 3) in double precision: the features of its view as they are, NaN where
missing, then what is seen of the account (`levibot.trading.own_account.OWN`). It scales them itself and gives

    logits        (N, 3), or (N, 2): mean and log deviation, of a continuous policy
    action        (N,) 0, 1, 2 for short, flat, long, or (N, 1) the position itself
    position      (N,) fraction of equity
    probability   (N, 3) of the choices; not there in a continuous policy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from levibot.errors import DataError, RegistryConflict, RegistryError
from levibot.features.view import FeatureView
from levibot.learning.models.onnx_model import open_session
from levibot.market.bars import FloatArray
from levibot.stores.registry import ModelVersion
from levibot.trading.costs import Costs
from levibot.trading.market_step import rules_of
from levibot.trading.own_account import OWN, OwnAccount
from levibot.trading.terms import Terms

KIND, FILE = "policy", "policy.onnx"
OBSERVATION, LOGITS, ACTION, POSITION, PROBABILITY = (
    *("observation", "logits", "action", "position"),
    "probability",
)
CHOICES = ("short", "flat", "long")
TRAIN = "python -m rl.train_ppo"


@dataclass(frozen=True, slots=True)
class PlayedBy:
    """What an account was played by in training, and is where the policy is served.

    bar_volatility: of the training window, a log return.
    """

    actions: Literal["discrete", "continuous"]
    costs: Costs
    terms: Terms
    no_trade_band: float
    start_equity: float
    bar_volatility: float

    def account(self, price: float) -> OwnAccount:
        """A flat one, at a price. Raises DataError on a price that is not above zero."""
        return OwnAccount(
            price,
            start_equity=self.start_equity,
            no_trade_band=self.no_trade_band,
            rules=rules_of(self.costs, self.terms),
            bar_volatility=self.bar_volatility,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values; a limit of infinity is written as None, which JSON has."""
        values = asdict(self)
        values["terms"] = {
            name: None if value == np.inf else value for name, value in values["terms"].items()
        }
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same again. Raises KeyError, TypeError or DataError on other things."""
        terms: dict[str, Any] = {
            name: np.inf if value is None else value for name, value in values["terms"].items()
        }
        return cls(**{**values, "costs": Costs(**values["costs"]), "terms": Terms(**terms)})


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy wants. position: fraction of equity, before the no-trade band.

    action: 0, 1 or 2, or the position itself. probabilities: by `CHOICES`; empty of a continuous policy.
    """

    action: float
    position: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy on one thread of onnxruntime. Frozen; safe to share between threads, accounts apart."""

    version: str
    view: str
    view_version: str
    feature_names: tuple[str, ...]
    symbols: tuple[str, ...]
    played_by: PlayedBy
    session: onnxruntime.InferenceSession

    @classmethod
    def of(cls, stored: ModelVersion) -> Self:
        """A version of the policies' registry. Raises RegistryError on other things."""
        metadata = stored.metadata
        if metadata.get("kind") != KIND:
            raise RegistryError(
                f"Version {stored.version} is of kind {metadata.get('kind')!r}, not {KIND!r}."
            )
        try:
            names = tuple(metadata["feature_names"])
            policy = cls(
                version=stored.version,
                view=metadata["view"],
                view_version=metadata["view_version"],
                feature_names=names,
                symbols=tuple(metadata["symbols"]),
                played_by=PlayedBy.from_json(metadata["game"]),
                session=open_graph(stored.files[FILE], len(names)),
            )
        except (KeyError, TypeError, DataError) as exc:
            raise RegistryError(f"Version {stored.version} is no whole policy: {exc!r}.") from exc
        return policy

    def check_served(self, view: FeatureView) -> None:
        """Refuse a view that the policy was not trained on: its numbers would fit, and mean something else.

        Raises RegistryConflict.
        """
        if (view.name, view.version) != (self.view, self.view_version):
            raise RegistryConflict(
                f"Policy {self.version} was trained on view {self.view} {self.view_version}; this run has "
                f"view {view.name} {view.version}.",
                hint=f"Train one for it: {TRAIN}",
            )

    def observation(self, features: Mapping[str, float], account: OwnAccount) -> FloatArray:
        """(F + 3,) what is known now: features by name, NaN where one is missing, and the account.

        Raises DataError where a feature is not named at all: that is another view, not a missing value.
        """
        lacking = [name for name in self.feature_names if name not in features]
        if lacking:
            raise DataError(
                f"Policy {self.version} reads {len(self.feature_names)} features; {lacking[0]} and "
                f"{len(lacking) - 1} others of them are not given."
            )
        known = np.array([features[name] for name in self.feature_names], dtype=np.float64)
        return np.concatenate([known, account.seen()])

    def decide(self, observation: FloatArray) -> Choice:
        """What the policy wants at an observation (F + 3,). Raises DataError on another shape."""
        if observation.shape != (len(self.feature_names) + len(OWN),):
            raise DataError(
                f"An observation has shape {observation.shape}; policy {self.version} reads "
                f"({len(self.feature_names) + len(OWN)},)."
            )
        said = run_graph(self.session, observation[None, :])
        probabilities = said[PROBABILITY][0].tolist() if PROBABILITY in said else []
        return Choice(
            action=said[ACTION].reshape(-1)[0].item(),
            position=float(said[POSITION][0]),
            probabilities=dict(zip(CHOICES, probabilities, strict=False)),
        )


def open_graph(data: bytes, n_features: int) -> onnxruntime.InferenceSession:
    """A policy's graph on one thread. Raises RegistryError on another graph."""
    session = open_session(data)
    read = [(given.name, given.type, given.shape[-1]) for given in session.get_inputs()]
    said = {given.name for given in session.get_outputs()}
    wanted = [(OBSERVATION, "tensor(double)", n_features + len(OWN))]
    if read != wanted or not {LOGITS, ACTION, POSITION} <= said:
        raise RegistryError(f"The ONNX graph reads {read} and says {sorted(said)}, as no policy of ours.")
    return session


def run_graph(session: onnxruntime.InferenceSession, observations: FloatArray) -> dict[str, npt.NDArray[Any]]:
    """What the graph says, by name, of observations (N, F + 3)."""
    names = [given.name for given in session.get_outputs()]
    return dict(zip(names, session.run(names, {OBSERVATION: observations}), strict=True))
