"""Betas and correlations against numpy's least squares over one symbol and the leader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from levibot.features.comovement import COMOVEMENT
from levibot.features.engine import compute
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray
from tests.levibot.features.one_symbol import OneSymbol, ids, slow_sigma


def beta(x: FloatArray, y: FloatArray) -> float:
    return float(np.polyfit(x, y, 1)[0])


def residual(b: OneSymbol, bars: int) -> float:
    x, y = b.leader[-bars:], b.r[-bars:]
    return float((y - np.polyval(np.polyfit(x, y, 1), x)).std() / b.sigma)


def residual_return(b: OneSymbol, bars: int) -> float:
    explained = beta(b.leader[-672:], b.r[-672:]) * b.leader[-bars:].sum()
    return float((b.r[-bars:].sum() - explained) / (b.sigma * np.sqrt(bars)))


def leader_return(b: OneSymbol, bars: int) -> float:
    sigma = slow_sigma(np.exp(np.concatenate([[0.0], np.cumsum(b.leader)])))
    return float(b.leader[-bars:].sum() / (sigma * np.sqrt(bars)))


def downside_beta(b: OneSymbol, bars: int) -> float:
    fell = b.leader[-bars:] < 0
    x, y = b.leader[-bars:][fell], b.r[-bars:][fell]
    return float((x @ y) / (x @ x))


EXPECTED: dict[str, Callable[..., float]] = {
    "leader_beta": lambda b, bars: beta(b.leader[-bars:], b.r[-bars:]),
    "leader_correlation": lambda b, bars: np.corrcoef(b.leader[-bars:], b.r[-bars:])[0, 1],
    "idiosyncratic_vol": residual,
    "beta_change": lambda b, bars: beta(b.leader[-bars:], b.r[-bars:]) - beta(b.leader[-672:], b.r[-672:]),
    "residual_return": residual_return,
    "leader_return": leader_return,
    "leader_lead": lambda b, bars: np.corrcoef(b.leader[-bars - 1 : -1], b.r[-bars:])[0, 1],
    "downside_beta": downside_beta,
}
OF_MARKET = {"market_beta", "market_correlation", "average_correlation"}


@pytest.mark.parametrize("feature", [f for f in COMOVEMENT if f.formula.__name__ not in OF_MARKET], ids=ids)
def test_a_tie_to_the_leader_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_the_market_is_the_mean_of_the_returns(symbols, full_values) -> None:
    market = np.mean([alone.r for alone in symbols], axis=0)[-168:]
    correlations = [np.corrcoef(market, alone.r[-168:])[0, 1] for alone in symbols]
    np.testing.assert_allclose(full_values["market_correlation_168"][-1], correlations, rtol=1e-8)
    np.testing.assert_allclose(full_values["average_correlation_168"][-1], [np.mean(correlations)] * 3)
    for symbol, alone in enumerate(symbols):
        expected = beta(market, alone.r[-168:])
        assert full_values["market_beta_168"][-1, symbol] == pytest.approx(expected, rel=1e-8)


def test_the_leader_is_tied_to_itself_exactly(full_values) -> None:
    known = full_values["leader_beta_168"][200:, 0]
    assert (known == 1.0).all()
    assert (full_values["leader_correlation_168"][200:, 0] == 1.0).all()
    assert (full_values["idiosyncratic_vol_168"][1500:, 0] == 0.0).all()
    assert (full_values["residual_return_24"][1500:, 0] == 0.0).all()


def test_a_leader_that_stands_explains_nothing(long_market) -> None:
    close = long_market.close.copy()
    close[-300:, 0] = close[-301, 0]
    still = replace(long_market, open=close, high=close, low=close, close=close)
    view = FeatureView("beta", tuple(f for f in COMOVEMENT if f.name == "leader_beta_168"))
    assert np.isnan(compute(view, still)[-1, :, 0]).all()
