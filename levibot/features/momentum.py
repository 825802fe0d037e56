"""Past moves beyond the plain return: skipped, accelerated, efficient, seasonal, and the shape of the bar."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.bar_series import (
    absolute_return,
    log_body,
    log_gap,
    log_high,
    log_low,
    log_open,
    log_range,
    path_length,
    per_sigma,
    return_sign,
    return_spread,
)
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.returns import scaled_return
from levibot.features.rolling import change, lag, ratio
from levibot.features.rolling_pairs import rolling_ratio
from levibot.features.rolling_patterns import run_length
from levibot.features.windows import over, over_pairs
from levibot.market.bars import FloatArray

LONGEST_RUN = 24
BARS_A_DAY = 24


def skipped_return(inputs: Inputs, bars: int, skip_bars: int) -> FloatArray:
    """log(C[-skip_bars] / C[-bars]) / (sigma_slow · √(bars − skip_bars)): the newest moves left out."""
    change = lag(inputs.log_close, skip_bars) - lag(inputs.log_close, bars)
    return per_sigma(inputs, change, bars - skip_bars)


def acceleration(inputs: Inputs, bars: int) -> FloatArray:
    """The move of the last `bars` rows less that of the `bars` before, over sigma_slow · √(2 bars)."""
    middle = lag(inputs.log_close, bars)
    change = inputs.log_close - 2.0 * middle + lag(inputs.log_close, 2 * bars)
    return per_sigma(inputs, change, 2 * bars)


def path_efficiency(inputs: Inputs, bars: int) -> FloatArray:
    """Net log move over the sum of absolute ones: −1 to 1. NaN where nothing moved."""
    return ratio(change(inputs.log_close, bars), path_length(inputs, bars))


def sign_balance(inputs: Inputs, bars: int) -> FloatArray:
    """Rising less falling bars as a share of those that moved: −1 to 1."""
    sides = return_sign(inputs)
    return rolling_ratio(sides, np.abs(sides), bars)


def return_score(inputs: Inputs, bars: int) -> FloatArray:
    """t-statistic of the mean log return: mean · √bars / standard deviation. NaN where nothing moved."""
    spread = return_spread(inputs, bars)
    return ratio(spread.mean * math.sqrt(bars), spread.deviation)


def next_hour_return(inputs: Inputs, days: int) -> FloatArray:
    """What the hour to come brought on each of the last days: sum of log returns over sigma_slow · √days."""
    total = lag(inputs.log_return, BARS_A_DAY - 1)
    for day in range(2, days + 1):
        total = total + lag(inputs.log_return, BARS_A_DAY * day - 1)
    return per_sigma(inputs, total, days)


def run(inputs: Inputs, bars: int) -> FloatArray:
    """Bars in a row that moved to the side of the newest, signed, as a share of `bars`; at most `bars`."""
    return run_length(inputs.log_return, bars) / bars


def opening_gap(inputs: Inputs) -> FloatArray:
    """log(O / C[-1]) / sigma_slow."""
    return per_sigma(inputs, log_gap(inputs), 1)


def body(inputs: Inputs) -> FloatArray:
    """log(C / O) / sigma_slow."""
    return per_sigma(inputs, log_body(inputs), 1)


def upper_shadow(inputs: Inputs) -> FloatArray:
    """Part of the bar's log range above open and close. NaN for a bar without range."""
    top = np.maximum(log_open(inputs), inputs.log_close)
    return ratio(log_high(inputs) - top, log_range(inputs))


def lower_shadow(inputs: Inputs) -> FloatArray:
    """Part of the bar's log range below open and close. NaN for a bar without range."""
    bottom = np.minimum(log_open(inputs), inputs.log_close)
    return ratio(bottom - log_low(inputs), log_range(inputs))


def largest_move_share(inputs: Inputs, bars: int) -> FloatArray:
    """Squared returns over the square of the absolute path, times bars: 1 for even moves, `bars` for one."""
    squares = rolling_ratio(inputs.squared_return, absolute_return(inputs), bars)
    return ratio(squares * bars, path_length(inputs, bars))


MOMENTUM = (
    *over(
        (6, 96, 240),
        "returns",
        "return",
        scaled_return,
        unit="standard deviations",
        source="Moskowitz, Ooi & Pedersen 2012: past return over ex-ante volatility",
        more_bars=1,
        scaled=True,
    ),
    *over_pairs(
        ((168, 24), (672, 24), (1344, 168)),
        "returns",
        "skipped_return",
        skipped_return,
        parameters=("bars", "skip_bars"),
        rows=lambda bars, _: bars + 1,
        unit="standard deviations",
        source="Jegadeesh & Titman 1993: past return without its newest part",
        scaled=True,
    ),
    *(
        feature
        for bars in (24, 168)
        for feature in over(
            (bars,),
            "returns",
            "acceleration",
            acceleration,
            unit="standard deviations",
            source="Gettleman & Marks 2006: acceleration of momentum",
            more_bars=bars + 1,
            scaled=True,
        )
    ),
    *over(
        (24, 72, 168),
        "returns",
        "path_efficiency",
        path_efficiency,
        unit="share of the path",
        source="Kaufman 1995: efficiency ratio, signed, in logs",
        more_bars=1,
    ),
    *over(
        (24, 168),
        "returns",
        "sign_balance",
        sign_balance,
        unit="share of the bars that moved",
        source="Da, Gurun & Warachka 2014: days up against days down",
        more_bars=1,
    ),
    *over(
        (24, 168, 672),
        "returns",
        "return_score",
        return_score,
        unit="t-statistic",
        source="Sharpe 1994: mean over standard deviation",
        more_bars=1,
    ),
    *over(
        (24, 168),
        "returns",
        "largest_move_share",
        largest_move_share,
        unit="multiple of even moves",
        source="Herfindahl index of absolute returns (Da, Gurun & Warachka 2014: discreteness)",
        more_bars=1,
    ),
    Feature(
        name="next_hour_return_7",
        family="returns",
        unit="standard deviations",
        source="Heston, Korajczyk & Sadka 2010: intraday seasonality of returns; a day is 24 bars",
        inputs=("close",),
        window_bars=7 * BARS_A_DAY + 1,
        formula=next_hour_return,
        parameters=(("days", 7),),
        scaled=True,
    ),
    *over(
        (LONGEST_RUN,),
        "returns",
        "run",
        run,
        unit="share of the longest run counted",
        source="Wald & Wolfowitz 1940: runs",
        more_bars=1,
    ),
    Feature(
        name="opening_gap",
        family="returns",
        unit="standard deviations",
        source="Yang & Zhang 2000: the opening jump",
        inputs=("open", "close"),
        window_bars=2,
        formula=opening_gap,
        scaled=True,
    ),
    Feature(
        name="body",
        family="returns",
        unit="standard deviations",
        source="Nison 1991: the real body of a candle",
        inputs=("open", "close"),
        window_bars=1,
        formula=body,
        scaled=True,
    ),
    Feature(
        name="upper_shadow",
        family="returns",
        unit="share of the range",
        source="Nison 1991: the upper shadow of a candle",
        inputs=("open", "high", "low", "close"),
        window_bars=1,
        formula=upper_shadow,
    ),
    Feature(
        name="lower_shadow",
        family="returns",
        unit="share of the range",
        source="Nison 1991: the lower shadow of a candle",
        inputs=("open", "high", "low", "close"),
        window_bars=1,
        formula=lower_shadow,
    ),
)
