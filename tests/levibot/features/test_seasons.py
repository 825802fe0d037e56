"""Seasons at instants that a calendar can check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.seasons import SEASONS
from levibot.features.view import FeatureView

VIEW = FeatureView("seasons", SEASONS)


def at(long_market, close: str) -> dict[str, float]:
    """The features of an hourly bar that closes at that instant."""
    opened = np.array([np.datetime64(close, "us") - np.timedelta64(1, "h")])
    one = replace(long_market.rows(slice(0, 1)), ts=opened)
    return dict(zip(VIEW.names, compute(VIEW, one)[0, 0], strict=True))


def angle(values: dict[str, float], name: str) -> float:
    """Share of the circle, 0 to 1."""
    return float(np.arctan2(values[f"{name}_sin"], values[f"{name}_cos"]) / (2 * np.pi) % 1.0)


@pytest.mark.parametrize(
    ("close", "name", "share"),
    [
        ("2024-01-01T00:00", "week", 0.0),  # a Monday
        ("2024-01-04T12:00", "week", 0.5),
        ("2024-01-07T18:00", "week", 6.75 / 7),
        ("2024-02-15T12:00", "month", 0.5),  # of 29 days
        ("2023-02-15T00:00", "month", 0.5),  # of 28
        ("2024-01-31T00:00", "month", 30 / 31),
        ("2024-07-02T00:00", "year", 183 / 366),
        ("2023-07-02T12:00", "year", 0.5),
    ],
)
def test_a_season_is_a_share_of_its_circle(long_market, close, name, share) -> None:
    assert angle(at(long_market, close), name) == pytest.approx(share)


@pytest.mark.parametrize(
    ("close", "asia", "europe", "america"),
    [
        ("2024-01-01T00:00", 1, 0, 0),
        ("2024-01-01T07:00", 1, 1, 0),
        ("2024-01-01T08:00", 0, 1, 0),
        ("2024-01-01T13:00", 0, 1, 1),
        ("2024-01-01T20:59", 0, 0, 1),
        ("2024-01-01T21:00", 0, 0, 0),
        ("2024-01-06T13:00", 0, 0, 0),  # a Saturday
    ],
)
def test_a_session_is_open_on_weekdays_in_its_hours(long_market, close, asia, europe, america) -> None:
    values = at(long_market, close)
    assert [values[f"session_{name}"] for name in ("asia", "europe", "america")] == [asia, europe, america]


@pytest.mark.parametrize(
    ("close", "left"), [("00:00", 1.0), ("02:00", 0.75), ("07:30", 1 / 16), ("16:00", 1.0)]
)
def test_the_next_funding_is_at_most_eight_hours_away(long_market, close, left) -> None:
    assert at(long_market, f"2024-01-01T{close}")["funding_wait"] == pytest.approx(left)
