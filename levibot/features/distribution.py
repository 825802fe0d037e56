"""The distribution of past returns and prices: shape, ranks, drawdowns, age of the extremes."""

from __future__ import annotations

import numpy as np

from levibot.features.bar_series import absolute_return, mean_square, path_length, per_sigma, return_shape
from levibot.features.inputs import Inputs
from levibot.features.rolling import log_ratio, ratio, rolling_max, rolling_min
from levibot.features.rolling_extremes import bars_since_max, bars_since_min, rolling_drawdown, rolling_rank
from levibot.features.rolling_pairs import rolling_ratio
from levibot.features.windows import over, over_pairs
from levibot.market.bars import FloatArray

DAY_BARS = 24


def skewness(inputs: Inputs, bars: int) -> FloatArray:
    """Skewness of the last log returns about their mean. NaN where nothing moved."""
    return return_shape(inputs, bars).skewness


def kurtosis(inputs: Inputs, bars: int) -> FloatArray:
    """Excess kurtosis of the last log returns. NaN where nothing moved."""
    return return_shape(inputs, bars).kurtosis


def largest_return_share(inputs: Inputs, bars: int) -> FloatArray:
    """Largest absolute return of the window over the sum of all. NaN where nothing moved."""
    return ratio(rolling_max(absolute_return(inputs), bars), path_length(inputs, bars))


def gain_loss_size(inputs: Inputs, bars: int) -> FloatArray:
    """log of the mean gain over the mean loss. NaN in a window without one of them."""

    def gains() -> FloatArray:
        return np.maximum(inputs.log_return, 0.0)

    def losses() -> FloatArray:
        return np.maximum(-inputs.log_return, 0.0)

    up, down = inputs.shared("gains", gains), inputs.shared("losses", losses)
    # sign() keeps NaN.
    return log_ratio(rolling_ratio(up, np.sign(up), bars), rolling_ratio(down, np.sign(down), bars))


def close_rank(inputs: Inputs, values: int, stride: int) -> FloatArray:
    """Share of `values` past closes, every `stride`-th, that lie below the newest; equal ones count half."""
    return rolling_rank(inputs.log_close, values, stride)


def return_rank(inputs: Inputs, values: int, stride: int) -> FloatArray:
    """Share of `values` past one-bar returns that lie below the newest; an equal one counts half."""
    return rolling_rank(inputs.log_return, values, stride)


def vol_rank(inputs: Inputs, values: int, stride: int) -> FloatArray:
    """Share of the volatilities of `values` past days (of `stride` returns) that lie below the newest."""
    return rolling_rank(mean_square(inputs, stride), values, stride)


def drawdown(inputs: Inputs, bars: int) -> FloatArray:
    """log(C / highest close of the window) over sigma_slow · √bars, ≤ 0."""
    return per_sigma(inputs, inputs.log_close - rolling_max(inputs.log_close, bars), bars)


def rebound(inputs: Inputs, bars: int) -> FloatArray:
    """log(C / lowest close of the window) over sigma_slow · √bars, ≥ 0."""
    return per_sigma(inputs, inputs.log_close - rolling_min(inputs.log_close, bars), bars)


def max_drawdown(inputs: Inputs, bars: int) -> FloatArray:
    """Deepest fall of the log close within the window over sigma_slow · √bars, ≥ 0."""
    return per_sigma(inputs, rolling_drawdown(inputs.log_close, bars), bars)


def since_high(inputs: Inputs, bars: int) -> FloatArray:
    """Age of the window's highest high as a share of the window: 0 now, 1 at its beginning."""
    return bars_since_max(inputs.high, bars) / (bars - 1)


def since_low(inputs: Inputs, bars: int) -> FloatArray:
    """Age of the window's lowest low as a share of the window: 0 now, 1 at its beginning."""
    return bars_since_min(inputs.low, bars) / (bars - 1)


def _rows_of_rank(values: int, stride: int) -> int:
    return values * stride + 1


DISTRIBUTION = (
    *over(
        (168, 672),
        "distribution",
        "skewness",
        skewness,
        unit="skewness",
        source="third standardised moment (Pearson 1895)",
        more_bars=1,
    ),
    *over(
        (168, 672),
        "distribution",
        "kurtosis",
        kurtosis,
        unit="excess kurtosis",
        source="fourth standardised moment (Pearson 1905)",
        more_bars=1,
    ),
    *over(
        (24, 168),
        "distribution",
        "largest_return_share",
        largest_return_share,
        unit="share of the path",
        source="largest of the absolute returns (Embrechts, Klüppelberg & Mikosch 1997: max over sum)",
        more_bars=1,
    ),
    *over(
        (168,),
        "distribution",
        "gain_loss_size",
        gain_loss_size,
        unit="log ratio",
        source="Bernardo & Ledoit 2000: gain against loss, a bar",
        more_bars=1,
    ),
    *over_pairs(
        ((24, 1), (24, 7), (28, 24)),
        "distribution",
        "close_rank",
        close_rank,
        parameters=("values", "stride"),
        rows=_rows_of_rank,
        unit="share of the past closes",
        source="empirical distribution function",
    ),
    *over_pairs(
        ((24, 1),),
        "distribution",
        "return_rank",
        return_rank,
        parameters=("values", "stride"),
        rows=lambda values, stride: _rows_of_rank(values, stride) + 1,
        unit="share of the past returns",
        source="empirical distribution function",
    ),
    *over_pairs(
        ((28, DAY_BARS),),
        "distribution",
        "vol_rank",
        vol_rank,
        parameters=("values", "stride"),
        # The oldest volatility compared reads a day of returns itself.
        rows=lambda values, stride: _rows_of_rank(values, stride) + stride,
        unit="share of the past days",
        source="empirical distribution function of realised volatility",
    ),
    *over(
        (24, 168),
        "distribution",
        "drawdown",
        drawdown,
        unit="standard deviations",
        source="Grossman & Zhou 1993: drawdown; George & Hwang 2004: distance from the high",
        scaled=True,
    ),
    *over(
        (24, 168),
        "distribution",
        "rebound",
        rebound,
        unit="standard deviations",
        source="George & Hwang 2004: distance from the low",
        scaled=True,
    ),
    *over(
        (168, 672),
        "distribution",
        "max_drawdown",
        max_drawdown,
        unit="standard deviations",
        source="Magdon-Ismail & Atiya 2004: maximum drawdown",
        scaled=True,
    ),
    *over(
        (168,),
        "distribution",
        "since_high",
        since_high,
        unit="share of the window",
        source="Bhootra & Hur 2013: how recent the high is; Chande 1995: Aroon up",
        inputs=("high",),
    ),
    *over(
        (168,),
        "distribution",
        "since_low",
        since_low,
        unit="share of the window",
        source="Chande 1995: Aroon down",
        inputs=("low",),
    ),
)
