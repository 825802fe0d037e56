"""A leak is found, and what only wavers is none."""

from __future__ import annotations

import os

import numpy as np
import psutil
import pytest

from levibot.market.bars import FloatArray
from tests.load.memory import MemoryLog, Slope, slope

AT_S = np.arange(240.0) * 15.0


def wavering(rng: np.random.Generator) -> FloatArray:
    """Memory that goes up and down, each sample near the one before: (240,) MB, without a trend."""
    values = np.zeros(len(AT_S))
    for t in range(1, len(values)):
        values[t] = 0.9 * values[t - 1] + rng.normal()
    return values


def test_a_straight_line_has_its_slope_and_no_error() -> None:
    found = slope(AT_S, 200.0 + 6.0 * AT_S / 3600.0)
    assert found.mb_per_h == pytest.approx(6.0)
    assert found.standard_error_mb_per_h < 1e-6
    assert found.is_above(5.9)
    assert not found.is_above(6.1)


def test_what_wavers_is_seldom_called_a_leak_and_a_leak_nearly_always() -> None:
    rng = np.random.default_rng(7)
    still = [slope(AT_S, wavering(rng)) for _ in range(200)]
    leaking = [slope(AT_S, wavering(rng) + 20.0 * AT_S / 3600.0) for _ in range(200)]

    # One side of two standard errors is 2 %; of so few samples that hang together they come out small.
    assert np.mean([one.is_above(0.0) for one in still]) < 0.12
    assert np.mean([one.is_above(4.0) for one in leaking]) > 0.9


@pytest.mark.parametrize("at_s", [AT_S[:7], AT_S[::-1]])
def test_too_few_samples_or_none_in_order_give_no_slope(at_s: FloatArray) -> None:
    with pytest.raises(ValueError, match="give no slope"):
        slope(at_s, np.ones(len(at_s)))


def test_the_log_tells_who_was_there_all_the_time() -> None:
    log = MemoryLog()
    own = psutil.Process(os.getpid())
    for n in range(20):
        log.take(float(n), [own])
    log.mb["guest"] = [1.0] * 10 + [0.0] * 10

    assert list(log.slopes()) == [own.name()]
    assert isinstance(log.slopes()[own.name()], Slope)
    assert log.mb[own.name()][-1] > 10.0
