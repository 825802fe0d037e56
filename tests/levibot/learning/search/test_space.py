"""Spaces are values: what is searched goes into JSON and comes back the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from levibot.errors import DataError
from levibot.learning.models.xgboost import XGBoostParameters
from levibot.learning.search.space import SPACES, Candidate, Dimension, Space
from levibot.learning.signal import SignalParameters
from levibot.learning.training import TrainingParameters


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_survives_json_and_holds_the_defaults(space: Space) -> None:
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    candidate = space.candidate(space.defaults)
    assert candidate == Candidate(SignalParameters(), replace(TrainingParameters(), kinds=space.kinds))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_dimension_moves_its_parameter_and_no_other(space: Space) -> None:
    before = space.candidate(space.defaults).to_json()
    for dimension in space.dimensions:
        for value in (dimension.low, dimension.high):
            after = space.candidate({**space.defaults, dimension.name: value}).to_json()
            assert {name for name in after if after[name] != before[name]} <= {dimension.name}
            assert after[dimension.name] == value


def test_a_candidate_survives_json_with_all_its_parameters() -> None:
    candidate = Candidate(
        SignalParameters(horizons_bars=(4, 12), no_trade_band=0.02),
        TrainingParameters(kinds=("xgboost", "lstm"), n_models=3, xgboost=XGBoostParameters(depth=2)),
    )
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json()))) == candidate


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"signal.band": 0.1}, "'signal.band' is not a parameter"),
        ({"training.booster.leaves.n": 1}, "is not a parameter"),
        ({"training.booster.leaves": 7.5}, "training.booster.leaves is 7.5"),
        ({"training.booster.leaves": True}, "training.booster.leaves is True"),
        ({"signal.no_trade_band": float("nan")}, "signal.no_trade_band is nan"),
        ({"training.kinds": "lightgbm"}, "training.kinds is 'lightgbm'"),
    ],
)
def test_a_value_that_is_none_of_a_parameter_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Candidate().with_values(values)


def test_a_point_outside_its_space_is_refused() -> None:
    space = SPACES["trading"]
    with pytest.raises(
        DataError, match=r"signal.short_share is 1.5: the space trading reaches from 0.0 to 1.0"
    ):
        space.candidate({**space.defaults, "signal.short_share": 1.5})
    with pytest.raises(DataError, match="are not the dimensions"):
        space.candidate({"signal.short_share": 0.5})
    with pytest.raises(DataError, match=r"cannot be searched from 2\.0 to 1\.0"):
        Dimension("signal.short_share", 2.0, 1.0)
    with pytest.raises(DataError, match="no space to search"):
        Space.from_json({"name": "x"})
