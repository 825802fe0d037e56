"""The model that is trained, registered and served: features in, a probability and a target position out.

Members have opinions between -1 and 1 of each symbol (levibot/learning/members.py):

    trend     mean of tanh(trend_d) over d = 7, 14, 28, 56 days; only its long side counts
    strength  mean of tanh(relative_trend_d) over the same d
    learned   one for each kind of models: mean over the horizons of a smoothed tanh(prediction / its usual
              size); shorts count half

    score = 3 * sum of weight * opinion
    position = score * min(1, target volatility / vol_fast) / symbols, scaled down where gross exceeds 1
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Self

from levibot.errors import RegistryError
from levibot.learning.blending import Blending, SignalParameters, Signals, kinds_of
from levibot.learning.learned import Learned
from levibot.learning.learned_members import FILE, LearnedMembers
from levibot.learning.members import RULES, Opinions
from levibot.market.bars import FloatArray

__all__ = ["KIND", "SignalModel", "SignalParameters", "Signals"]

KIND = "signal"


@dataclass(frozen=True)
class SignalModel:
    """A trained signal for a fixed set of symbols. Frozen; safe to share between threads."""

    view: str
    view_version: str
    feature_names: tuple[str, ...]
    symbols: tuple[str, ...]
    interval: timedelta
    parameters: SignalParameters
    training: Mapping[str, Any]
    train_start: datetime
    train_end: datetime
    seed: int
    data_hash: str
    learned: tuple[Learned, ...] = field(repr=False)

    @property
    def window_bars(self) -> int:
        """Rows of features that `signals` needs: those it smooths over, and what the oldest of them reads."""
        return self.parameters.window_bars + max(member.sequence.reach_bars for member in self.learned)

    def signals(self, window: FloatArray) -> Signals:
        """The newest row's signals, (S,) each, from a window of features (R, S, F) that ends with it.

        Reads the last `window_bars` rows; with fewer it uses what there is. Raises DataError on another
        shape.
        """
        said = LearnedMembers(self.blending, self.learned).say_newest(window)
        return self.blending.signals(window, said)

    def evaluate(self, features: FloatArray) -> Signals:
        """Signals of every row, (T, S) each, from features (T, S, F). Row t reads `window_bars` rows up to t.

        The members weigh what they weigh before anything is known of them. The same code serves one row and
        backtests a history. Raises DataError on no rows or another shape.
        """
        return self.blending.under_prior(*self._said(features, 0))

    def opinions(self, features: FloatArray) -> Opinions:
        """What each member says of every row; see `evaluate`."""
        return self._said(features, 0)[0]

    @property
    def members(self) -> tuple[str, ...]:
        """The rules, then the kinds of models in the order in which they were learned."""
        return self.blending.members

    @cached_property
    def blending(self) -> Blending:
        """What makes one signal of the members' opinions."""
        kinds = tuple(dict.fromkeys(part.kind for part in self.learned))
        return Blending(self.feature_names, self.symbols, self.interval, self.parameters, kinds)

    @staticmethod
    def members_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """`members`, of a manifest whose models need not be loaded. Raises RegistryError without any."""
        try:
            return (*RULES, *kinds_of(metadata))
        except (KeyError, TypeError) as exc:
            raise RegistryError(f"The manifest does not say which kinds of models it has: {exc!r}.") from exc

    def _said(self, features: FloatArray, first: int) -> tuple[Opinions, FloatArray, FloatArray]:
        """Opinions; the probability of a rise over the longest horizon, and the return expected of it."""
        said = LearnedMembers(self.blending, self.learned).say(features, first)
        return self.blending.blended(features, first, said)

    def metadata(self) -> dict[str, Any]:
        """Everything that says what this model is and how to make it again; JSON values."""
        return {
            "kind": KIND,
            "view": self.view,
            "view_version": self.view_version,
            "feature_names": list(self.feature_names),
            "symbols": list(self.symbols),
            "interval_s": self.interval.total_seconds(),
            "window_bars": self.window_bars,
            "horizons_bars": list(self.parameters.horizons_bars),
            "parameters": self.parameters.to_json(),
            "training": dict(self.training),
            "train_start": self.train_start.isoformat(),
            "train_end": self.train_end.isoformat(),
            "seed": self.seed,
            "data_hash": self.data_hash,
            "served": [dict(form.report) for member in self.learned for form in member.forms],
        }

    def to_files(self) -> dict[str, bytes]:
        """The model as named files: its members' models, and the numbers around them as JSON."""
        parts = [member.to_files() for member in self.learned]
        numbers = {"learned": [numbers for numbers, _ in parts]}
        files = {FILE: json.dumps(numbers, indent=2, allow_nan=False).encode()}
        for _, models in parts:
            files |= models
        return files

    @classmethod
    def from_files(cls, metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """The model again, from what `metadata` and `to_files` gave. Raises RegistryError on other things."""
        try:
            if metadata["kind"] != KIND:
                raise RegistryError(f"The model is of kind {metadata['kind']!r}, not {KIND!r}.")
            numbers = json.loads(files[FILE])
            learned = tuple(Learned.from_files(part, files) for part in numbers["learned"])
            return cls(
                view=metadata["view"],
                view_version=metadata["view_version"],
                feature_names=tuple(metadata["feature_names"]),
                symbols=tuple(metadata["symbols"]),
                interval=timedelta(seconds=metadata["interval_s"]),
                parameters=SignalParameters.from_json(metadata["parameters"]),
                training=metadata["training"],
                train_start=datetime.fromisoformat(metadata["train_start"]),
                train_end=datetime.fromisoformat(metadata["train_end"]),
                seed=int(metadata["seed"]),
                data_hash=metadata["data_hash"],
                learned=learned,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise RegistryError(f"The files are not those of a signal model: {exc!r}.") from exc
