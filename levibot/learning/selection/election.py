"""From the ballots of folds to the features of one training window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np

from levibot.errors import DataError
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.selection.boruta import BorutaParameters, boruta
from levibot.learning.selection.contribution import contributing
from levibot.learning.selection.elimination import surviving
from levibot.learning.selection.rows import FoldRows, chosen
from levibot.market.bars import BoolArray, FloatArray

METHODS = ("boruta", "elimination", "shap")
Mode = Literal["vote", "union"]
# So many of the methods have to name a feature on a ballot.
_NEEDED: dict[Mode, int] = {"vote": 2, "union": 1}


@dataclass(frozen=True, slots=True)
class SelectionParameters:
    """How features are elected.

    mode: a ballot elects what two methods name (vote), or any (union). min_share: of the ballots that must
    elect a feature. n_features: at most so many, the required ones among them. n_judged: folds that judge at
    a time; with 2 or more every combination of them casts a ballot. The rest as of `fold_rows`.
    """

    mode: Mode = "vote"
    min_share: float = 0.5
    n_features: int = 50
    n_folds: int = 4
    n_judged: int = 1
    every_bars: int = 4
    max_rows: int = 20_000
    boruta: BorutaParameters = field(default_factory=BorutaParameters)
    booster: LightGBMParameters = field(default_factory=LightGBMParameters)

    @property
    def n_splits(self) -> int:
        """How many ballots a horizon casts."""
        return comb(self.n_folds, self.n_judged)


@dataclass(frozen=True, slots=True, eq=False)
class Ballot:
    """What one fold of one horizon says. named: (3, F) by method. size: (F,) mean absolute SHAP value."""

    horizon_bars: int
    fold: int
    named: BoolArray
    size: FloatArray


@dataclass(frozen=True, slots=True)
class Elected:
    """features: required ones first, then by share of ballots. shares: of each that any ballot elected.

    stability: mean Jaccard index of the ballots' sets, two by two; 1 where all elect the same, NaN where
    none elects anything.
    """

    features: tuple[str, ...]
    shares: dict[str, float]
    stability: float
    n_ballots: int


def cast_ballot(rows: FoldRows, parameters: SelectionParameters, seed: int) -> Ballot:
    """Ask the three methods about one fold. Deterministic by seed, fold and horizon."""
    own_seed = int(np.random.SeedSequence([seed, rows.horizon_bars, rows.fold]).generate_state(1)[0] % 2**20)
    size, contributes = contributing(rows, parameters.booster, own_seed)
    named = np.stack(
        [
            boruta(rows.features, rows.labels, parameters.boruta, own_seed),
            surviving(rows, parameters.booster, own_seed),
            contributes,
        ]
    )
    return Ballot(rows.horizon_bars, rows.fold, named, size)


def elect(
    names: Sequence[str], ballots: Sequence[Ballot], required: Sequence[str], parameters: SelectionParameters
) -> Elected:
    """The features that enough ballots elect, at most `n_features`, with the required ones in any case.

    Of equal shares, the one of the larger mean SHAP value comes first, then the earlier one of the view.
    Raises DataError without ballots, on a required feature that is not there, or more of them than places.
    """
    missing = [name for name in required if name not in names]
    if missing or not ballots or len(required) > parameters.n_features:
        raise DataError(
            f"{len(ballots)} ballots, {len(required)} required features ({', '.join(missing) or 'none'} "
            f"missing) and {parameters.n_features} places make no selection."
        )
    elected = np.stack([b.named.sum(axis=0) >= _NEEDED[parameters.mode] for b in ballots])
    share = elected.mean(axis=0)
    # Each horizon has its own unit.
    size = np.mean([b.size / max(float(b.size.sum()), 1e-300) for b in ballots], axis=0)
    order = sorted(range(len(names)), key=lambda k: (-share[k], -size[k], k))
    others = [names[k] for k in order if share[k] >= parameters.min_share and names[k] not in required]
    return Elected(
        features=(*required, *others[: parameters.n_features - len(required)]),
        shares={names[k]: float(share[k]) for k in order if share[k] > 0.0},
        stability=_stability([frozenset(chosen(names, row)) for row in elected]),
        n_ballots=len(ballots),
    )


def _stability(sets: Sequence[frozenset[str]]) -> float:
    pairs = [(a, b) for a, b in combinations(sets, 2) if a | b]
    return float(np.mean([len(a & b) / len(a | b) for a, b in pairs])) if pairs else float("nan")
