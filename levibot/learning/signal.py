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
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Self

import numpy as np

from levibot.errors import DataError, RegistryError
from levibot.learning.labels import bars_per_year
from levibot.learning.learned import Learned
from levibot.learning.members import RULES, Opinions, Sides, prior_weights
from levibot.learning.models.sequence import Samples
from levibot.market.bars import FloatArray

KIND = "signal"
# How a manifest names the kinds of models, in the order in which they were learned.
_KINDS = "kinds"
_FILE = "signal.json"


@dataclass(frozen=True, slots=True)
class SignalParameters:
    """How predictions and trends become positions, which are fractions of equity."""

    horizons_bars: tuple[int, ...] = (8, 24)
    lookbacks_bars: tuple[int, ...] = (168, 336, 672, 1344)
    half_life_bars: float = 5.0
    window_bars: int = 30
    target_volatility: float = 0.30
    short_share: float = 0.5
    no_trade_band: float = 0.012
    sides: Sides = "long-short"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same parameters again. Raises TypeError on a name that is not one of them."""
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Signals:
    """What a model says, for each row and symbol: (T, S), or (S,) for one row.

    probability_up: that the price is higher 24 bars (the longest horizon) after the next open.
    expected_return: log return over the same bars. target_position: fraction of equity, before the no-trade
    band, under the prior weights. All three are NaN where the symbol has no signal; a missing signal is
    never a zero. opinions: of the same rows, what other weights make other positions of. no_trade_band: the
    model's.
    """

    probability_up: FloatArray
    expected_return: FloatArray
    target_position: FloatArray
    opinions: Opinions
    no_trade_band: float

    def row(self, t: int) -> Signals:
        """The signals of one row, (S,); its opinions keep their row axis."""
        return Signals(
            self.probability_up[t],
            self.expected_return[t],
            self.target_position[t],
            self.opinions.row(t),
            self.no_trade_band,
        )


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
        window = window[-self.window_bars :]
        return self._evaluate(window, max(0, len(window) - self.parameters.window_bars)).row(-1)

    def evaluate(self, features: FloatArray) -> Signals:
        """Signals of every row, (T, S) each, from features (T, S, F). Row t reads `window_bars` rows up to t.

        The members weigh what they weigh before anything is known of them. The same code serves one row and
        backtests a history. Raises DataError on no rows or another shape.
        """
        return self._evaluate(features, 0)

    def opinions(self, features: FloatArray) -> Opinions:
        """What each member says of every row; see `evaluate`."""
        return self._said(features, 0)[0]

    @property
    def members(self) -> tuple[str, ...]:
        """The rules, then the kinds of models in the order in which they were learned."""
        return (*RULES, *dict.fromkeys(part.kind for part in self.learned))

    @staticmethod
    def members_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """`members`, of a manifest whose models need not be loaded. Raises RegistryError without any."""
        try:
            return (*RULES, *dict.fromkeys(str(kind) for kind in metadata["training"][_KINDS]))
        except (KeyError, TypeError) as exc:
            raise RegistryError(f"The manifest does not say which kinds of models it has: {exc!r}.") from exc

    def _evaluate(self, features: FloatArray, first: int) -> Signals:
        """`evaluate`, with opinions of the rows from `first` on; those before are only read by sequences."""
        said, probability_up, expected_return = self._said(features, first)
        prior = said.positions(prior_weights(said.members))
        return Signals(probability_up, expected_return, prior, said, self.parameters.no_trade_band)

    def _said(self, features: FloatArray, first: int) -> tuple[Opinions, FloatArray, FloatArray]:
        """Opinions; the probability of a rise over the longest horizon, and the return expected of it."""
        n_symbols, n_features = len(self.symbols), len(self.feature_names)
        if features.ndim != 3 or features.shape[0] == 0 or features.shape[1:] != (n_symbols, n_features):
            raise DataError(
                f"Features have shape {features.shape}: this model reads (rows, {n_symbols} symbols, "
                f"{n_features} features)."
            )
        trend = self._mean_tanh(features, "trend")
        strength = self._mean_tanh(features, "relative_trend")
        volatility = features[:, :, self._column["vol_fast"]]
        slow_volatility = features[:, :, self._column["vol_slow"]]
        has_signal = np.isfinite(trend) & np.isfinite(strength) & np.isfinite(volatility + slow_volatility)
        has_signal[:first] = False

        points = Samples(features, *np.nonzero(has_signal))
        by_kind: dict[str, list[FloatArray]] = {}
        probabilities, returns = [], []
        longest = max(self.parameters.horizons_bars)
        for part in self.learned:
            predicted = part.predict(points)
            for column, horizon in enumerate(part.horizons):
                score = np.full_like(trend, np.nan)
                score[has_signal] = predicted[:, column]
                smoothed = self._smoothed(np.tanh(score / horizon.usual_size))
                by_kind.setdefault(part.kind, []).append(smoothed)
                if horizon.bars == longest:
                    probabilities.append(horizon.calibration.probability(score))
                    returns.append(score + horizon.label_mean)
        learned = [np.mean(opinions, axis=0) for opinions in by_kind.values()]
        short_share = self.parameters.short_share
        halved = [np.where(opinion > 0.0, opinion, short_share * opinion) for opinion in learned]
        values = np.stack([np.maximum(trend, 0.0), strength, *halved], axis=2)
        size = np.minimum(1.0, self.parameters.target_volatility / volatility) / n_symbols
        unstated = np.full_like(trend, np.nan)
        said = Opinions(
            members=(*RULES, *by_kind),
            values=np.where(has_signal[:, :, None], values, np.nan),
            unit=np.where(has_signal, size, np.nan),
            probability_up=np.stack([*([unstated] * len(RULES)), *probabilities], axis=2),
            sides=self.parameters.sides,
        )
        years = longest / bars_per_year(self.interval)
        expected_return = np.mean(returns, axis=0) * slow_volatility * np.sqrt(years)
        return said, np.mean(probabilities, axis=0), expected_return

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
        files = {_FILE: json.dumps(numbers, indent=2, allow_nan=False).encode()}
        for _, models in parts:
            files |= models
        return files

    @classmethod
    def from_files(cls, metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """The model again, from what `metadata` and `to_files` gave. Raises RegistryError on other things."""
        try:
            if metadata["kind"] != KIND:
                raise RegistryError(f"The model is of kind {metadata['kind']!r}, not {KIND!r}.")
            numbers = json.loads(files[_FILE])
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

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.feature_names)}

    def _mean_tanh(self, features: FloatArray, family: str) -> FloatArray:
        columns = [self._column[f"{family}_{bars}"] for bars in self.parameters.lookbacks_bars]
        mean: FloatArray = np.tanh(features[:, :, columns]).mean(axis=2)
        return mean

    def _smoothed(self, opinion: FloatArray) -> FloatArray:
        """Exponentially weighted mean of the last `parameters.window_bars` rows that hold an opinion."""
        decay = 0.5 ** (1.0 / self.parameters.half_life_bars)
        known = np.isfinite(opinion)
        total, weight = np.zeros_like(opinion), np.zeros_like(opinion)
        # Row by row of the window, oldest last: the same sums in the same order for any number of rows.
        for age in range(min(self.parameters.window_bars, len(opinion))):
            rows = slice(0, len(opinion) - age)
            share = decay**age
            total[age:] += np.where(known[rows], share * opinion[rows], 0.0)
            weight[age:] += share * known[rows]
        return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0.0)
