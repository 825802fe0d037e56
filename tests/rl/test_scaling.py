"""Scaling: learned once, kept as a value, and never from what comes later."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.own_account import CLIP
from rl.scaling import Scaling

SINCE, UNTIL = datetime(2021, 1, 1, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC)
WINDOW: dict[str, Any] = {
    "view": "core",
    "view_version": "0123456789ab",
    "names": ("a", "b"),
    "since": SINCE,
    "until": UNTIL,
}


@pytest.fixture
def features() -> FloatArray:
    drawn = np.random.default_rng(0).normal([3.0, -1.0], [0.1, 20.0], (1000, 2))
    drawn[::50, 1] = np.nan
    return drawn


@pytest.fixture
def scaling(features: FloatArray) -> Scaling:
    return Scaling.fit(features, np.tile([0.01, -0.01], 100), **WINDOW)


def test_known_values_have_mean_0_and_deviation_1(features: FloatArray, scaling: Scaling) -> None:
    seen = scaling.apply(features)
    assert seen.dtype == np.float32
    known = ~np.isnan(features[:, 1])
    assert seen[known, 1].mean() == pytest.approx(0.0, abs=1e-5)
    assert seen[known, 1].std() == pytest.approx(1.0, rel=1e-2)
    assert scaling.bar_volatility == pytest.approx(0.01)


def test_what_is_missing_stands_at_the_mean_and_is_counted(features: FloatArray, scaling: Scaling) -> None:
    seen = scaling.apply(features)
    assert (seen[::50, 1] == 0.0).all()
    assert (seen[::50, -1] == 0.5).all()
    assert seen[:, -1].sum() == pytest.approx(0.5 * len(features[::50]))


def test_nothing_lies_outside_the_clip(features: FloatArray, scaling: Scaling) -> None:
    assert np.abs(scaling.apply(features * 1e6)).max() == CLIP


def test_it_is_the_same_again_after_json(features: FloatArray, scaling: Scaling) -> None:
    again = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
    assert again == scaling
    assert again.apply(features).tobytes() == scaling.apply(features).tobytes()


@pytest.mark.parametrize("broken", [{}, {"mean": [1.0]}, {"deviation": [1.0, 0.0]}, {"since": "yesterday"}])
def test_a_broken_record_is_refused(scaling: Scaling, broken: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Scaling.from_json({**scaling.to_json(), **broken} if broken else {})


def test_a_feature_that_tells_nothing_is_refused(features: FloatArray) -> None:
    moves = np.array([0.01, -0.01])
    rare = features.copy()
    rare[:200, 0] = np.nan
    with pytest.raises(DataError, match="a is known in 80% of the rows"):
        Scaling.fit(rare, moves, **WINDOW)
    still = features.copy()
    still[:, 1] = 0.1
    with pytest.raises(DataError, match="b never changes"):
        Scaling.fit(still, moves, **WINDOW)
    with pytest.raises(DataError, match="No price moves"):
        Scaling.fit(features, np.zeros(5), **WINDOW)


def test_a_window_that_is_half_known_is_refused(scaling: Scaling) -> None:
    later, much_later = datetime(2021, 7, 1, tzinfo=UTC), datetime(2022, 7, 1, tzinfo=UTC)
    scaling.check_window(SINCE, later)
    scaling.check_window(UNTIL, much_later)
    for window in ((later, much_later), (datetime(2020, 1, 1, tzinfo=UTC), SINCE)):
        with pytest.raises(DataError, match="must lie within that, or after it"):
            scaling.check_window(*window)
    with pytest.raises(DataError, match="1 means"):
        replace(scaling, mean=(1.0,))
