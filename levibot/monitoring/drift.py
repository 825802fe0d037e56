"""Whether features have drifted from what the model learned on, and what that did to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray, Panel
from levibot.monitoring.reference import MEASURES, DriftReference
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import Costs


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature's last day against its reference. found, limits: by the name of the measure.

    A measure is NaN where the feature had no value on that day; this is no drift, but staleness.
    """

    name: str
    found: Mapping[str, float]
    limits: Mapping[str, float]

    @property
    def psi(self) -> float:
        """The population stability index of the values."""
        return self.found["psi"]

    @property
    def beyond(self) -> tuple[str, ...]:
        """The measures that are beyond their limits."""
        return tuple(name for name in MEASURES if self.found[name] > self.limits[name])

    @property
    def excess(self) -> float:
        """How far the worst measure is beyond its limit, as a multiple of it; 0 where none is."""
        return max((self.found[name] / self.limits[name] - 1.0 for name in self.beyond), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """JSON values: None for a measure without a value."""
        found = {name: None if np.isnan(value) else value for name, value in self.found.items()}
        return {
            "feature": self.name,
            "beyond": list(self.beyond),
            "found": found,
            "limits": dict(self.limits),
        }


@dataclass(frozen=True, slots=True)
class ShadowLoss:
    """What the model would have lost on the day of a drift; negative is a gain.

    loss, holding_loss: of equity, net of costs, of the model's positions and of all symbols in equal weight,
    as negative log returns. squared_error, error_of_zero: of the predicted return and of predicting none, in
    squared log return of the bars whose outcome is known; None where none is.
    """

    loss: float
    holding_loss: float
    squared_error: float | None
    error_of_zero: float | None

    def to_json(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in self.__slots__}


def drift_of(reference: DriftReference, features: FloatArray) -> tuple[FeatureDrift, ...]:
    """Every feature's last day in features (T, S, F) of the reference's, in its order; T of two days or more.

    Raises DataError as `DriftReference.measure` does.
    """
    found = reference.measure(features)
    return tuple(
        FeatureDrift(
            name,
            dict(zip(MEASURES, found[:, column].tolist(), strict=True)),
            dict(zip(MEASURES, reference.limits[:, column].tolist(), strict=True)),
        )
        for column, name in enumerate(reference.names)
    )


def shadow_loss(
    model: SignalModel, panel: Panel, features: FloatArray, rows: int, costs: Costs
) -> ShadowLoss:
    """The loss over the last `rows` rows of the panel, whose features (T, S, F) the model reads.

    Positions are built up in the rows before: T should be `rows` and `model.window_bars` more. Fills are at
    the next bar's open, as in the backtest.
    """
    signals = model.evaluate(features)
    flat = np.nan_to_num(signals.target_position)
    held = np.full_like(flat, 1.0 / flat.shape[1])
    horizon = model.parameters.horizons_bars[-1]
    squared_error = error_of_zero = None
    if len(panel) > horizon + 1:
        # From the next open to the open `horizon` bars later, for rows whose outcome has come.
        outcome = np.log(panel.open[horizon + 1 :] / panel.open[1:-horizon])
        expected = signals.expected_return[: len(outcome)]
        last = slice(max(0, len(outcome) - rows), None)
        known = np.isfinite(outcome[last]) & np.isfinite(expected[last])
        if known.any():
            squared_error = float(np.mean(np.square(outcome[last] - expected[last])[known]))
            error_of_zero = float(np.mean(np.square(outcome[last])[known]))
    return ShadowLoss(
        _loss(flat, panel, rows, costs, model.parameters.no_trade_band),
        _loss(held, panel, rows, costs, model.parameters.no_trade_band),
        squared_error,
        error_of_zero,
    )


def _loss(targets: FloatArray, panel: Panel, rows: int, costs: Costs, band: float) -> float:
    account = simulate(decided_at_close(targets), panel.open, panel.close, costs, no_trade_band=band)
    first = len(panel) - rows
    begin = account.equity[first - 1] if first > 0 else account.start_equity
    return float(np.log(begin / account.equity[-1]))
