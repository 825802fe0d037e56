"""Volume features against loops over one symbol."""

from __future__ import annotations

import math

import pytest


def dollars(small_market, symbol: int, bars: int) -> list[float]:
    return [small_market.volume[row, symbol] * small_market.close[row, symbol] for row in range(-bars, 0)]


def moves(small_market, symbol: int, bars: int) -> list[float]:
    close = small_market.close[:, symbol]
    return [math.log(close[row] / close[row - 1]) for row in range(-bars, 0)]


@pytest.mark.parametrize(("bars", "past_bars"), [(4, 168), (24, 168), (24, 672)])
def test_volume_is_compared_with_its_past_in_dollars(small_market, core_values, bars, past_bars) -> None:
    recent = sum(dollars(small_market, 1, bars)) / bars
    past = sum(dollars(small_market, 1, past_bars)) / past_bars
    assert core_values[f"volume_ratio_{bars}_{past_bars}"][-1, 1] == pytest.approx(math.log(recent / past))


@pytest.mark.parametrize("bars", [24, 168])
def test_signed_volume_takes_the_side_of_the_bar(small_market, core_values, bars) -> None:
    traded = dollars(small_market, 0, bars)
    signed = [v if r > 0 else -v for v, r in zip(traded, moves(small_market, 0, bars), strict=True)]
    assert core_values[f"signed_volume_{bars}"][-1, 0] == pytest.approx(sum(signed) / sum(traded))


def test_illiquidity_is_the_move_a_dollar_makes(small_market, core_values) -> None:
    def illiquidity(bars: int) -> float:
        return sum(abs(r) for r in moves(small_market, 2, bars)) / sum(dollars(small_market, 2, bars))

    expected = math.log(illiquidity(24) / illiquidity(672))
    assert core_values["illiquidity_ratio_24_672"][-1, 2] == pytest.approx(expected)


def test_close_location_is_one_at_the_highs(small_market, core_values) -> None:
    up = down = 0.0
    for row in range(-24, 0):
        up += small_market.close[row, 0] - small_market.low[row, 0]
        down += small_market.high[row, 0] - small_market.close[row, 0]
    assert core_values["close_location_24"][-1, 0] == pytest.approx((up - down) / (up + down))
