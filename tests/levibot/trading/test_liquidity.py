"""What an order's impact is measured by: known before its bar, and always known."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel
from levibot.trading.liquidity import trailing_liquidity

HOUR = timedelta(hours=1)


def panel(close: FloatArray, volume: FloatArray) -> Panel:
    ts = np.datetime64("2020-01-01", "us") + np.arange(len(close)) * np.timedelta64(HOUR)
    return Panel(("A", "B"), HOUR, ts, close, close, close, close, volume)


@pytest.fixture
def market() -> Panel:
    rng = np.random.default_rng(3)
    close = np.exp(np.cumsum(rng.normal(0.0, 0.02, (200, 2)), axis=0))
    volume = rng.lognormal(5.0, 1.0, (200, 2))
    gaps = rng.random((200, 2)) < 0.1
    gaps[:40, 1] = True
    return panel(np.where(gaps, np.nan, close), np.where(gaps, np.nan, volume))


def test_it_is_the_mean_volume_and_root_mean_square_move_of_the_rows_before(market: Panel) -> None:
    found = trailing_liquidity(market, 24)
    moves = np.diff(np.log(market.close), axis=0, prepend=np.nan)
    for t in (100, 199):
        np.testing.assert_allclose(found.volume[t], np.nanmean(market.volume[t - 24 : t], axis=0))
        np.testing.assert_allclose(
            found.volatility[t], np.sqrt(np.nanmean(moves[t - 24 : t] ** 2, axis=0)), rtol=1e-12
        )


@pytest.mark.parametrize("cut", [60, 120, 199])
def test_no_later_bar_changes_it(market: Panel, cut: int) -> None:
    whole, early = trailing_liquidity(market), trailing_liquidity(market.rows(slice(0, cut)))
    np.testing.assert_array_equal(whole.volume[:cut], early.volume)
    np.testing.assert_array_equal(whole.volatility[:cut], early.volatility)


def test_it_is_known_everywhere_also_before_a_listing_and_without_volume() -> None:
    close, volume = np.exp(np.arange(120.0).reshape(60, 2) / 100.0), np.ones((60, 2))
    close[:30, 1] = np.nan
    volume[20:50, 0] = 0.0
    found = trailing_liquidity(panel(close, volume), 5)
    assert np.isfinite(found.volume).all()
    assert (found.volume > 0.0).all()
    assert (found.volatility > 0.0).all()
    assert found.volume[45, 0] == found.volume[24, 0] == pytest.approx(0.2)


def test_a_market_without_volume_or_moves_is_refused() -> None:
    still, some = np.ones((50, 2)), np.exp(np.arange(100.0).reshape(50, 2) / 100.0)
    with pytest.raises(DataError, match="A shows no volume"):
        trailing_liquidity(panel(some, np.zeros((50, 2))))
    with pytest.raises(DataError, match="A shows no move"):
        trailing_liquidity(panel(still, still))
    with pytest.raises(DataError, match="window is 1"):
        trailing_liquidity(panel(some, still), 1)
