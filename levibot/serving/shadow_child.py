"""A shadow model's own process: `python -m levibot.serving.shadow_child VERSION MEMORY_MB`.

It reads questions from its input and writes answers to its output, one JSON line each; the numbers of a
question follow its line as they lie in memory (float64, C order). Nothing is unpickled on either side.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from levibot.errors import LeviBotError
from levibot.features.views import CORE
from levibot.learning.past import columns_of
from levibot.learning.signal import SignalModel, Signals
from levibot.learning.training import window_bars
from levibot.market.bars import FloatArray
from levibot.serving.fit import check_fits
from levibot.settings import Settings
from levibot.stores.connect import open_registry
from levibot.stores.registry import ModelVersion

NICENESS = 10
_PR_SET_PDEATHSIG = 1
# Numbers by name, of each symbol; NaN = no opinion.
Predict = Callable[[FloatArray], Mapping[str, FloatArray]]


def load(version: str) -> Predict:
    """The registered version as a whole. Raises RegistryError."""
    stored = checked(version, "Take it out of LEVIBOT_SHADOW_VERSIONS.")
    model = SignalModel.from_files(stored.metadata, stored.files)
    return lambda windows: numbers_of(model.signals(columns_of(windows, CORE.names, model.feature_names)))


def numbers_of(said: Signals) -> Mapping[str, FloatArray]:
    """What a shadow model tells of what it says."""
    return {"probability_up": said.probability_up, "target_position": said.target_position}


def checked(version: str, hint: str) -> ModelVersion:
    """The files of a registered version, checked as those of the served one are. Raises RegistryError."""
    settings = Settings.load()
    stored = open_registry(settings).load(version)
    check_fits(
        version,
        stored.metadata,
        view_version=CORE.version,
        symbols=settings.symbols,
        online_bars=window_bars(),
        hint=hint,
    )
    return stored


def answer_for_ever(loaded: Callable[[], Predict], memory_mb: int) -> None:
    """Limit this process, load, then answer until the input ends. A LeviBotError is an answer."""
    _limit(memory_mb)
    questions = sys.stdin.buffer
    # Whatever a library prints must not be read as an answer.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        try:
            predict = loaded()
        except LeviBotError as exc:
            _say(answers, {"problem": str(exc)})
            return
        _say(answers, {"ready": True})
        while line := questions.readline():
            shape = tuple(json.loads(line)["shape"])
            n_bytes = int(np.prod(shape)) * 8
            windows = np.frombuffer(questions.read(n_bytes), dtype="<f8").reshape(shape)
            try:
                said = predict(windows)
            except LeviBotError as exc:
                _say(answers, {"problem": str(exc)})
                continue
            _say(answers, {name: _known(values) for name, values in said.items()})


def _limit(memory_mb: int) -> None:
    # Who is served comes first on a busy core, and who is asked for too much memory ends alone.
    os.nice(NICENESS)
    limit = memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # One that hangs does not see its input end when its parent dies.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(answers: IO[bytes], values: dict[str, Any]) -> None:
    answers.write(json.dumps(values, allow_nan=False).encode() + b"\n")
    answers.flush()


def _known(values: FloatArray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


if __name__ == "__main__":
    answer_for_ever(lambda: load(sys.argv[1]), int(sys.argv[2]))
