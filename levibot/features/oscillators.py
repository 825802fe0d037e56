"""Oscillators: where the price stands in its last swing."""

from __future__ import annotations

import numpy as np

from levibot.features.bar_series import (
    bars_are_flat,
    close_stands,
    log_body,
    log_high,
    log_low,
    log_range,
    per_sigma,
    volume,
)
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import (
    log,
    ratio,
    rolling_max,
    rolling_mean,
    rolling_min,
    rolling_sum,
)
from levibot.features.rolling_pairs import rolling_ratio
from levibot.features.talib_series import (
    EMA_CHAIN_SPANS,
    STANDSTILL_LENGTHS,
    WILDER_LENGTHS,
    ema_rows,
    talib_series,
)
from levibot.features.windows import over
from levibot.market.bars import FloatArray

SMOOTHED_BARS = 3
# An RSI that does not move is a standing price; what is left is rounding.
SMALLEST_RSI_RANGE = 1e-6
ELDER_SPAN = 13
ULTIMATE = (7, 14, 28)


def rsi(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's relative strength index, 0 to 100. NaN when the price stood for STANDSTILL_LENGTHS · bars."""
    return inputs.shared(
        ("rsi", bars),
        lambda: talib_series(
            "RSI",
            (inputs.close,),
            WILDER_LENGTHS * bars,
            {"timeperiod": bars},
            unknown=close_stands(inputs, STANDSTILL_LENGTHS * bars),
        ),
    )


def stochastic(inputs: Inputs, bars: int) -> FloatArray:
    """Mean of TA-Lib's last three fast %K: slow %K, 0 to 100. NaN if one of them had no range."""
    return inputs.shared(("stochastic", bars), lambda: rolling_mean(_fast_k(inputs, bars), SMOOTHED_BARS))


def stochastic_signal(inputs: Inputs, bars: int) -> FloatArray:
    """Slow %K less its mean of three, %D, in percent."""
    k = stochastic(inputs, bars)
    return k - rolling_mean(k, SMOOTHED_BARS)


def williams_r(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's Williams %R, −100 to 0. NaN where the window has no range."""
    fields = (inputs.high, inputs.low, inputs.close)
    return talib_series("WILLR", fields, bars, {"timeperiod": bars}, unknown=bars_are_flat(inputs, bars))


def cci(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's commodity channel index. NaN where the window has no range."""
    fields = (inputs.high, inputs.low, inputs.close)
    return talib_series("CCI", fields, bars, {"timeperiod": bars}, unknown=bars_are_flat(inputs, bars))


def money_flow(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's money flow index, 0 to 100. NaN where the window has no volume or no range."""
    fields = (inputs.high, inputs.low, inputs.close, volume(inputs))
    untraded = (rolling_sum(volume(inputs), bars) == 0.0) | bars_are_flat(inputs, bars + 1)
    return talib_series("MFI", fields, bars + 1, {"timeperiod": bars}, unknown=untraded)


def ultimate(inputs: Inputs) -> FloatArray:
    """TA-Lib's ultimate oscillator, 0 to 100. NaN where its shortest window has no range."""
    short, middle, long = ULTIMATE
    return talib_series(
        "ULTOSC",
        (inputs.high, inputs.low, inputs.close),
        long + 1,
        {"timeperiod1": short, "timeperiod2": middle, "timeperiod3": long},
        unknown=bars_are_flat(inputs, short),
    )


def trix(inputs: Inputs, bars: int) -> FloatArray:
    """TA-Lib's TRIX, the rate of change of a triple exponential average, over sigma_slow."""
    rate = talib_series("TRIX", (inputs.close,), ema_rows(bars, EMA_CHAIN_SPANS), {"timeperiod": bars})
    return ratio(0.01 * rate, inputs.sigma_slow)


def stochastic_rsi(inputs: Inputs, bars: int) -> FloatArray:
    """Place of TA-Lib's RSI between its lowest (0) and highest (1) of the last `bars` rows."""
    strength = rsi(inputs, bars)
    low = rolling_min(strength, bars)
    span = rolling_max(strength, bars) - low
    return ratio(strength - low, np.where(span > SMALLEST_RSI_RANGE, span, np.nan))


def bull_power(inputs: Inputs) -> FloatArray:
    """log(H / TA-Lib's EMA of ELDER_SPAN bars) over sigma_slow."""
    return per_sigma(inputs, log_high(inputs) - _log_elder_average(inputs), 1)


def bear_power(inputs: Inputs) -> FloatArray:
    """log(L / TA-Lib's EMA of ELDER_SPAN bars) over sigma_slow."""
    return per_sigma(inputs, log_low(inputs) - _log_elder_average(inputs), 1)


def power_balance(inputs: Inputs, bars: int) -> FloatArray:
    """Log bodies over log ranges, summed over the window: −1 to 1. NaN where no bar has a range."""
    return rolling_ratio(log_body(inputs), log_range(inputs), bars)


def _fast_k(inputs: Inputs, bars: int) -> FloatArray:
    fields = (inputs.high, inputs.low, inputs.close)
    parameters = {"fastk_period": bars, "fastd_period": 1}
    return talib_series("STOCHF", fields, bars, parameters, unknown=bars_are_flat(inputs, bars))


def _log_elder_average(inputs: Inputs) -> FloatArray:
    return inputs.shared(
        "log_elder_average",
        lambda: log(talib_series("EMA", (inputs.close,), ema_rows(ELDER_SPAN), {"timeperiod": ELDER_SPAN})),
    )


def _rsi(bars: int) -> Feature:
    return Feature(
        name=f"rsi_{bars}",
        family="oscillators",
        unit="percent",
        source="TA-Lib RSI (Wilder 1978)",
        inputs=("close",),
        window_bars=WILDER_LENGTHS * bars,
        formula=rsi,
        parameters=(("bars", bars),),
    )


# Part of the core view.
RSI = tuple(_rsi(bars) for bars in (14, 72))

OSCILLATORS = (
    *(_rsi(bars) for bars in (24,)),
    *over(
        (14,),
        "oscillators",
        "stochastic",
        stochastic,
        unit="percent",
        source="TA-Lib STOCHF (Lane 1984), slowed by 3",
        inputs=("high", "low", "close"),
        more_bars=SMOOTHED_BARS - 1,
    ),
    *over(
        (14,),
        "oscillators",
        "stochastic_signal",
        stochastic_signal,
        unit="percent",
        source="TA-Lib STOCHF (Lane 1984): %K against %D",
        inputs=("high", "low", "close"),
        more_bars=2 * (SMOOTHED_BARS - 1),
    ),
    *over(
        (14,),
        "oscillators",
        "williams_r",
        williams_r,
        unit="percent",
        source="TA-Lib WILLR (Williams 1973)",
        inputs=("high", "low", "close"),
    ),
    *over(
        (20,),
        "oscillators",
        "cci",
        cci,
        unit="0.015 mean deviations",
        source="TA-Lib CCI (Lambert 1980)",
        inputs=("high", "low", "close"),
    ),
    *over(
        (14,),
        "oscillators",
        "money_flow",
        money_flow,
        unit="percent",
        source="TA-Lib MFI (Quong & Soudack 1989)",
        inputs=("high", "low", "close", "volume"),
        more_bars=1,
    ),
    Feature(
        name="ultimate",
        family="oscillators",
        unit="percent",
        source="TA-Lib ULTOSC (Williams 1985)",
        inputs=("high", "low", "close"),
        window_bars=ULTIMATE[-1] + 1,
        formula=ultimate,
    ),
    *(
        Feature(
            name=f"trix_{bars}",
            family="oscillators",
            unit="standard deviations",
            source="TA-Lib TRIX (Hutson 1983)",
            inputs=("close",),
            window_bars=ema_rows(bars, EMA_CHAIN_SPANS),
            formula=trix,
            parameters=(("bars", bars),),
            scaled=True,
        )
        for bars in (15,)
    ),
    *(
        Feature(
            name=f"stochastic_rsi_{bars}",
            family="oscillators",
            unit="share of the range",
            source="TA-Lib RSI in its own range (Chande & Kroll 1994)",
            inputs=("close",),
            window_bars=(WILDER_LENGTHS + 1) * bars - 1,
            formula=stochastic_rsi,
            parameters=(("bars", bars),),
        )
        for bars in (14,)
    ),
    *(
        Feature(
            name=name,
            family="oscillators",
            unit="standard deviations",
            source="TA-Lib EMA (Elder 1993: bull and bear power)",
            inputs=("high", "low", "close"),
            window_bars=ema_rows(ELDER_SPAN),
            formula=formula,
            scaled=True,
        )
        for name, formula in (("bull_power", bull_power), ("bear_power", bear_power))
    ),
    *over(
        (24, 168),
        "oscillators",
        "power_balance",
        power_balance,
        unit="share of the range",
        source="Livshin 2001: balance of market power, summed over the window",
        inputs=("open", "high", "low", "close"),
    ),
)
