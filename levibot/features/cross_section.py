"""The symbol's place among the others in the same row, and how far they lie apart.

A mean over symbols counts those that have a bar in the row and a value.
"""

from __future__ import annotations

import numpy as np

from levibot.features.bar_series import mean_square
from levibot.features.cross_asset import breadth, relative_return
from levibot.features.distribution import drawdown
from levibot.features.inputs import Inputs
from levibot.features.rolling import change, log_ratio
from levibot.features.rolling_cross import cross_rank
from levibot.features.volatility import vol_ratio
from levibot.features.volume import volume_ratio
from levibot.features.windows import over
from levibot.market.bars import FloatArray

VOLUME_PAST_BARS = 672


def dispersion(inputs: Inputs, bars: int) -> FloatArray:
    """Standard deviation over the symbols of their scaled returns; the same in every column."""
    own = inputs.scaled_change(bars)
    return np.sqrt(inputs.across(np.square(own - inputs.across(own))))


def return_place(inputs: Inputs, bars: int) -> FloatArray:
    """Share of the other symbols with a smaller scaled return; equal ones count half. NaN without others."""
    return cross_rank(inputs.scaled_change(bars), inputs.has_bar)


def advance(inputs: Inputs, bars: int) -> FloatArray:
    """Symbols that rose less those that fell over `bars` rows, as a share of all."""
    return inputs.across(np.sign(change(inputs.log_close, bars)))


def market_vol(inputs: Inputs, bars: int) -> FloatArray:
    """Mean over the symbols of the log of the window's volatility over sigma_slow."""
    return inputs.across(vol_ratio(inputs, bars))


def relative_vol(inputs: Inputs, bars: int) -> FloatArray:
    """Log volatility of the last returns less its mean over the symbols."""
    squares = mean_square(inputs, bars)
    own = 0.5 * log_ratio(squares, np.ones_like(squares))
    return own - inputs.across(own)


def relative_volume(inputs: Inputs, bars: int) -> FloatArray:
    """Log volume against that of VOLUME_PAST_BARS, less the mean of this over the symbols."""
    own = volume_ratio(inputs, bars, VOLUME_PAST_BARS)
    return own - inputs.across(own)


def market_drawdown(inputs: Inputs, bars: int) -> FloatArray:
    """Mean over the symbols of their distance from the window's highest close, in standard deviations."""
    return inputs.across(drawdown(inputs, bars))


CROSS_SECTION = (
    *over(
        (1, 24, 168),
        "cross_asset",
        "dispersion",
        dispersion,
        unit="standard deviations",
        source="Stivers & Sun 2010: return dispersion",
        reads_others=True,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (1, 8),
        "cross_asset",
        "relative_return",
        relative_return,
        unit="standard deviations",
        source="Jegadeesh & Titman 1993: past return against the cross-section, here scaled by volatility",
        reads_others=True,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (24, 168),
        "cross_asset",
        "return_place",
        return_place,
        unit="share of the other symbols",
        source="Jegadeesh & Titman 1993: rank of the past return",
        reads_others=True,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (24, 672),
        "cross_asset",
        "breadth",
        breadth,
        unit="share of symbols",
        source="Zaremba, Szyszka, Karathanasopoulos & Mikutowski 2021: market breadth",
        reads_others=True,
    ),
    *over(
        (1, 24),
        "cross_asset",
        "advance",
        advance,
        unit="share of symbols",
        source="Zaremba, Szyszka, Karathanasopoulos & Mikutowski 2021: advances less declines",
        reads_others=True,
        more_bars=1,
    ),
    *over(
        (24,),
        "cross_asset",
        "market_vol",
        market_vol,
        unit="log ratio",
        source="Moreira & Muir 2017: volatility of the market, against the slow one",
        reads_others=True,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (24, 168),
        "cross_asset",
        "relative_vol",
        relative_vol,
        unit="log ratio",
        source="realised volatility (Andersen & Bollerslev 1998) against the cross-section",
        reads_others=True,
        more_bars=1,
    ),
    *over(
        (24,),
        "cross_asset",
        "relative_volume",
        relative_volume,
        unit="log ratio",
        source="Gervais, Kaniel & Mingelgrin 2001: volume against its own past, and the cross-section",
        reads_others=True,
        inputs=("close", "volume"),
        more_bars=VOLUME_PAST_BARS - 24,
    ),
    *over(
        (168,),
        "cross_asset",
        "market_drawdown",
        market_drawdown,
        unit="standard deviations",
        source="Grossman & Zhou 1993: drawdown, mean of the symbols",
        reads_others=True,
        scaled=True,
    ),
)
