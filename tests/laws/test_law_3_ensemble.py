"""Law 3 in the ensemble: no later day revises a regime, a weight, a vote or a route."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pytest

from levibot.learning.market_days import MarketDays, market_days
from levibot.learning.members import prior_weights
from levibot.learning.regime import _backward, _forward, _log_density, fit_regimes, walk_forward_regimes
from levibot.learning.router import RouterParameters, fit_router, router_features
from levibot.learning.voting import sharpe_weights
from levibot.learning.weights import WeightParameters, WeightState, weights_over
from levibot.market.bars import FloatArray, Panel
from levibot.serving.weight_keeping import Active, learned

N_DAYS = 700
CUTS = (430, 521, 655)
FITS = (260, 400, 600)
MEMBERS = ("trend", "strength", "lightgbm")
BOLD = WeightParameters(sharpe_spread=2.0)
QUICK = RouterParameters(trees=10, min_rows=150, min_skill=1.0)

Rows = Callable[[MarketDays, FloatArray], FloatArray]


# For 35 days at a time the market falls, stands or rises, a bar.
DRIFT = np.repeat(np.random.default_rng(4).choice([-0.008, 0.0, 0.008], 20), N_DAYS // 20)


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Bars of eight hours."""
    rng = np.random.default_rng(5)
    drift = np.repeat(DRIFT, 3)[:, None]
    close = 50.0 * np.exp(np.cumsum(drift + 0.02 * rng.standard_t(4, (len(drift), 3)), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    ts = np.datetime64("2020-01-01", "us") + np.arange(len(close)) * np.timedelta64(8, "h")
    prices = (opened, np.maximum(opened, close), np.minimum(opened, close), close)
    return Panel(
        ("AUSDT", "BUSDT", "CUSDT"), timedelta(hours=8), ts, *prices, np.exp(rng.normal(size=close.shape))
    )


@pytest.fixture(scope="module")
def returns() -> FloatArray:
    """Of members of which the first earns in rising markets, and the second in falling ones."""
    returns = 0.01 * np.random.default_rng(6).normal(size=(N_DAYS, 3)) + 0.001
    returns[:, 0] += 2.0 * DRIFT
    returns[:, 1] -= 2.0 * DRIFT
    return returns


def observed(days: MarketDays, _: FloatArray) -> FloatArray:
    return np.column_stack([days.regime_observations(), days.router_columns()[1]])


def regimes(days: MarketDays, _: FloatArray) -> FloatArray:
    return walk_forward_regimes(days.regime_observations(), [fit for fit in FITS if fit < len(days)])


def dynamic(days: MarketDays, returns: FloatArray) -> FloatArray:
    begun = WeightState.beginning(MEMBERS, prior_weights(MEMBERS))
    return weights_over(begun, days.day, returns, regimes(days, returns), parameters=BOLD)[0]


def voted(days: MarketDays, returns: FloatArray) -> FloatArray:
    prior = prior_weights(MEMBERS)
    weights = np.tile(prior, (len(days), 1))
    for fit in FITS:
        weights[fit:] = sharpe_weights(MEMBERS, returns[:fit], prior).weights
    return weights


def routed(days: MarketDays, returns: FloatArray) -> FloatArray:
    """Row d is held on day d + 1."""
    names, features = router_features(days, regimes(days, returns), MEMBERS, returns)
    weights = np.tile(prior_weights(MEMBERS), (len(days), 1))
    for fit in (fit for fit in FITS if fit < len(days)):
        router = fit_router(MEMBERS, names, features[:fit], returns[:fit], seed=0, parameters=QUICK)
        weights[fit:] = router.weights(features[fit:], weights[fit:])
    return weights


def live(days: MarketDays, returns: FloatArray) -> FloatArray:
    """What the keeper of the live weights publishes when each day is over."""
    made_at = datetime.combine(days.day[FITS[0]].item(), time(0), UTC)
    begun = WeightState.beginning(MEMBERS, prior_weights(MEMBERS))
    own: list[date] = days.day.astype(object).tolist()
    active = Active("v1.0.0", MEMBERS, made_at, None)
    known = learned(active, begun, own, returns[: len(days)], days, own[0], "prior")
    return np.array([one.held.weights for one in known])


def smoothed(days: MarketDays, _: FloatArray) -> FloatArray:
    """The planted fault: the textbook's states, each of them told by the days after it as well."""
    rows = days.regime_observations()
    model = fit_regimes(rows[: FITS[0]])
    density = _log_density(rows, model.mean, model.covariance)
    filtered, _ = _forward(density, model.start, model.transition)
    return np.asarray(_backward(density, filtered, model.transition)[0])


def hindsight(days: MarketDays, returns: FloatArray) -> FloatArray:
    """The planted fault: a vote on all days, those to come included."""
    vote = sharpe_weights(MEMBERS, returns[: len(days)], prior_weights(MEMBERS))
    return np.tile(vote.optimal, (len(days), 1))


def is_revised(rows: Rows, panel: Panel, returns: FloatArray, cut: int) -> bool:
    """Whether a row of a day that is over changes when the days after `cut` come."""
    early, whole = market_days(panel.rows(slice(0, 3 * cut))), market_days(panel)
    before, after = rows(early, returns[:cut]), rows(whole, returns[: len(whole)])
    # Weights have a row more: the one for the day after the last, which is known as well.
    return not np.array_equal(before, after[: len(before)], equal_nan=True)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("rows", [observed, regimes, dynamic, voted, routed, live])
def test_a_later_day_changes_no_earlier_row(rows: Rows, panel: Panel, returns: FloatArray, cut: int) -> None:
    assert not is_revised(rows, panel, returns, cut)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("rows", [smoothed, hindsight])
def test_a_row_that_knows_later_days_would_be_caught(
    rows: Rows, panel: Panel, returns: FloatArray, cut: int
) -> None:
    assert is_revised(rows, panel, returns, cut)


def test_what_is_compared_moves(panel: Panel, returns: FloatArray) -> None:
    """A law that compares constants proves nothing."""
    days = market_days(panel)
    for rows in (observed, regimes, dynamic, voted, routed, live):
        told = rows(days, returns)[FITS[0] + 50 :]
        assert (np.ptp(told, axis=0) > 0.0).all(), rows.__name__
