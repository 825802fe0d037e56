"""The own part of a feature: whole where it is shifted, small where the market tells it, sized as it errs."""

from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.monitoring import own_part
from levibot.monitoring.distribution import KnownValues
from levibot.monitoring.own_part import OwnParts

DAY = 24
N_SYMBOLS = 3
# Columns of the made-up features.
PLAIN, LEADERS, WILD, SLOW, SURPRISE = range(5)
SLOWNESS = 0.8


@pytest.fixture(scope="module")
def scaled() -> FloatArray:
    """(3000, 3, 5): noise; the leader's noise; noise that the fourth's size scales; a slow one; the scale."""
    rng = np.random.default_rng(3)
    made = rng.normal(size=(3_000, N_SYMBOLS, 5))
    made[:, :, LEADERS] = made[:, [1], PLAIN]
    made[:, :, WILD] *= np.exp(np.abs(made[:, :, SURPRISE]))
    for row in range(1, len(made)):
        made[row, :, SLOW] = SLOWNESS * made[row - 1, :, SLOW] + 0.6 * made[row, :, SLOW]
    return made


@pytest.fixture(scope="module")
def parts(scaled: FloatArray) -> OwnParts:
    return OwnParts.fit(scaled, DAY, leader=1)


@pytest.mark.parametrize("column", range(5))
def test_a_shift_is_in_the_own_part_as_a_whole_and_does_not_excuse_itself(
    parts: OwnParts, scaled: FloatArray, column: int
) -> None:
    shifted = scaled.copy()
    shifted[-1, :, column] += 0.5
    own, size = parts.of(scaled)
    own_shifted, size_shifted = parts.of(shifted)
    np.testing.assert_allclose(own_shifted[-1, :, column] - own[-1, :, column], 0.5, rtol=1e-6)
    np.testing.assert_allclose(size_shifted[-1, :, column], size[-1, :, column], rtol=1e-6)


def test_what_the_leader_does_is_no_own_part_of_the_others(parts: OwnParts, scaled: FloatArray) -> None:
    assert np.std(parts.of(scaled)[0][:, :, LEADERS]) < 0.05
    of_another = OwnParts.fit(scaled, DAY, leader=0)
    assert np.std(of_another.of(scaled)[0][:, [0, 2], LEADERS]) > 0.3


def test_an_error_is_sized_by_what_tells_its_size(parts: OwnParts, scaled: FloatArray) -> None:
    size = parts.of(scaled)[1][:, :, WILD]
    told = np.abs(scaled[DAY:, :, SURPRISE])
    assert np.corrcoef(np.log(size).ravel(), told.ravel())[0, 1] > 0.9


def test_of_a_slow_feature_a_shift_leaves_what_its_past_does_not_tell(parts: OwnParts) -> None:
    assert parts.footprint[SLOW] == pytest.approx(1.0 - SLOWNESS, abs=0.05)
    assert parts.footprint[PLAIN] == pytest.approx(1.0, abs=0.05)


def test_a_row_without_its_leader_has_no_own_part(parts: OwnParts, scaled: FloatArray) -> None:
    gap = scaled.copy()
    gap[-1, 1] = np.nan
    assert np.isnan(parts.of(gap)[0][-1]).all()
    gap = scaled.copy()
    gap[-1, 2] = np.nan
    known = np.isfinite(parts.of(gap)[0][-1]).all(axis=1)
    assert known.tolist() == [True, True, False]


def test_of_what_is_never_known_as_a_whole_nothing_is_learned(scaled: FloatArray) -> None:
    gap = scaled.copy()
    gap[:, 1] = np.nan
    with pytest.raises(DataError, match="of the leader"):
        OwnParts.fit(gap, DAY, leader=1)
    OwnParts.fit(gap, DAY, leader=0)


def test_in_stretches_the_own_part_is_the_same(
    parts: OwnParts, scaled: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parts.of(scaled)
    monkeypatch.setattr(own_part, "CHUNK_ROWS", 97)
    for one, other in zip(whole, parts.of(scaled), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_feature_with_few_values_knows_them() -> None:
    rng = np.random.default_rng(1)
    learned = np.stack([rng.integers(0, 4, 500) / 3.0, rng.normal(size=500), np.full(500, np.nan)], axis=1)
    known = KnownValues.of(learned)
    assert known.few.tolist() == [True, False, False]
    # The last digit of a third is another one in live features.
    seen = np.array([[[1.0 / 3.0 + 1e-7, 9.0, 1.0], [0.5, 9.0, 1.0]]])
    np.testing.assert_array_equal(known.unseen(seen), [[0.5, 0.0, 0.0]])
    assert np.isnan(known.unseen(np.full((2, 2, 3), np.nan))).all()
