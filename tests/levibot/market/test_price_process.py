"""The simulated market has what a market has, and an edge only where one was planted."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

import numpy as np
import pytest
from scipy.signal import lfilter

from levibot.market.bars import Bars, FloatArray
from levibot.market.price_process import (
    CHUNK_BARS,
    MARKET_START,
    MOMENTUM_HALF_LIFE_BARS,
    character_of,
    momentum_returns,
)
from levibot.market.simulator import SimulatedSource
from levibot.settings import DEFAULT_SYMBOLS

HOUR = timedelta(hours=1)
N_BARS = 20_000
SEEDS = range(10)
SYMBOLS = ("BTCUSDT", "SOLUSDT")


@cache
def bars_of(symbol: str, seed: int, edge: float) -> Bars:
    source = SimulatedSource((symbol,), HOUR, seed, edge)
    return source.bars(symbol, MARKET_START, MARKET_START + N_BARS * HOUR)


def simple_returns(bars: Bars) -> FloatArray:
    return bars.close / bars.open - 1.0


def standardised(bars: Bars) -> FloatArray:
    """Returns over a volatility known before each of them, as a trader without the process would see them."""
    returns = simple_returns(bars)
    variance = lfilter([0.04], [1.0, -0.96], returns**2, zi=[0.96 * np.mean(returns[:200] ** 2)])[0]
    result: FloatArray = (returns[1:] / np.sqrt(variance[:-1]))[500:]
    return result


def momentum_t_stat(edge: float, symbol: str) -> float:
    """t-statistic, over all seeds, of trading each bar on the sign-free momentum of the bars before it."""
    decay = 0.5 ** (1.0 / MOMENTUM_HALF_LIFE_BARS)
    gains = []
    for seed in SEEDS:
        z = standardised(bars_of(symbol, seed, edge))
        gains.append(lfilter([1.0 - decay], [1.0, -decay], z)[:-1] * z[1:])
    pooled = np.concatenate(gains)
    return float(pooled.mean() / pooled.std() * np.sqrt(len(pooled)))


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_without_an_edge_the_mean_return_is_not_significant(symbol: str) -> None:
    pooled = np.concatenate([standardised(bars_of(symbol, seed, 0.0)) for seed in SEEDS])
    assert abs(pooled.mean() / pooled.std() * np.sqrt(len(pooled))) < 3.0


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_without_an_edge_no_regime_has_a_drift(symbol: str) -> None:
    for is_high in (False, True):
        pooled = []
        for seed in SEEDS:
            bars = bars_of(symbol, seed, 0.0)
            wide = np.log(bars.high / bars.low)
            before = lfilter([0.02], [1.0, -0.98], wide)[:-1]
            pooled.append(simple_returns(bars)[1:][(before > np.median(before)) == is_high])
        chosen = np.concatenate(pooled)
        assert abs(chosen.mean() / chosen.std() * np.sqrt(len(chosen))) < 3.0


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_momentum_earns_nothing_without_an_edge_and_is_plain_with_one(symbol: str) -> None:
    assert abs(momentum_t_stat(0.0, symbol)) < 3.0
    assert momentum_t_stat(0.05, symbol) > 10.0


@pytest.mark.parametrize("edge", [0.02, 0.05, 0.1])
def test_the_planted_edge_is_the_correlation_with_past_momentum(edge: float) -> None:
    noise = np.random.default_rng(3).standard_normal(2_000_000)
    returns, momentum = momentum_returns(noise, edge, 0.0)
    # The momentum that the process reports is the EWM of the returns that it gave out.
    decay = 0.5 ** (1.0 / MOMENTUM_HALF_LIFE_BARS)
    seen = lfilter([1.0 - decay], [1.0, -decay], returns)
    assert np.corrcoef(seen[:-1], returns[1:])[0, 1] == pytest.approx(edge, abs=0.003)
    assert np.corrcoef(seen, momentum)[0, 1] == pytest.approx(1.0, abs=1e-9)
    assert returns.std() == pytest.approx(1.0, abs=0.01)
    assert momentum.std() == pytest.approx(1.0, abs=0.03)


def test_the_planted_edge_shows_in_prices() -> None:
    decay = 0.5 ** (1.0 / MOMENTUM_HALF_LIFE_BARS)
    found = []
    for seed in SEEDS:
        z = standardised(bars_of("BTCUSDT", seed, 0.05))
        found.append(np.corrcoef(lfilter([1.0 - decay], [1.0, -decay], z)[:-1], z[1:])[0, 1])
    # Volatility is estimated, not known: a little of the edge is lost.
    assert np.mean(found) == pytest.approx(0.045, abs=0.008)


def test_no_edge_leaves_the_noise_as_it_is() -> None:
    noise = np.random.default_rng(5).standard_normal(1000)
    assert np.array_equal(momentum_returns(noise, 0.0, 0.7)[0], noise)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_returns_are_fat_tailed_and_volatility_clusters(symbol: str) -> None:
    returns = simple_returns(bars_of(symbol, 1, 0.0))
    z = returns / returns.std()
    assert np.mean(z**4) > 6.0
    size = np.abs(returns)
    assert np.corrcoef(size[1:], size[:-1])[0, 1] > 0.15
    assert np.corrcoef(size[24:], size[:-24])[0, 1] > 0.08


@pytest.mark.parametrize("interval", [timedelta(minutes=1), HOUR, timedelta(days=1)])
def test_the_annual_volatility_is_the_characters_at_every_interval(interval: timedelta) -> None:
    # Two regimes' worth of time differ a lot, so the mean square runs over seeds; minutes see few regimes.
    square = []
    for seed in range(60 if interval < HOUR else 12):
        source = SimulatedSource(("BTCUSDT",), interval, seed, 0.0)
        square.append(
            np.mean(simple_returns(source.bars("BTCUSDT", MARKET_START, MARKET_START + 4000 * interval)) ** 2)
        )
    annual = np.sqrt(np.mean(square) * (timedelta(days=365.25) / interval))
    assert annual == pytest.approx(character_of("BTCUSDT").annual_vol, rel=0.15)


def test_symbols_move_together() -> None:
    returns = []
    source = SimulatedSource(DEFAULT_SYMBOLS, HOUR, 2, 0.0)
    for symbol in DEFAULT_SYMBOLS:
        bars = source.bars(symbol, MARKET_START, MARKET_START + N_BARS * HOUR)
        row = ((bars.ts - bars.ts[0]) // np.timedelta64(HOUR)).astype(np.int64)
        line = np.full(N_BARS, np.nan)
        line[row] = np.log(bars.close / bars.open)
        returns.append(line)
    together = np.array(returns)
    together = together[:, ~np.isnan(together).any(axis=0)]
    pairs = np.corrcoef(together)[np.triu_indices(len(DEFAULT_SYMBOLS), 1)]
    assert 0.4 < pairs.min() < pairs.max() < 0.9


def test_a_bar_opens_at_the_close_before_it_across_chunks() -> None:
    bars = bars_of("BTCUSDT", 4, 0.03)
    is_next = np.diff(bars.ts) == np.timedelta64(HOUR)
    assert np.array_equal(bars.open[1:][is_next], bars.close[:-1][is_next])
    boundary = np.searchsorted(bars.ts, bars.ts[0] + np.arange(1, 4) * CHUNK_BARS * np.timedelta64(HOUR))
    assert is_next[boundary - 1].all()


def test_volatility_goes_on_across_chunks() -> None:
    # If a chunk began afresh, the sizes on both sides of its boundary would be unrelated.
    before, after = [], []
    for seed in range(60):
        source = SimulatedSource(("BTCUSDT",), HOUR, seed, 0.0)
        edge = MARKET_START + CHUNK_BARS * HOUR
        before.append(np.log(np.abs(simple_returns(source.bars("BTCUSDT", edge - 24 * HOUR, edge))).mean()))
        after.append(np.log(np.abs(simple_returns(source.bars("BTCUSDT", edge, edge + 24 * HOUR))).mean()))
    assert np.corrcoef(before, after)[0, 1] > 0.5


def test_the_range_of_a_bar_fits_its_volatility() -> None:
    bars = bars_of("BTCUSDT", 1, 0.0)
    parkinson = np.sqrt(np.mean(np.log(bars.high / bars.low) ** 2) / (4.0 * np.log(2.0)))
    assert parkinson / np.log(bars.close / bars.open).std() == pytest.approx(1.0, abs=0.05)


def test_volume_rises_with_the_size_of_the_move() -> None:
    bars = bars_of("BTCUSDT", 1, 0.0)
    assert np.corrcoef(np.log(bars.volume), np.log(bars.high / bars.low))[0, 1] > 0.3


def test_outages_are_rare_missing_rows_of_the_whole_market() -> None:
    source = SimulatedSource(SYMBOLS, HOUR, 3, 0.0)
    end = MARKET_START + 60_000 * HOUR
    missing = []
    for symbol in SYMBOLS:
        ts = source.bars(symbol, MARKET_START, end).ts
        every = ts[0] + np.arange(60_000) * np.timedelta64(HOUR)
        missing.append(set(np.setdiff1d(every, ts).tolist()))
    market_wide = missing[0] & missing[1]
    assert 5 < len(market_wide) < 100
    assert all(0 < len(own - market_wide) < 40 for own in missing)


def test_an_unlisted_symbol_has_a_character_of_its_own() -> None:
    one, other = character_of("DOGEUSDT"), character_of("AVAXUSDT")
    assert one != other
    assert all(0.6 <= c.annual_vol <= 1.0 and 0.65 <= c.loading <= 0.85 for c in (one, other))
