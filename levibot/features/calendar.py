"""The hour and the day, in UTC, of the bar's close: the instant at which the signal is made."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.market.bars import FloatArray

DAY = np.timedelta64(1, "D")
# 1970-01-01 was a Thursday, and a week starts on Monday.
EPOCH_WEEKDAY = 3
SATURDAY = 5


def hour_sin(inputs: Inputs) -> FloatArray:
    """sin(2π · share of the UTC day gone by)."""
    return _per_symbol(inputs, np.sin(_day_angle(inputs)))


def hour_cos(inputs: Inputs) -> FloatArray:
    """cos(2π · share of the UTC day gone by)."""
    return _per_symbol(inputs, np.cos(_day_angle(inputs)))


def weekend(inputs: Inputs) -> FloatArray:
    """1 on Saturday and Sunday in UTC, else 0."""
    days = inputs.panel.closes_at.astype("datetime64[D]").astype(np.int64)
    return _per_symbol(inputs, ((days + EPOCH_WEEKDAY) % 7 >= SATURDAY).astype(np.float64))


def _day_angle(inputs: Inputs) -> FloatArray:
    closes_at = inputs.panel.closes_at
    angle: FloatArray = 2.0 * math.pi * ((closes_at - closes_at.astype("datetime64[D]")) / DAY)
    return angle


def _per_symbol(inputs: Inputs, values: FloatArray) -> FloatArray:
    return np.broadcast_to(values[:, None], inputs.panel.close.shape)


CALENDAR = (
    Feature(
        name="hour_sin",
        family="calendar",
        unit="sine",
        source="time of day on a circle; intraday seasonality: Andersen & Bollerslev 1997",
        inputs=("ts",),
        window_bars=1,
        formula=hour_sin,
    ),
    Feature(
        name="hour_cos",
        family="calendar",
        unit="cosine",
        source="time of day on a circle; intraday seasonality: Andersen & Bollerslev 1997",
        inputs=("ts",),
        window_bars=1,
        formula=hour_cos,
    ),
    Feature(
        name="weekend",
        family="calendar",
        unit="0 or 1",
        source="French 1980: the weekend effect",
        inputs=("ts",),
        window_bars=1,
        formula=weekend,
    ),
)
