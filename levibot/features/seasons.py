"""Week, month, year and trading sessions, in UTC, of the bar's close."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.calendar import DAY, EPOCH_WEEKDAY
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.market.bars import FloatArray

HOUR = np.timedelta64(1, "h")
FUNDING_HOURS = 8
# Opening hours of the cash markets, roughly and without daylight saving: [first, last) hour in UTC.
ASIA, EUROPE, AMERICA = (0, 8), (7, 16), (13, 21)


def week_sin(inputs: Inputs) -> FloatArray:
    """sin(2π · share of the UTC week gone by, from Monday)."""
    return _per_symbol(inputs, np.sin(_week_angle(inputs)))


def week_cos(inputs: Inputs) -> FloatArray:
    """cos(2π · share of the UTC week gone by, from Monday)."""
    return _per_symbol(inputs, np.cos(_week_angle(inputs)))


def month_sin(inputs: Inputs) -> FloatArray:
    """sin(2π · share of the UTC month gone by)."""
    return _per_symbol(inputs, np.sin(_share_angle(inputs, "datetime64[M]")))


def month_cos(inputs: Inputs) -> FloatArray:
    """cos(2π · share of the UTC month gone by)."""
    return _per_symbol(inputs, np.cos(_share_angle(inputs, "datetime64[M]")))


def year_sin(inputs: Inputs) -> FloatArray:
    """sin(2π · share of the UTC year gone by)."""
    return _per_symbol(inputs, np.sin(_share_angle(inputs, "datetime64[Y]")))


def year_cos(inputs: Inputs) -> FloatArray:
    """cos(2π · share of the UTC year gone by)."""
    return _per_symbol(inputs, np.cos(_share_angle(inputs, "datetime64[Y]")))


def session(inputs: Inputs, first_hour: int, end_hour: int) -> FloatArray:
    """1 on weekdays from first_hour to before end_hour in UTC, else 0."""
    days = inputs.panel.closes_at.astype("datetime64[D]")
    hours = (inputs.panel.closes_at - days) / HOUR
    weekday = (days.astype(np.int64) + EPOCH_WEEKDAY) % 7 < 5
    return _per_symbol(inputs, (weekday & (hours >= first_hour) & (hours < end_hour)).astype(np.float64))


def funding_wait(inputs: Inputs) -> FloatArray:
    """Part of FUNDING_HOURS, counted from midnight UTC, that is left to the next payment: in (0, 1]."""
    days = inputs.panel.closes_at.astype("datetime64[D]")
    hours = (inputs.panel.closes_at - days) / HOUR
    return _per_symbol(inputs, 1.0 - (hours % FUNDING_HOURS) / FUNDING_HOURS)


def _week_angle(inputs: Inputs) -> FloatArray:
    days = inputs.panel.closes_at.astype("datetime64[D]")
    within = (inputs.panel.closes_at - days) / DAY
    angle: FloatArray = 2.0 * math.pi * ((days.astype(np.int64) + EPOCH_WEEKDAY) % 7 + within) / 7.0
    return angle


def _share_angle(inputs: Inputs, period: str) -> FloatArray:
    closes_at = inputs.panel.closes_at

    def compute() -> FloatArray:
        begun = closes_at.astype(period)
        ends = (begun + np.timedelta64(1)).astype(closes_at.dtype)
        begun = begun.astype(closes_at.dtype)
        gone, length = (closes_at - begun).astype(np.float64), (ends - begun).astype(np.float64)
        angle: FloatArray = 2.0 * math.pi * (gone / length)
        return angle

    return inputs.shared(("angle", period), compute)


def _per_symbol(inputs: Inputs, values: FloatArray) -> FloatArray:
    return np.broadcast_to(values[:, None], inputs.panel.close.shape)


SEASONS = (
    *(
        Feature(
            name=name,
            family="calendar",
            unit=unit,
            source=source,
            inputs=("ts",),
            window_bars=1,
            formula=formula,
        )
        for name, formula, unit, source in (
            ("week_sin", week_sin, "sine", "day of the week on a circle; French 1980"),
            ("week_cos", week_cos, "cosine", "day of the week on a circle; French 1980"),
            ("month_sin", month_sin, "sine", "day of the month on a circle; Ariel 1987"),
            ("month_cos", month_cos, "cosine", "day of the month on a circle; Ariel 1987"),
            ("year_sin", year_sin, "sine", "season on a circle; Bouman & Jacobsen 2002"),
            ("year_cos", year_cos, "cosine", "season on a circle; Bouman & Jacobsen 2002"),
            ("funding_wait", funding_wait, "share of 8 hours", "perpetual contracts pay at 0, 8 and 16 UTC"),
        )
    ),
    *(
        Feature(
            name=f"session_{name}",
            family="calendar",
            unit="0 or 1",
            source="Andersen & Bollerslev 1997: regional sessions",
            inputs=("ts",),
            window_bars=1,
            formula=session,
            parameters=(("first_hour", hours[0]), ("end_hour", hours[1])),
        )
        for name, hours in (("asia", ASIA), ("europe", EUROPE), ("america", AMERICA))
    ),
)
