"""Signals of models that a test makes up: one member, whose account holds just what the test says."""

from __future__ import annotations

import numpy as np

from levibot.learning.members import PARTS, Opinions
from levibot.learning.signal import Signals
from levibot.market.bars import FloatArray

BAND = 0.012


def signals_of(
    position: FloatArray, probability_up: FloatArray | None = None, expected_return: FloatArray | None = None
) -> Signals:
    """Of one row, (S,) each; NaN = no signal. The member is `trend`."""
    position = np.asarray(position, dtype=np.float64)
    probability = np.where(np.isnan(position), np.nan, 0.6) if probability_up is None else probability_up
    values = np.sign(position)[None, :, None]
    opinions = Opinions(("trend",), values, np.abs(position)[None] / PARTS, np.full(values.shape, np.nan))
    expected = position / 10.0 if expected_return is None else expected_return
    return Signals(np.asarray(probability), np.asarray(expected), position, opinions, BAND)
