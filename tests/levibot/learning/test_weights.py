from __future__ import annotations

import json
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from levibot.errors import DataError, RegistryError
from levibot.learning.weights import WeightParameters, WeightState, updated, weights_over
from levibot.market.bars import FloatArray, TimeArray

MEMBERS = ("trend", "strength", "lightgbm")
PRIOR = np.array([0.4, 0.4, 0.2])
BOLD = WeightParameters(half_life_days=60.0, sharpe_spread=2.0, max_turnover=0.05)
BEAR, BULL = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
UNKNOWN = np.full(3, np.nan)


def calendar(n_days: int) -> TimeArray:
    return np.datetime64("2022-01-01", "D") + np.arange(n_days)


def held(returns: FloatArray, regimes: FloatArray, parameters: WeightParameters = BOLD) -> FloatArray:
    begun = WeightState.beginning(MEMBERS, PRIOR)
    weights, _ = weights_over(begun, calendar(len(returns)), returns, regimes, parameters=parameters)
    return weights


def noise(n_days: int, seed: int = 0) -> FloatArray:
    return 0.01 * np.random.default_rng(seed).normal(size=(n_days, 3))


any_returns = arrays(
    np.float64, (40, 3), elements=st.floats(-1.0, 1.0) | st.sampled_from([0.0, float("nan")])
)
any_regimes = arrays(np.float64, (40, 3), elements=st.floats(0.01, 1.0))


@settings(max_examples=60)
@given(any_returns, any_regimes, st.sampled_from([0.002, 0.05, 1.0]))
def test_weights_stay_on_the_simplex_and_move_little(
    returns: FloatArray, raw: FloatArray, max_turnover: float
) -> None:
    regimes = raw / raw.sum(axis=1, keepdims=True)
    regimes[::5] = np.nan
    weights = held(returns, regimes, WeightParameters(5.0, 10.0, 5.0, 3.0, max_turnover))
    assert np.isfinite(weights).all()
    assert weights.min() >= 0.0
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert (0.5 * np.abs(np.diff(weights, axis=0)).sum(axis=1) <= max_turnover + 1e-12).all()


def test_the_member_that_earns_gains_weight_and_in_units_of_its_own_risk() -> None:
    returns = noise(400)
    returns[:, 1] = 0.1 * (returns[:, 1] + 0.005)
    weights = held(returns, np.tile(UNKNOWN, (400, 1)))[-1]
    assert weights[1] > PRIOR[1] + 0.2
    louder = held(returns * np.array([1.0, 20.0, 1.0]), np.tile(UNKNOWN, (400, 1)))[-1]
    np.testing.assert_allclose(louder, weights, atol=1e-9)


def test_a_regime_that_comes_back_is_remembered() -> None:
    """Trend loses in the first bear market and wins in the long bull market after it."""
    returns = noise(900)
    regimes = np.tile(BULL, (900, 1))
    regimes[:200] = BEAR
    returns[:200, 0] -= 0.004
    returns[200:, 0] += 0.002
    state = WeightState.beginning(MEMBERS, PRIOR)
    _, state = weights_over(state, calendar(900), returns, regimes, parameters=BOLD)
    quiet = np.zeros(3)

    def later(regime: FloatArray) -> float:
        _, after = weights_over(
            state,
            calendar(930)[900:],
            np.tile(quiet, (30, 1)),
            np.tile(regime, (30, 1)),
            parameters=BOLD,
        )
        return float(after.weights[0])

    assert later(BULL) > PRIOR[0]
    assert later(BEAR) < later(BULL) - 0.1


def test_little_evidence_moves_little_and_equal_members_stay_at_the_prior() -> None:
    returns = noise(30)
    returns[-1] = [0.05, 0.0, 0.0]
    assert np.abs(held(returns, np.tile(BULL, (30, 1)), WeightParameters())[-1] - PRIOR).max() < 0.01
    alike = np.tile(noise(300)[:, :1], (1, 3))
    np.testing.assert_allclose(held(alike, np.tile(BULL, (300, 1)))[-1], PRIOR, atol=1e-9)
    off = WeightParameters(tilt=0.0)
    np.testing.assert_allclose(held(noise(300), np.tile(BULL, (300, 1)), off)[-1], PRIOR, atol=1e-12)


