"""The learned members of a version that one process holds, and what they say."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from levibot.errors import RegistryError
from levibot.learning.blending import Blending, LearnedOpinion
from levibot.learning.learned import Learned
from levibot.learning.models.sequence import Samples
from levibot.market.bars import FloatArray

# The numbers around the models, beside their files.
FILE = "signal.json"


@dataclass(frozen=True)
class LearnedMembers:
    """All of a version's, or those of some kinds. Frozen; safe to share between threads."""

    blending: Blending
    learned: tuple[Learned, ...]

    def __post_init__(self) -> None:
        longest = max(self.blending.parameters.horizons_bars)
        predicted = {(part.kind, horizon.bars) for part in self.learned for horizon in part.horizons}
        for kind in dict.fromkeys(part.kind for part in self.learned):
            if (kind, longest) not in predicted:
                raise RegistryError(
                    f"The member {kind} has no prediction over {longest} bars, the longest horizon.",
                    hint="Every member must have one: train the version again.",
                )

    @classmethod
    def from_files(
        cls, metadata: Mapping[str, Any], files: Mapping[str, bytes], kinds: Collection[str]
    ) -> Self:
        """Those of these kinds; what others are made of is not read.

        Raises RegistryError on broken files, and on a member without the longest horizon.
        """
        try:
            parts = [part for part in json.loads(files[FILE])["learned"] if part["kind"] in kinds]
            learned = tuple(Learned.from_files(part, files) for part in parts)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise RegistryError(f"The files are not those of a signal model: {exc!r}.") from exc
        return cls(Blending.from_metadata(metadata), learned)

    def say_newest(self, window: FloatArray) -> dict[str, LearnedOpinion]:
        """Of the newest row of features (R, S, F), (1, S) each, by kind; reads no row that it need not."""
        smoothed_bars = self.blending.parameters.window_bars
        reach_bars = max((part.sequence.reach_bars for part in self.learned), default=0)
        window = window[-(smoothed_bars + reach_bars) :]
        said = self.say(window, max(0, len(window) - smoothed_bars))
        return {kind: opinion.newest() for kind, opinion in said.items()}

    def say(self, features: FloatArray, first: int) -> dict[str, LearnedOpinion]:
        """Of the rows of features (T, S, F) from `first` on, (T, S) each, by kind; the others are NaN.

        Rows before `first` are only read by sequences. Raises DataError on no rows or another shape.
        """
        has_signal = self.blending.has_signal(features, first)
        points = Samples(features, *np.nonzero(has_signal))
        longest = max(self.blending.parameters.horizons_bars)
        opinions: dict[str, list[FloatArray]] = {}
        far: dict[str, tuple[FloatArray, FloatArray]] = {}
        for part in self.learned:
            predicted = part.predict(points)
            for column, horizon in enumerate(part.horizons):
                score = np.full(has_signal.shape, np.nan)
                score[has_signal] = predicted[:, column]
                smoothed = self._smoothed(np.tanh(score / horizon.usual_size))
                opinions.setdefault(part.kind, []).append(smoothed)
                if horizon.bars == longest:
                    far[part.kind] = horizon.calibration.probability(score), score + horizon.label_mean
        return {kind: LearnedOpinion(np.mean(said, axis=0), *far[kind]) for kind, said in opinions.items()}

    def _smoothed(self, opinion: FloatArray) -> FloatArray:
        """Exponentially weighted mean of the last `parameters.window_bars` rows that hold an opinion."""
        decay = 0.5 ** (1.0 / self.blending.parameters.half_life_bars)
        known = np.isfinite(opinion)
        total, weight = np.zeros_like(opinion), np.zeros_like(opinion)
        # Row by row of the window, oldest last: the same sums in the same order for any number of rows.
        for age in range(min(self.blending.parameters.window_bars, len(opinion))):
            rows = slice(0, len(opinion) - age)
            share = decay**age
            total[age:] += np.where(known[rows], share * opinion[rows], 0.0)
            weight[age:] += share * known[rows]
        return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0.0)
