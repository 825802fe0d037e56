from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.market_days import WINDOW_DAYS, market_days
from levibot.market.bars import Panel

START = np.datetime64("2024-01-01", "us")


def panel(n_bars: int, n_symbols: int = 3, seed: int = 0) -> Panel:
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(0.01 * rng.normal(size=(n_bars, n_symbols)), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    ts = START + np.arange(n_bars) * np.timedelta64(1, "h")
    symbols = tuple(f"C{s}USDT" for s in range(n_symbols))
    volume = np.exp(rng.normal(size=close.shape))
    return Panel(
        symbols,
        timedelta(hours=1),
        ts,
        opened,
        np.maximum(opened, close),
        np.minimum(opened, close),
        close,
        volume,
    )


def test_a_day_is_what_happened_between_two_midnights() -> None:
    bars = panel(72)
    days = market_days(bars)
    assert days.day.tolist() == np.arange("2024-01-01", "2024-01-04", dtype="datetime64[D]").tolist()
    moved = np.log(bars.close[47] / bars.close[23])
    assert days.market_return[1] == pytest.approx(moved.mean())
    assert days.dispersion[1] == pytest.approx(moved.std())
    assert days.log_value[1] == pytest.approx(np.log((bars.close * bars.volume)[24:48].sum()))
    hourly = np.diff(np.log(bars.close), axis=0).mean(axis=1)[23:47]
    assert days.volatility[1] == pytest.approx(np.sqrt(np.mean(hourly**2) * 24 * 365))
    assert (days.available_at == days.day + np.timedelta64(1, "D")).all()


def test_an_unfinished_day_is_no_day() -> None:
    assert len(market_days(panel(71))) == 2
    assert len(market_days(panel(5))) == 0


def test_a_day_without_bars_is_missing_and_not_quiet() -> None:
    bars = panel(24 * 10)
    keep = np.ones(240, np.bool_)
    keep[72:96] = False
    days = market_days(bars.rows(keep))
    assert len(days) == 10
    for column in (days.market_return, days.volatility, days.log_value, days.dispersion):
        assert np.isnan(column[3])
    assert np.isfinite(days.market_return[4])


def test_a_window_says_of_its_last_day_what_the_history_says() -> None:
    bars = panel(24 * 120)
    whole, tail = market_days(bars), market_days(bars.rows(slice(24 * (119 - WINDOW_DAYS), None)))
    np.testing.assert_allclose(tail.regime_observations()[-1], whole.regime_observations()[-1], rtol=1e-9)
    np.testing.assert_allclose(tail.router_columns()[1][-1], whole.router_columns()[1][-1], rtol=1e-9)
    assert np.isfinite(whole.regime_observations()[60:]).all()
    assert np.isnan(whole.regime_observations()[:44]).any(axis=1).all()


def test_a_market_that_stands_still_is_not_observed() -> None:
    bars = panel(24 * 60)
    still = Panel(bars.symbols, bars.interval, bars.ts, *(np.full_like(bars.close, 5.0),) * 4, bars.volume)
    assert np.isnan(market_days(still).regime_observations()).all()


def test_no_bars_are_refused() -> None:
    with pytest.raises(DataError):
        market_days(panel(24).rows(slice(0, 0)))
