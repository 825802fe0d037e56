"""Where the volume goes: pressure, volume-weighted prices, surprises, and its tie to the price."""

from __future__ import annotations

import numpy as np

from levibot.features.bar_series import (
    absolute_return,
    dollar_spread,
    mean_dollars,
    per_sigma,
    volume,
)
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import lag, log_ratio, ratio, rolling_sum
from levibot.features.rolling_moments import rolling_line
from levibot.features.rolling_pairs import rolling_ratio, rolling_regression
from levibot.features.volume import signed_volume
from levibot.features.windows import over
from levibot.market.bars import FloatArray

WITH_VOLUME = ("close", "volume")
BARS_A_DAY = 24


def chaikin_flow(inputs: Inputs, bars: int) -> FloatArray:
    """Dollar volume weighted with the close's place in the bar, over all of it: −1 to 1.

    A bar without range adds volume and no flow.
    """

    def flow() -> FloatArray:
        place = ratio(2.0 * inputs.close - inputs.high - inputs.low, inputs.high - inputs.low)
        return np.where(inputs.high > inputs.low, place, 0.0) * inputs.dollar_volume

    return rolling_ratio(inputs.shared("chaikin_flow", flow), inputs.dollar_volume, bars)


def vwap_gap(inputs: Inputs, bars: int) -> FloatArray:
    """log(C / volume-weighted close of the window) over sigma_slow · √bars. NaN where nothing was traded."""
    average = rolling_ratio(inputs.dollar_volume, volume(inputs), bars)
    return per_sigma(inputs, log_ratio(inputs.close, average), bars)


def force(inputs: Inputs, bars: int) -> FloatArray:
    """Volume-weighted mean of the log returns over sigma_slow. NaN where nothing was traded."""

    def moved() -> FloatArray:
        return inputs.log_return * inputs.dollar_volume

    weighted = rolling_ratio(inputs.shared("force", moved), inputs.dollar_volume, bars)
    return ratio(weighted, inputs.sigma_slow)


def volume_score(inputs: Inputs, bars: int) -> FloatArray:
    """The bar's dollar volume less its mean of the window, in the window's standard deviations."""
    spread = dollar_spread(inputs, bars)
    return ratio(inputs.dollar_volume - spread.mean, spread.deviation)


def volume_variation(inputs: Inputs, bars: int) -> FloatArray:
    """Standard deviation of dollar volume over its mean. NaN where nothing was traded."""
    spread = dollar_spread(inputs, bars)
    return ratio(spread.deviation, spread.mean)


def volume_slope(inputs: Inputs, bars: int) -> FloatArray:
    """Slope of the line through the dollar volumes, over the window, in means of the window."""
    return ratio(rolling_line(inputs.dollar_volume, bars).slope * bars, mean_dollars(inputs, bars))


