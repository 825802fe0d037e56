from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from levibot.errors import DataError
from levibot.learning.members import PARTS, checked_weights, combined, given_to_present, prior_weights
from levibot.market.bars import FloatArray

ALL = ("trend", "strength", "lightgbm", "xgboost", "lstm", "linear")


def test_the_prior_is_the_signal_of_three_parts() -> None:
    opinions = np.array([0.7, -0.2, 0.4])
    three = prior_weights(("trend", "strength", "lightgbm"))
    assert combined(opinions, three) == pytest.approx(opinions.sum())
    six = np.array([0.7, -0.2, 0.4, 0.0, 0.2, -0.2])
    assert combined(six, prior_weights(ALL)) == pytest.approx(0.7 - 0.2 + six[2:].mean())


opinions_of_six = arrays(np.float64, (5, 6), elements=st.floats(-1.0, 1.0) | st.just(float("nan")))


@given(opinions_of_six, arrays(np.float64, 6, elements=st.floats(0.0, 1.0)))
def test_a_score_lies_between_the_opinions_that_there_are(opinions: FloatArray, raw: FloatArray) -> None:
    weights = raw / raw.sum() if raw.sum() > 1e-6 else np.full(6, 1 / 6)
    score = combined(opinions, weights)
    for row, of_row in zip(opinions, score, strict=True):
        known = row[np.isfinite(row)]
        if len(known) == 0:
            assert np.isnan(of_row)
        else:
            assert PARTS * known.min() - 1e-9 <= of_row <= PARTS * known.max() + 1e-9


def test_a_missing_members_weight_goes_to_the_others_in_proportion() -> None:
    shared = given_to_present(np.array([0.5, 0.3, 0.2]), np.array([False, True, True]))
    np.testing.assert_allclose(shared, [0.0, 0.6, 0.4])
    np.testing.assert_allclose(given_to_present(np.array([1.0, 0.0]), np.array([False, True])), [0.0, 1.0])
    assert np.isnan(given_to_present(np.array([1.0, 0.0]), np.array([False, False]))).all()


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.5, -0.5], [np.nan, 1.0], [1.0]])
def test_weights_off_the_simplex_are_refused(weights: list[float]) -> None:
    with pytest.raises(DataError):
        checked_weights(np.array(weights), 2)


@pytest.mark.parametrize("members", [(), ("trend", "trend")])
def test_members_are_named_once(members: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="once"):
        prior_weights(members)
