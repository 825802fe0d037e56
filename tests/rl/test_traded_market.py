"""The rows of a market: whose they are, what was known on them, what they pay."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.errors import DataError, UsageError
from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.market.bars import Panel, to_datetime, to_datetime64
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.trading.terms import Terms
from rl.game import Game
from rl.scaling import Scaling
from rl.traded_market import TradedMarket, as_instant
from tests.rl.conftest import FEATURES, HOUR, SYMBOLS


def test_rows_are_the_bars_of_each_symbol(source: SimulatedSource, market: TradedMarket) -> None:
    start, end = as_instant("2020-06-01"), as_instant("2020-07-06")
    for s, symbol in enumerate(SYMBOLS):
        bars = source.bars(symbol, start, end)
        rows = slice(market.begins[s], market.begins[s + 1])
        assert market.fill[rows].tolist() == bars.open.tolist()
        assert market.mark[rows].tolist() == bars.close.tolist()
        assert (market.closes_at[rows] == bars.ts + np.timedelta64(HOUR)).all()
    # Outages are no rows: the symbols differ, and the last day was read to its end.
    assert len(set(np.diff(market.begins).tolist())) == 2
    assert market.closes_at[-1] == to_datetime64(end)


def test_features_are_those_of_the_view_over_all_symbols(
    source: SimulatedSource, market: TradedMarket
) -> None:
    end = as_instant("2020-07-06")
    start = source.extent()[0]
    panel = Panel.align({symbol: source.bars(symbol, start, end) for symbol in SYMBOLS})
    whole = compute(CORE, panel)[:, 1, [CORE.index(name) for name in FEATURES]]
    there = ~np.isnan(panel.close[:, 1]) & (panel.ts >= to_datetime64(as_instant("2020-06-01")))
    expected = market.scaling.apply(whole[there])
    assert market.known[market.begins[1] :] == pytest.approx(expected, abs=1e-5)


def test_a_later_window_is_seen_through_the_scaling_of_the_training_window(
    source: SimulatedSource, market: TradedMarket
) -> None:
    later = TradedMarket.load(source, SYMBOLS, "2020-07-06", "2020-07-12", scaling=market.scaling)
    assert later.scaling is market.scaling
    assert later.known.shape[1] == len(FEATURES) + 1
    own = TradedMarket.load(source, SYMBOLS, "2020-07-06", "2020-07-12", features=FEATURES)
    assert own.scaling != market.scaling
    with pytest.raises(DataError, match="must lie within that, or after it"):
        TradedMarket.load(source, SYMBOLS, "2020-07-01", "2020-07-12", scaling=market.scaling)


def test_what_does_not_fit_is_refused(source: SimulatedSource, market: TradedMarket) -> None:
    window = ("2020-06-01", "2020-06-05")
    other = Scaling.from_json(market.scaling.to_json() | {"view_version": "another"})
    with pytest.raises(DataError, match="core another"):
        TradedMarket.load(source, SYMBOLS, *window, scaling=other)
    with pytest.raises(DataError, match="not of these 2"):
        TradedMarket.load(source, SYMBOLS, *window, scaling=market.scaling, features=FEATURES[:2])
    with pytest.raises(UsageError, match="no feature 'luck'"):
        TradedMarket.load(source, SYMBOLS, *window, features=("luck",))
    with pytest.raises(DataError, match="'soon' is no date"):
        TradedMarket.load(source, SYMBOLS, "soon", "2020-06-05")
    with pytest.raises(DataError, match="has no bars"):
        TradedMarket.load(source, SYMBOLS, "2020-06-05", "2020-06-01")
    # A feature that has not warmed up is no observation.
    with pytest.raises(DataError, match="is known in 0% of the rows"):
        TradedMarket.load(source, SYMBOLS, "2020-01-01", "2020-01-03", features=("trend_1344",))


def test_a_market_without_costs_of_holding_charges_none(market: TradedMarket) -> None:
    assert market.funded == ()
    assert (market.funding_rate == 0.0).all()
    assert (market.columns(Game()).quotes["impact"] == 0.0).all()


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_recorded_funding_is_charged_every_eight_hours() -> None:
    folder = Path(os.environ["LEVIBOT_MARKET_DATA"])
    settings = Settings.load(source="parquet", market=folder, symbols=("BTCUSDT", "ETHUSDT"))
    market = TradedMarket.load(settings, ("BTCUSDT",), "2021-03-01", "2021-03-10", features=FEATURES)
    assert market.funded == ("BTCUSDT",)
    paid = np.flatnonzero(market.funding_rate)
    hours = {to_datetime(at).hour for at in market.closes_at[paid]}
    assert hours == {0, 8, 16}
    assert len(paid) == 30
    spot = Game(terms=Terms(funded="none"))
    assert (market.columns(spot).quotes["funding_rate"] == 0.0).all()
    assert market.interval == timedelta(hours=1)