def price_volume_correlation(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of returns with dollar volume."""
    return rolling_regression(inputs.log_return, inputs.dollar_volume, bars).correlation


def move_volume_correlation(inputs: Inputs, bars: int) -> FloatArray:
    """Correlation of absolute returns with dollar volume."""
    return rolling_regression(absolute_return(inputs), inputs.dollar_volume, bars).correlation


def quiet_return(inputs: Inputs, bars: int) -> FloatArray:
    """Log returns of the bars with less volume than the bar before, over sigma_slow · √bars."""
    calmer = volume(inputs) < lag(volume(inputs), 1)
    return per_sigma(inputs, rolling_sum(np.where(calmer, inputs.log_return, _zero(inputs)), bars), bars)


def loud_return(inputs: Inputs, bars: int) -> FloatArray:
    """Log returns of the bars with more volume than the bar before, over sigma_slow · √bars."""
    louder = volume(inputs) > lag(volume(inputs), 1)
    return per_sigma(inputs, rolling_sum(np.where(louder, inputs.log_return, _zero(inputs)), bars), bars)


def volume_momentum(inputs: Inputs, bars: int) -> FloatArray:
    """log of the dollar volume of the last `bars` over that of the `bars` before. NaN without trade."""
    recent = mean_dollars(inputs, bars)
    return log_ratio(recent, lag(recent, bars))


def same_hour_volume(inputs: Inputs, days: int) -> FloatArray:
    """log of the bar's dollar volume over its mean at the same hour of the last days. NaN without trade."""
    past = lag(inputs.dollar_volume, BARS_A_DAY)
    for day in range(2, days + 1):
        past = past + lag(inputs.dollar_volume, BARS_A_DAY * day)
    return log_ratio(inputs.dollar_volume, past / days)


def _zero(inputs: Inputs) -> FloatArray:
    """Zero where the return is known, NaN elsewhere."""
    return inputs.shared("zero_return", lambda: 0.0 * inputs.log_return)


FLOW = (
    *over(
        (24, 168),
        "volume",
        "chaikin_flow",
        chaikin_flow,
        unit="share of volume",
        source="Chaikin money flow: accumulation and distribution over the window",
        inputs=("high", "low", "close", "volume"),
    ),
    *over(
        (72,),
        "volume",
        "signed_volume",
        signed_volume,
        unit="share of volume",
        source="Granville 1963: on-balance volume, as a share of all volume",
        inputs=WITH_VOLUME,
        more_bars=1,
    ),
    *over(
        (24, 168),
        "volume",
        "vwap_gap",
        vwap_gap,
        unit="standard deviations",
        source="Berkowitz, Logue & Noser 1988: volume-weighted average price",
        inputs=WITH_VOLUME,
        scaled=True,
    ),
    *over(
        (24, 168),
        "volume",
        "force",
        force,
        unit="standard deviations",
        source="Elder 1993: force index, a unit of volume",
        inputs=WITH_VOLUME,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (24, 168),
        "volume",
        "volume_score",
        volume_score,
        unit="standard deviations of the window",
        source="Gervais, Kaniel & Mingelgrin 2001: unusual volume",
        inputs=WITH_VOLUME,
    ),
    *over(
        (168,),
        "volume",
        "volume_variation",
        volume_variation,
        unit="ratio",
        source="Chordia, Subrahmanyam & Anshuman 2001: variability of trading activity",
        inputs=WITH_VOLUME,
    ),
    *over(
        (168,),
        "volume",
        "volume_slope",
        volume_slope,
        unit="means of the window",
        source="least-squares line through dollar volume",
        inputs=WITH_VOLUME,
    ),
    *over(
        (168,),
        "volume",
        "price_volume_correlation",
        price_volume_correlation,
        unit="correlation",
        source="Karpoff 1987: price change and volume",
        inputs=WITH_VOLUME,
        more_bars=1,
    ),
    *over(
        (168,),
        "volume",
        "move_volume_correlation",
        move_volume_correlation,
        unit="correlation",
        source="Karpoff 1987: absolute price change and volume",
        inputs=WITH_VOLUME,
        more_bars=1,
    ),
    *over(
        (168,),
        "volume",
        "quiet_return",
        quiet_return,
        unit="standard deviations",
        source="Dysart 1936 (Fosback 1976): negative volume index, over the window",
        inputs=WITH_VOLUME,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (168,),
        "volume",
        "loud_return",
        loud_return,
        unit="standard deviations",
        source="Dysart 1936 (Fosback 1976): positive volume index, over the window",
        inputs=WITH_VOLUME,
        more_bars=1,
        scaled=True,
    ),
    *over(
        (24,),
        "volume",
        "volume_momentum",
        volume_momentum,
        unit="log ratio",
        source="Gervais, Kaniel & Mingelgrin 2001: volume against its own past",
        inputs=WITH_VOLUME,
        more_bars=24,
    ),
    Feature(
        name="same_hour_volume_7",
        family="volume",
        unit="log ratio",
        source="Admati & Pfleiderer 1988: intraday pattern of volume; a day is 24 bars",
        inputs=WITH_VOLUME,
        window_bars=7 * BARS_A_DAY + 1,
        formula=same_hour_volume,
        parameters=(("days", 7),),
    ),
)
