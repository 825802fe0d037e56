"""A shadow model that behaves as its first argument says, in the process that real ones run in."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.serving.shadow_child import answer_for_ever, numbers_of
from tests.opinions import signals_of

MEMORY_MB = 1024


def well(windows: FloatArray) -> Mapping[str, FloatArray]:
    sys.stdout.write("noise of a library\n")
    sys.stdout.flush()
    return numbers_of(signals_of(windows[-1, :, 0]))


def misbehave(windows: FloatArray) -> Mapping[str, FloatArray]:
    # Only where the first feature says so: the same model must be able to come back.
    if windows[-1, 0, 0] < 0.0:
        match sys.argv[1]:
            case "hangs":
                time.sleep(3600.0)
            case "crashes":
                os.abort()
            case "eats":
                kept = []
                while True:
                    kept.append(np.ones(8_000_000))
            case "refuses":
                raise DataError("These windows are not of mine.")
    return well(windows)


if __name__ == "__main__":
    answer_for_ever(lambda: misbehave, MEMORY_MB)
