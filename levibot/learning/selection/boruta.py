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
    relation hits are a coin's at most; confirmed is who has more than that, at `alpha` over all F
    (Bonferroni). The shadows are turned around and not permuted, see `shifted`. Deterministic by seed.
    """
    n_features = features.shape[1]
    rng = np.random.default_rng(seed)
    hits = np.zeros(n_features, dtype=np.int64)
    for number in range(parameters.rounds):
        both = np.hstack([features, shifted(features, rng)])
        gain = _forest_gain(both, labels, parameters, seed * 1_000 + number)
        hits += gain[:n_features] > gain[n_features:].max()
    # P(at least so many hits | a fair coin)
    tail = binom.sf(hits - 1, parameters.rounds, 0.5)
    confirmed: BoolArray = tail < parameters.alpha / n_features
    return confirmed


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
