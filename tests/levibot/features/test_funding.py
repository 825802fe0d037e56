"""Funding and outside data: their definitions, and that a source that is off is missing, never zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from levibot.features.engine import compute, compute_tail
from levibot.features.funding import FUNDING
from levibot.features.outside import OUTSIDE
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray
from tests.levibot.features.one_symbol import OneSymbol, ids

VIEW = FeatureView("side", (*FUNDING, *OUTSIDE))


def score(x: FloatArray, bars: int) -> float:
    return float((x[-1] - x[-bars:].mean()) / x[-bars:].std())


def rate(b: OneSymbol) -> FloatArray:
    return b.extra["funding_rate"]


def tone(b: OneSymbol) -> FloatArray:
    return b.extra["news_sentiment"]


def spread(b: OneSymbol) -> FloatArray:
    return b.extra["dex_spread"]


def floor(b: OneSymbol) -> FloatArray:
    return b.extra["nft_floor"]


EXPECTED: dict[str, Callable[..., float]] = {
    "funding_rate": lambda b: rate(b)[-1],
    "funding_mean": lambda b, bars: rate(b)[-bars:].mean(),
    "funding_score": lambda b, bars: score(rate(b), bars),
    "funding_change": lambda b, bars: rate(b)[-1] - rate(b)[-1 - bars],
    "funding_paid": lambda b, bars: rate(b)[-bars:].sum() / 8,
    "funding_carry": lambda b, bars: rate(b)[-bars:].mean() / (b.sigma * np.sqrt(8)),
    "dex_spread": lambda b: spread(b)[-1],
    "dex_spread_mean": lambda b, bars: spread(b)[-bars:].mean(),
    "dex_spread_score": lambda b, bars: score(spread(b), bars),
    "nft_floor_change": lambda b, bars: np.log(floor(b)[-1] / floor(b)[-1 - bars]),
    "nft_floor_gap": lambda b, bars: np.log(floor(b)[-1] / floor(b)[-bars:].mean()),
    "news_sentiment": lambda b: tone(b)[-1],
    "news_sentiment_mean": lambda b, bars: tone(b)[-bars:].mean(),
    "news_sentiment_change": lambda b, bars: tone(b)[-1] - tone(b)[-1 - bars],
    "news_sentiment_score": lambda b, bars: score(tone(b), bars),
}


@pytest.mark.parametrize("feature", [f for f in VIEW.features if not f.reads_others], ids=ids)
def test_a_side_feature_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-8, abs=1e-14)


def test_funding_is_compared_across_the_market(long_market, full_values) -> None:
    rates = long_market.extra["funding_rate"][-1]
    np.testing.assert_allclose(full_values["market_funding"][-1], [rates.mean()] * 3)
    np.testing.assert_allclose(full_values["relative_funding"][-1], rates - rates.mean())


@pytest.mark.parametrize("name", ["funding_rate", "dex_spread", "nft_floor", "news_sentiment"])
def test_a_source_that_is_off_is_missing_and_disturbs_no_other(long_market, full_values, name) -> None:
    extra = {other: values for other, values in long_market.extra.items() if other != name}
    for values in (
        compute(VIEW, replace(long_market, extra=extra))[-1],
        compute_tail(VIEW, replace(long_market, extra=extra), 1)[0],
    ):
        for position, feature in enumerate(VIEW.features):
            if name in feature.inputs:
                assert np.isnan(values[:, position]).all(), feature.name
            else:
                expected = full_values[feature.name][-1]
                np.testing.assert_allclose(values[:, position], expected, rtol=1e-9, err_msg=feature.name)


def test_a_rate_that_does_not_change_has_no_score(long_market) -> None:
    constant = {"funding_rate": np.full(long_market.close.shape, 1e-4)}
    newest = compute(VIEW, replace(long_market, extra=constant))[-1, 0]
    values = dict(zip(VIEW.names, newest, strict=True))
    assert np.isnan(values["funding_score_168"])
    assert values["funding_mean_24"] == pytest.approx(1e-4)
