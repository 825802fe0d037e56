"""What makes one signal of the members' opinions: the rules, the blend, and the numbers around them.

It needs no model. Whoever holds the manifest of a version and hears its learned members can blend them, in
the process of the models or in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Self

import numpy as np

from levibot.errors import DataError, RegistryError
from levibot.learning.labels import bars_per_year
from levibot.learning.members import RULES, Opinions, Sides, prior_weights
from levibot.market.bars import BoolArray, FloatArray

# How a manifest names the kinds of models, in the order in which they were learned.
_KINDS = "kinds"


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


@dataclass(frozen=True, slots=True, eq=False)
class LearnedOpinion:
    """What one kind of models says of T rows, (T, S) each; NaN where there is no signal.

    opinion: in [-1, 1], the mean over the horizons, smoothed; both sides whole. probability_up: calibrated,
    over the longest horizon. score: the return expected over it, in units of its volatility.
    """

    opinion: FloatArray
    probability_up: FloatArray
    score: FloatArray

    def newest(self) -> LearnedOpinion:
        """Of the last row alone, (1, S)."""
        return LearnedOpinion(self.opinion[-1:], self.probability_up[-1:], self.score[-1:])


@dataclass(frozen=True)
class Blending:
    """Of one model version. kinds: of its learned members, in the order in which they were learned."""

    feature_names: tuple[str, ...]
    symbols: tuple[str, ...]
    interval: timedelta
    parameters: SignalParameters
    kinds: tuple[str, ...]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Of a manifest. Raises RegistryError on one that is not of a signal."""
        try:
            return cls(
                tuple(metadata["feature_names"]),
                tuple(metadata["symbols"]),
                timedelta(seconds=metadata["interval_s"]),
                SignalParameters.from_json(metadata["parameters"]),
                kinds_of(metadata),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise RegistryError(f"The manifest is not that of a signal model: {exc!r}.") from exc

    @property
    def members(self) -> tuple[str, ...]:
        """The rules, then the kinds of models."""
        return (*RULES, *self.kinds)

    def signals(
        self, window: FloatArray, said: Mapping[str, LearnedOpinion], absent: Mapping[str, str] | None = None
    ) -> Signals:
        """The newest row's signals, (S,) each, of a window (R, S, F) and what was said of its newest row.

        A kind that is not in `said` has not answered: its opinion is NaN, its weight goes to the others, and
        neither the probability nor the return is its. Where no kind has answered both are NaN. absent: why
        those have not, by kind.
        """
        opinions, probability_up, expected_return = self.blended(window[-1:], 0, said)
        told = replace(opinions, absent=dict(absent or {}))
        return self.under_prior(told, probability_up, expected_return).row(-1)

    def under_prior(self, said: Opinions, probability_up: FloatArray, expected_return: FloatArray) -> Signals:
        """The signals while the members weigh what they weigh before anything is known of them."""
        prior = said.positions(prior_weights(said.members))
        return Signals(probability_up, expected_return, prior, said, self.parameters.no_trade_band)

    def has_signal(self, features: FloatArray, first: int) -> BoolArray:
        """(T, S): where the features suffice, in the rows from `first` on. Raises DataError on a shape."""
        n_symbols, n_features = len(self.symbols), len(self.feature_names)
        if features.ndim != 3 or features.shape[0] == 0 or features.shape[1:] != (n_symbols, n_features):
            raise DataError(
                f"Features have shape {features.shape}: this model reads (rows, {n_symbols} symbols, "
                f"{n_features} features)."
            )
        trend = self._mean_tanh(features, "trend")
        strength = self._mean_tanh(features, "relative_trend")
        volatility = features[:, :, self._column["vol_fast"]] + features[:, :, self._column["vol_slow"]]
        there: BoolArray = np.isfinite(trend) & np.isfinite(strength) & np.isfinite(volatility)
        there[:first] = False
        return there

    def blended(
        self, features: FloatArray, first: int, said: Mapping[str, LearnedOpinion]
    ) -> tuple[Opinions, FloatArray, FloatArray]:
        """Opinions of every row; the probability of a rise over the longest horizon, and its return.

        features: (T, S, F); rows before `first` get no signal. said: of the same rows, by kind.
        """
        has_signal = self.has_signal(features, first)
        trend = self._mean_tanh(features, "trend")
        strength = self._mean_tanh(features, "relative_trend")
        unstated = np.full_like(trend, np.nan)
        absent = LearnedOpinion(unstated, unstated, unstated)
        learned = [said.get(kind, absent) for kind in self.kinds]
        short_share = self.parameters.short_share
        halved = [np.where(one.opinion > 0.0, one.opinion, short_share * one.opinion) for one in learned]
        values = np.stack([np.maximum(trend, 0.0), strength, *halved], axis=2)
        volatility = features[:, :, self._column["vol_fast"]]
        size = np.minimum(1.0, self.parameters.target_volatility / volatility) / len(self.symbols)
        opinions = Opinions(
            members=self.members,
            values=np.where(has_signal[:, :, None], values, np.nan),
            unit=np.where(has_signal, size, np.nan),
            probability_up=np.stack(
                [*([unstated] * len(RULES)), *(one.probability_up for one in learned)], axis=2
            ),
            sides=self.parameters.sides,
        )
        # One that is not there takes no part: the others' mean is theirs alone.
        heard = [said[kind] for kind in self.kinds if kind in said] or [absent]
        years = max(self.parameters.horizons_bars) / bars_per_year(self.interval)
        slow_volatility = features[:, :, self._column["vol_slow"]]
        expected_return = np.mean([one.score for one in heard], axis=0) * slow_volatility * np.sqrt(years)
        return opinions, np.mean([one.probability_up for one in heard], axis=0), expected_return

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.feature_names)}

    def _mean_tanh(self, features: FloatArray, family: str) -> FloatArray:
        columns = [self._column[f"{family}_{bars}"] for bars in self.parameters.lookbacks_bars]
        mean: FloatArray = np.tanh(features[:, :, columns]).mean(axis=2)
        return mean


def kinds_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of models that a manifest names. Raises KeyError or TypeError where it names none."""
    return tuple(dict.fromkeys(str(kind) for kind in metadata["training"][_KINDS]))
