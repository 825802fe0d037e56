"""The tape: what is played is what was done, on new values; what cannot be played is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from levibot.errors import UsageError
from levibot.features import kernels, rolling
from levibot.features.recorded import Recorded, Tape, plain
from levibot.features.recording import Recording
from levibot.features.rolling import cross_mean, lag, ratio, rolling_mean
from levibot.features.talib_series import talib_series
from levibot.market.bars import BoolArray, FloatArray

ROWS = 300
RNG = np.random.default_rng(1)


def in_place(x: FloatArray, y: FloatArray) -> FloatArray:
    out = np.empty_like(x)
    out[:5] = np.nan
    out[5:] = x[:-5]
    out /= 2.0
    return out + y


def summed_up(x: FloatArray, y: FloatArray) -> FloatArray:
    total = np.empty_like(x)
    total[:] = 0.0
    total += x
    total += y
    return total


def masked(x: FloatArray, y: FloatArray) -> FloatArray:
    out = x.copy()
    out[y > 0.0] = -1.0
    return out


def picked(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.maximum(x[:, [1]], y) - np.broadcast_to(x[-1], y.shape)


def chosen(x: FloatArray, y: FloatArray) -> FloatArray:
    known = np.where(np.isnan(x) | (y > 0.0), 1.0, x)
    return np.minimum(known, (x > y).astype(np.float64))


def of_kernels(x: FloatArray, y: FloatArray) -> FloatArray:
    return ratio(rolling_mean(np.abs(x), 7), lag(np.square(y), 3) * np.ones_like(x))


def across(x: FloatArray, y: FloatArray) -> FloatArray:
    return x - cross_mean(x, y > 0.0)


def library(x: FloatArray, y: FloatArray) -> FloatArray:
    still: BoolArray = y > 2.0
    return talib_series("MACD", (np.exp(x),), 60, {}, output=2, unknown=still)


def fresh() -> FloatArray:
    """(T, 2), each series contiguous, as formulas get them."""
    return np.asfortranarray(np.cumsum(RNG.normal(size=(ROWS, 2)), axis=0) * 0.1)


def recorded(formula: Callable[..., Any], *arrays: FloatArray) -> tuple[Tape, Any]:
    tape = Tape()
    return tape, Recording(tape).bound(formula)(*map(tape.input, arrays))


@pytest.mark.parametrize(
    "formula",
    [in_place, summed_up, masked, picked, chosen, of_kernels, across, library],
    ids=lambda f: f.__name__,
)
def test_a_play_gives_what_the_code_gives(formula: Callable[..., FloatArray]) -> None:
    x, y = fresh(), fresh()
    tape, out = recorded(formula, x, y)
    for hole in (None, 150, 299, 0, None):
        x[:], y[:] = fresh(), fresh()
        if hole is not None:
            x[hole, 0] = np.nan
        assert tape.play()
        np.testing.assert_array_equal(out.array, formula(x.copy(order="F"), y.copy(order="F")))
    # The comparison was one of numbers.
    assert np.isfinite(out.array).any()


def test_what_depends_on_no_input_is_not_played() -> None:
    x = fresh()

    def formula(x: FloatArray) -> FloatArray:
        unknown = np.full(x.shape, np.nan)
        return x + rolling_mean(np.square(unknown), 5)

    tape, out = recorded(formula, x)
    assert len(tape) == 1
    assert tape.play()
    assert np.isnan(out.array).all()


def test_a_branch_that_would_go_another_way_is_told() -> None:
    x = np.abs(fresh())

    def formula(x: FloatArray) -> FloatArray:
        return -x if (x < 0.0).any() else x * 2.0

    tape, _ = recorded(formula, x)
    assert tape.play()
    x[3, 1] = -1.0
    assert not tape.play()
    x[3, 1] = 1.0
    assert tape.play()


def branches(x: FloatArray) -> FloatArray:
    return x if x[0, :] > 0.0 else -x


def takes_a_number_out(x: FloatArray) -> FloatArray:
    return x - x[0, 0]


def walks(x: FloatArray) -> FloatArray:
    return x + sum(x)


def hands_over(x: FloatArray) -> FloatArray:
    return np.asarray(x)


def reduces(x: FloatArray) -> FloatArray:
    return x - np.add.reduce(x)


def is_unknown(x: FloatArray) -> FloatArray:
    return np.cumsum(x, axis=0)


def writes_elsewhere(x: FloatArray) -> FloatArray:
    out = np.zeros((2, ROWS))
    kernels.window_sums(np.ascontiguousarray(x.T), 5, out)
    return out.T


@pytest.mark.parametrize(
    "formula",
    [branches, takes_a_number_out, walks, hands_over, reduces, is_unknown, writes_elsewhere],
    ids=lambda f: f.__name__,
)
def test_what_a_play_could_not_repeat_is_refused(formula: Callable[[FloatArray], FloatArray]) -> None:
    with pytest.raises(UsageError):
        recorded(formula, fresh())


def test_only_a_plain_function_is_bound() -> None:
    with pytest.raises(UsageError, match="Only a plain function"):
        Recording(Tape()).bound(np.add)


def test_the_modules_stay_as_they_are() -> None:
    before = dict(vars(rolling))
    recorded(of_kernels, fresh(), fresh())
    assert dict(vars(rolling)) == before
    assert not isinstance(ratio(fresh(), fresh()), Recorded)
    assert plain(3.0) == 3.0
