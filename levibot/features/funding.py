"""What holding a perpetual contract costs. Missing, never zero, where no funding rates are read.

A row has the last rate that was paid by its close (see levibot/market/side_series.py).
"""

from __future__ import annotations

import numpy as np

from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import change, ratio, rolling_mean, rolling_sum
from levibot.features.rolling_moments import rolling_spread
from levibot.features.windows import over
from levibot.market.bars import FloatArray
from levibot.market.side_series import FUNDING_PERIOD, FUNDING_RATE

UNIT = "share of the notional a period of 8 hours"
SOURCE = "He, Manela, Ross & von Wachter 2022: funding of perpetual futures"


def funding_rate(inputs: Inputs) -> FloatArray:
    """The last rate paid; longs pay a positive one."""
    return inputs.extra(FUNDING_RATE)


def funding_mean(inputs: Inputs, bars: int) -> FloatArray:
    """Mean over the window of the rate in force."""
    return rolling_mean(inputs.extra(FUNDING_RATE), bars)


def funding_score(inputs: Inputs, bars: int) -> FloatArray:
    """Rate less its mean of the window, in the window's standard deviations. NaN while it does not change."""
    rate = inputs.extra(FUNDING_RATE)
    spread = rolling_spread(rate, bars)
    return ratio(rate - spread.mean, spread.deviation)


def funding_change(inputs: Inputs, bars: int) -> FloatArray:
    """Rate less that of `bars` rows before."""
    rate = inputs.extra(FUNDING_RATE)
    return change(rate, bars)


def funding_paid(inputs: Inputs, bars: int) -> FloatArray:
    """What a long position paid over the window: each row its part of the period's rate."""
    part = inputs.panel.interval / FUNDING_PERIOD
    return rolling_sum(inputs.extra(FUNDING_RATE), bars) * part


def relative_funding(inputs: Inputs) -> FloatArray:
    """Rate less its mean over the symbols."""
    rate = inputs.extra(FUNDING_RATE)
    return rate - inputs.across(rate)


def market_funding(inputs: Inputs) -> FloatArray:
    """Mean rate over the symbols; the same in every column."""
    return inputs.across(inputs.extra(FUNDING_RATE))


def funding_carry(inputs: Inputs, bars: int) -> FloatArray:
    """Mean rate of the window over the volatility of a period: what a long pays for a unit of risk."""
    periods = FUNDING_PERIOD / inputs.panel.interval
    return ratio(rolling_mean(inputs.extra(FUNDING_RATE), bars), inputs.sigma_slow * np.sqrt(periods))


FUNDING = (
    Feature(
        name="funding_rate",
        family="funding",
        unit=UNIT,
        source=SOURCE,
        inputs=(FUNDING_RATE,),
        window_bars=1,
        formula=funding_rate,
    ),
    *over(
        (24, 72, 168),
        "funding",
        "funding_mean",
        funding_mean,
        unit=UNIT,
        source=SOURCE,
        inputs=(FUNDING_RATE,),
    ),
    *over(
        (168, 720),
        "funding",
        "funding_score",
        funding_score,
        unit="standard deviations of the window",
        source=SOURCE,
        inputs=(FUNDING_RATE,),
    ),
    *over(
        (24, 168),
        "funding",
        "funding_change",
        funding_change,
        unit=UNIT,
        source=SOURCE,
        inputs=(FUNDING_RATE,),
        more_bars=1,
    ),
    *over(
        (720,),
        "funding",
        "funding_paid",
        funding_paid,
        unit="share of the notional",
        source=SOURCE,
        inputs=(FUNDING_RATE,),
    ),
    *over(
        (168,),
        "funding",
        "funding_carry",
        funding_carry,
        unit="standard deviations",
        source="Koijen, Moskowitz, Pedersen & Vrugt 2018: carry",
        inputs=("close", FUNDING_RATE),
        scaled=True,
    ),
    *(
        Feature(
            name=name,
            family="funding",
            unit=UNIT,
            source=SOURCE,
            inputs=("close", FUNDING_RATE),
            window_bars=1,
            formula=formula,
            reads_others=True,
        )
        for name, formula in (("relative_funding", relative_funding), ("market_funding", market_funding))
    ),
)
