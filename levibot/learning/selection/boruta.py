"""Boruta: a feature counts when it beats the best of the shadows, again and again (Kursa & Rudnicki 2010)."""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np
from scipy.stats import binom

from levibot.learning.selection.rows import shifted
from levibot.market.bars import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class BorutaParameters:
    """rounds: forests, each with shadows of its own. alpha: of a false confirmation among all features."""

    rounds: int = 20
    trees: int = 60
    leaves: int = 31
    min_leaf_share: float = 0.005
    row_share: float = 0.63
    column_share: float = 0.35
    alpha: float = 0.05


def boruta(features: FloatArray, labels: FloatArray, parameters: BorutaParameters, seed: int) -> BoolArray:
    """(F,) which of the features (N, F) are confirmed to say something of the labels (N,).

    A hit is a round in which a feature's gain in a random forest is above that of every shadow. Without a
    relation hits are a coin's at most, also against one shadow; confirmed is who has more than that, at
    `alpha` over all F (Bonferroni). Who can no longer get there goes, with its shadow, as in the paper. The
    shadows are turned around and not permuted, see `shifted`. Deterministic by seed.
    """
    n_features = features.shape[1]
    needed = _hits_needed(n_features, parameters)
    rng = np.random.default_rng(seed)
    hits = np.zeros(n_features, dtype=np.int64)
    for number in range(parameters.rounds):
        left = np.flatnonzero(hits + parameters.rounds - number >= needed)
        if not len(left):
            break
        own = features[:, left]
        gain = _forest_gain(np.hstack([own, shifted(own, rng)]), labels, parameters, seed * 1_000 + number)
        hits[left] += gain[: len(left)] > gain[len(left) :].max()
    confirmed: BoolArray = hits >= needed
    return confirmed


def _hits_needed(n_features: int, parameters: BorutaParameters) -> int:
    """The fewest hits that a coin reaches with a probability below `alpha` over all features.

    One more than there are rounds where these are too few to confirm anything.
    """
    hits = np.arange(parameters.rounds + 2)
    # P(at least so many hits | a fair coin)
    tail = binom.sf(hits - 1, parameters.rounds, 0.5)
    return int(hits[tail < parameters.alpha / n_features][0])


def _forest_gain(
    features: FloatArray, labels: FloatArray, parameters: BorutaParameters, seed: int
) -> FloatArray:
    settings = {
        "objective": "regression",
        "boosting": "rf",
        "num_leaves": parameters.leaves,
        "min_data_in_leaf": max(1, int(len(labels) * parameters.min_leaf_share)),
        "bagging_fraction": parameters.row_share,
        "bagging_freq": 1,
        "feature_fraction": parameters.column_share,
        "max_bin": 63,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    # Threads of the binning wait for each other, and on a busy machine for long.
    data = lightgbm.Dataset(features, labels, params={"max_bin": 63, "verbosity": -1, "num_threads": 1})
    forest = lightgbm.train(settings, data, num_boost_round=parameters.trees)
    return np.asarray(forest.feature_importance("gain"), dtype=np.float64)
