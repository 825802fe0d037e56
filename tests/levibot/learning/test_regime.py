from __future__ import annotations

import json

import numpy as np
import pytest

from levibot.errors import DataError, RegistryError
from levibot.learning.regime import RegimeModel, fit_regimes, walk_forward_regimes
from levibot.market.bars import FloatArray

MEANS = np.array([[-1.5, 0.5], [0.0, -0.6], [1.5, 0.0]])


def planted(n_days: int = 900, seed: int = 0) -> tuple[FloatArray, np.ndarray]:
    """Days of three regimes of about fifty days each, and which one each day is of."""
    rng = np.random.default_rng(seed)
    state = np.zeros(n_days, dtype=int)
    for d in range(1, n_days):
        state[d] = rng.integers(0, 3) if rng.random() < 0.03 else state[d - 1]
    return MEANS[state] + 0.7 * rng.normal(size=(n_days, 2)), state


@pytest.fixture(scope="module")
def model() -> RegimeModel:
    return fit_regimes(planted()[0])


def test_planted_regimes_are_found_in_the_order_of_their_means(model: RegimeModel) -> None:
    np.testing.assert_allclose(model.mean, MEANS, atol=0.25)
    days, state = planted(seed=1)
    assert (model.filtered(days).argmax(axis=1) == state).mean() > 0.9


def test_the_units_of_an_observation_do_not_matter(model: RegimeModel) -> None:
    days = planted()[0]
    scale, shift = np.array([100.0, 0.01]), np.array([3.0, -7.0])
    other = fit_regimes(days * scale + shift)
    np.testing.assert_allclose(other.filtered(days * scale + shift), model.filtered(days), atol=1e-5)


def test_day_by_day_from_its_state_is_the_whole_history(model: RegimeModel) -> None:
    days = planted(seed=2)[0]
    days[40:43] = np.nan
    state, rows = None, []
    for d in range(len(days)):
        state = model.filtered(days[d : d + 1], state)[0]
        rows.append(state)
    np.testing.assert_allclose(np.stack(rows), model.filtered(days), atol=1e-12)


def test_a_day_without_an_observation_drifts_and_an_impossible_one_stays_a_probability(
    model: RegimeModel,
) -> None:
    days = np.vstack([planted()[0][:50], [[np.nan, 1.0]], [[1e9, -1e9]]])
    told = model.filtered(days)
    np.testing.assert_allclose(told[50], model.transition.T @ told[49], atol=1e-12)
    assert np.isfinite(told).all()
    np.testing.assert_allclose(told.sum(axis=1), 1.0)


def test_json_brings_the_same_model_back(model: RegimeModel) -> None:
    loaded = RegimeModel.from_json(json.loads(json.dumps(model.to_json())))
    days = planted()[0]
    np.testing.assert_array_equal(loaded.filtered(days), model.filtered(days))


@pytest.mark.parametrize("change", [{"mean": [[1.0]]}, {"regimes": ["bull"]}, {"start": None}])
def test_numbers_of_something_else_are_refused(model: RegimeModel, change: dict[str, object]) -> None:
    with pytest.raises(RegistryError):
        RegimeModel.from_json(model.to_json() | change)


def test_too_few_or_constant_days_are_refused() -> None:
    with pytest.raises(DataError, match="180 are needed"):
        fit_regimes(planted(100)[0])
    with pytest.raises(DataError, match="never varies"):
        fit_regimes(np.ones((400, 2)))


def test_nothing_is_told_before_the_first_fit() -> None:
    told = walk_forward_regimes(planted(400)[0], [200, 300])
    assert np.isnan(told[:200]).all()
    assert np.isfinite(told[200:]).all()
