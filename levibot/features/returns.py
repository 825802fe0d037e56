"""Returns of the last hours and days, in standard deviations."""

from __future__ import annotations

from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.market.bars import FloatArray


def scaled_return(inputs: Inputs, bars: int) -> FloatArray:
    """log(C / C[-bars]) / (sigma_slow · √bars)."""
    return inputs.scaled_change(bars)


def _scaled_return(bars: int) -> Feature:
    return Feature(
        name=f"return_{bars}",
        family="returns",
        unit="standard deviations",
        source="Moskowitz, Ooi & Pedersen 2012: past return over ex-ante volatility",
        inputs=("close",),
        window_bars=bars + 1,
        formula=scaled_return,
        parameters=(("bars", bars),),
        scaled=True,
    )


RETURNS = tuple(_scaled_return(bars) for bars in (1, 2, 4, 8, 12, 24, 48, 72))
