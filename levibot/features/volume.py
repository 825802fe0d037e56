"""How much is traded, on which side, and what it moves. Volume is in quote currency."""

from __future__ import annotations

from levibot.features.bar_series import absolute_return, mean_dollars, signed_volume_series
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import log_ratio
from levibot.features.rolling_pairs import rolling_ratio
from levibot.market.bars import FloatArray


def volume_ratio(inputs: Inputs, bars: int, past_bars: int) -> FloatArray:
    """log of the mean dollar volume of `bars` over that of `past_bars`. NaN where `bars` had no trade."""
    return log_ratio(mean_dollars(inputs, bars), mean_dollars(inputs, past_bars))


def signed_volume(inputs: Inputs, bars: int) -> FloatArray:
    """Dollar volume of rising bars less that of falling ones, as a share of all: −1 to 1."""
    return rolling_ratio(signed_volume_series(inputs), inputs.dollar_volume, bars)


def illiquidity_ratio(inputs: Inputs, bars: int, past_bars: int) -> FloatArray:
    """log of the absolute return per dollar traded in `bars` over the same of `past_bars`.

    Sums are divided, not bars averaged, so that a bar without trade breaks nothing.
    """
    return log_ratio(_illiquidity(inputs, bars), _illiquidity(inputs, past_bars))


def close_location(inputs: Inputs, bars: int) -> FloatArray:
    """Where closes lie in their bars' ranges, −1 (at the lows) to 1 (at the highs).

    Σ(2C − H − L) / Σ(H − L) over the window. NaN where no bar of the window has a range.
    """
    place = 2.0 * inputs.close - inputs.high - inputs.low
    return rolling_ratio(place, inputs.high - inputs.low, bars)


def _illiquidity(inputs: Inputs, bars: int) -> FloatArray:
    return rolling_ratio(absolute_return(inputs), inputs.dollar_volume, bars)


def _volume_ratio(bars: int, past_bars: int) -> Feature:
    return Feature(
        name=f"volume_ratio_{bars}_{past_bars}",
        family="volume",
        unit="log ratio",
        source="Gervais, Kaniel & Mingelgrin 2001: volume against its own past",
        inputs=("close", "volume"),
        window_bars=past_bars,
        formula=volume_ratio,
        parameters=(("bars", bars), ("past_bars", past_bars)),
    )


def _signed_volume(bars: int) -> Feature:
    return Feature(
        name=f"signed_volume_{bars}",
        family="volume",
        unit="share of volume",
        source="Granville 1963: on-balance volume, as a share of all volume",
        inputs=("close", "volume"),
        window_bars=bars + 1,
        formula=signed_volume,
        parameters=(("bars", bars),),
    )


VOLUME = (
    _volume_ratio(4, 168),
    _volume_ratio(24, 168),
    _volume_ratio(24, 672),
    _signed_volume(24),
    _signed_volume(168),
    Feature(
        name="illiquidity_ratio_24_672",
        family="volume",
        unit="log ratio",
        source="Amihud 2002: absolute return over dollar volume",
        inputs=("close", "volume"),
        window_bars=673,
        formula=illiquidity_ratio,
        parameters=(("bars", 24), ("past_bars", 672)),
    ),
    Feature(
        name="close_location_24",
        family="volume",
        unit="share of the range",
        source="Chaikin: close location value, summed over the window",
        inputs=("high", "low", "close"),
        window_bars=24,
        formula=close_location,
        parameters=(("bars", 24),),
    ),
)
