"""The views that ship."""

from __future__ import annotations

import pickle

import pytest

from levibot.errors import UsageError
from levibot.features.views import CORE, FULL, VIEWS, view
from levibot.market.bars import FIELDS
from levibot.market.side_series import LONGEST_AGE


def test_a_view_is_found_by_name() -> None:
    assert view("core") is CORE


def test_an_unknown_view_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no feature view 'cor'.*core"):
        view("cor")


def test_the_full_view_begins_with_the_core_and_has_220_features() -> None:
    assert FULL.names[: len(CORE.names)] == CORE.names
    assert len(FULL.names) >= 220
    assert {feature.family for feature in FULL.features} == {
        "returns",
        "trend",
        "oscillators",
        "volatility",
        "volume",
        "microstructure",
        "distribution",
        "memory",
        "cross_asset",
        "calendar",
        "funding",
        "outside",
    }


def test_core_has_what_the_strategies_read() -> None:
    bars = (168, 336, 672, 1344)
    read = ["vol_slow", "vol_fast", *(f"trend_{n}" for n in bars), *(f"relative_trend_{n}" for n in bars)]
    assert set(read) <= set(CORE.names)


@pytest.mark.parametrize("feature", FULL.features, ids=lambda feature: feature.name)
def test_every_feature_says_what_it_is(feature) -> None:
    assert feature.family
    assert feature.unit
    assert feature.source
    assert feature.window_bars >= 1
    assert set(feature.inputs) <= {"ts", *FIELDS, *LONGEST_AGE}
    assert feature.formula.__doc__


@pytest.mark.parametrize("shipped", VIEWS, ids=lambda shipped: shipped.name)
def test_a_view_travels_between_processes(shipped) -> None:
    assert pickle.loads(pickle.dumps(shipped)) == shipped
