"""What the weights of a model's members begin with: what a walk forward through its past has found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from levibot.errors import RegistryError
from levibot.learning.router import Router
from levibot.learning.weights import WeightState
from levibot.stores.registry import Registry

WEIGHTS_FILE = "weights.json"


@dataclass(frozen=True, slots=True, eq=False)
class EnsembleSeed:
    """weights: after the last day of the walk. router: fitted on its days; it may abstain."""

    weights: WeightState
    router: Router

    def to_files(self) -> dict[str, bytes]:
        """JSON, and the router's forest in LightGBM's text."""
        text = json.dumps(self.weights.to_json(), indent=2, allow_nan=False)
        return {WEIGHTS_FILE: text.encode(), **self.router.to_files()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """What `to_files` gave. Raises RegistryError on other things."""
        try:
            weights = WeightState.from_json(json.loads(files[WEIGHTS_FILE]))
        except (KeyError, ValueError, TypeError) as exc:
            raise RegistryError(f"{WEIGHTS_FILE} holds no weights of an ensemble: {exc!r}.") from exc
        return cls(weights, Router.from_files(files))


def publish_seed(ensembles: Registry, version: str, seed: EnsembleSeed) -> str:
    """Keep what a model's ensemble begins with; the one that it has already stays.

    Returns its own name in `ensembles`. Raises RegistryError and StoreUnavailable.
    """
    known = ensembles.published_under(version)
    metadata = {"model_version": version}
    return known if known is not None else ensembles.publish(metadata, seed.to_files(), key=version)


def read_seed(ensembles: Registry, version: str) -> EnsembleSeed | None:
    """What a model's ensemble begins with, None where no walk was made. Raises as the registry does."""
    found = ensembles.published_under(version)
    return None if found is None else EnsembleSeed.from_files(ensembles.load(found).files)
