from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError, RegistryError
from levibot.learning.router import Router, RouterParameters, best_members, fit_router
from levibot.market.bars import FloatArray

MEMBERS = ("trend", "strength", "lightgbm")
NAMES = ("tell", "noise")
QUICK = RouterParameters(trees=40)
ENSEMBLE = np.array([0.5, 0.3, 0.2])


def market(edge: float, n_days: int = 900, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Features and member returns; for forty days at a time `tell` says which member has the edge."""
    rng = np.random.default_rng(seed)
    better = np.repeat(rng.integers(0, 3, n_days // 40 + 1), 40)[:n_days]
    returns = 0.01 * rng.normal(size=(n_days, 3))
    returns[np.arange(n_days), better] += edge
    return np.column_stack([better + 0.1 * rng.normal(size=n_days), rng.normal(size=n_days)]), returns


@pytest.fixture(scope="module")
def router() -> Router:
    return fit_router(MEMBERS, NAMES, *market(edge=0.012), seed=1, parameters=QUICK)


def test_a_planted_edge_is_found_and_followed(router: Router) -> None:
    assert not router.abstains
    assert router.skill > 5.0
    features, returns = market(edge=0.012, seed=9)
    weights = router.weights(features[:-1], ENSEMBLE)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    routed, fixed = (weights * returns[1:]).sum(axis=1), returns[1:] @ ENSEMBLE
    assert routed.mean() / routed.std() > 1.15 * fixed.mean() / fixed.std()


@pytest.mark.parametrize("seed", range(3))
def test_without_an_edge_it_abstains_and_the_weights_are_the_ensembles_own(seed: int) -> None:
    features, returns = market(edge=0.0, seed=seed)
    router = fit_router(MEMBERS, NAMES, features, returns, seed=seed, parameters=QUICK)
    assert router.abstains
    assert router.share == 0.0
    np.testing.assert_array_equal(router.weights(features, ENSEMBLE), np.tile(ENSEMBLE, (900, 1)))


def test_with_few_rows_it_abstains() -> None:
    features, returns = market(edge=0.05, n_days=300)
    router = fit_router(MEMBERS, NAMES, features, returns, seed=0, parameters=QUICK)
    assert router.abstains
    assert np.isnan(router.skill)
    assert router.rows == 300 - 7 - 1


def test_a_day_without_features_keeps_the_ensembles_weights(router: Router) -> None:
    weights = router.weights(np.array([[np.nan, np.nan], [2.0, 0.0]]), ENSEMBLE)
    np.testing.assert_allclose(weights[0], ENSEMBLE)
    assert weights[1, 2] > ENSEMBLE[2]


def test_files_bring_the_same_weights_back_and_the_same_fit_the_same_files(router: Router) -> None:
    features, returns = market(edge=0.012)
    loaded = Router.from_files(router.to_files())
    np.testing.assert_array_equal(loaded.weights(features, ENSEMBLE), router.weights(features, ENSEMBLE))
    again = fit_router(MEMBERS, NAMES, features, returns, seed=1, parameters=QUICK)
    assert again.to_files() == router.to_files() == loaded.to_files()
    silent = Router.from_files(fit_router(MEMBERS, NAMES, features[:50], returns[:50], seed=1).to_files())
    assert silent.abstains


def test_files_of_something_else_are_refused(router: Router) -> None:
    files = router.to_files()
    for broken in ({}, {"router.json": b"{}"}, files | {"router_forest.txt": b"no trees"}):
        with pytest.raises(RegistryError):
            Router.from_files(broken)
    with pytest.raises(RegistryError, match="belong together"):
        Router.from_files({"router.json": files["router.json"]})


def test_the_best_member_is_known_when_its_days_are_over() -> None:
    returns = np.zeros((12, 2))
    returns[3:, 1] = [0.01, 0.02, -0.01, 0.03, 0.01, 0.02, 0.0, 0.01, 0.01]
    best = best_members(returns, 7)
    assert best[:5].tolist() == [1, 1, 1, 1, 1]
    assert best[5:].tolist() == [-1] * 7
    returns[6, 1] = np.nan
    assert best_members(returns, 7)[0] == 0


def test_other_shapes_are_refused(router: Router) -> None:
    with pytest.raises(DataError):
        router.weights(np.zeros((3, 5)), ENSEMBLE)
    with pytest.raises(DataError):
        fit_router(MEMBERS, NAMES, np.zeros((9, 2)), np.zeros((8, 3)), seed=0)