def test_a_missing_member_is_not_judged_and_the_others_are_judged_without_it() -> None:
    returns = noise(300)
    returns[:, 0] += 0.003
    missing = returns.copy()
    missing[:, 2] = np.nan
    weights = held(missing, np.tile(BULL, (300, 1)))[-1]
    state = WeightState.beginning(MEMBERS[:2], PRIOR[:2] / PRIOR[:2].sum())
    two, _ = weights_over(state, calendar(300), returns[:, :2], np.tile(BULL, (300, 1)), parameters=BOLD)
    np.testing.assert_allclose(weights[:2] / weights[:2].sum(), two[-1], atol=1e-6)


@settings(max_examples=20)
@given(any_returns, st.permutations([0, 1, 2]))
def test_the_order_of_the_members_does_not_matter(returns: FloatArray, order: list[int]) -> None:
    regimes = np.tile(BEAR, (40, 1))
    state = WeightState.beginning([MEMBERS[m] for m in order], PRIOR[order])
    other, _ = weights_over(state, calendar(40), returns[:, order], regimes, parameters=BOLD)
    np.testing.assert_allclose(other, held(returns, regimes)[:, order], atol=1e-9)


def test_json_goes_on_exactly_where_the_state_was() -> None:
    days, returns, regimes = calendar(120), noise(120), np.tile(BEAR, (120, 1))
    whole, end = weights_over(WeightState.beginning(MEMBERS, PRIOR), days, returns, regimes)
    _, half = weights_over(WeightState.beginning(MEMBERS, PRIOR), days[:60], returns[:60], regimes[:60])
    loaded = WeightState.from_json(json.loads(json.dumps(half.to_json())))
    rest, again = weights_over(loaded, days[60:], returns[60:], regimes[60:])
    np.testing.assert_array_equal(rest, whole[60:])
    assert again.to_json() == end.to_json()


def test_other_members_keep_what_is_known_of_those_that_stay() -> None:
    returns = noise(300)
    returns[:, 0] += 0.004
    begun = WeightState.beginning(MEMBERS, PRIOR)
    _, state = weights_over(begun, calendar(300), returns, np.tile(BULL, (300, 1)), parameters=BOLD)
    prior = np.array([0.25, 0.25, 0.5])
    other = state.carried_to(("strength", "trend", "lstm"), prior)
    assert other.weights[2] == pytest.approx(0.5)
    assert other.weights[1] / other.weights[0] == pytest.approx(state.weights[0] / state.weights[1])
    np.testing.assert_array_equal(other.gain[:, 1], state.gain[:, 0])
    assert (other.days[:, 2] == 0.0).all()
    assert other.as_of == state.as_of


def test_days_come_in_order_and_a_day_left_out_only_ages() -> None:
    state = updated(WeightState.beginning(MEMBERS, PRIOR), date(2024, 1, 5), np.zeros(3), BULL)
    with pytest.raises(DataError, match="2024-01-05 already"):
        updated(state, date(2024, 1, 5), np.zeros(3), BULL)
    after = updated(state, date(2024, 1, 5) + timedelta(days=10), np.full(3, np.nan), BULL)
    assert (after.watched < state.watched).all()


@pytest.mark.parametrize(
    ("returns", "regime"), [([0.0, np.inf, 0.0], BULL), ([0.0], BULL), ([0.0] * 3, np.array([0.5, 0.5, 0.5]))]
)
def test_what_is_no_return_or_no_regime_is_refused(returns: list[float], regime: FloatArray) -> None:
    with pytest.raises(DataError):
        updated(WeightState.beginning(MEMBERS, PRIOR), date(2024, 1, 5), np.array(returns), regime)


@pytest.mark.parametrize("change", [{"weights": [2.0, -1.0, 0.0]}, {"gain": [[0.0]]}, {"as_of": 3}])
def test_numbers_of_something_else_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RegistryError):
        WeightState.from_json(WeightState.beginning(MEMBERS, PRIOR).to_json() | change)
