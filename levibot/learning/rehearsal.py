"""What a model would have earned on days that it has not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from levibot.errors import DataError
from levibot.features.engine import compute
from levibot.features.view import FeatureView
from levibot.features.views import VIEWS
from levibot.learning.past import Knowledge, columns_of
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray, to_datetime64
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.metrics import daily_returns


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """Daily returns (D,) of one account, after and before costs, from the UTC day of `start` on."""

    start: datetime
    net: FloatArray
    gross: FloatArray


def rehearse(model: SignalModel, known: Knowledge, start: datetime, costs: Costs) -> Rehearsal:
    """Trade the rows of `known` from `start` on, by a model that has learned from none of them.

    Decisions at closes, the first at the close before `start`, fills at the next open.
    Raises DataError where the model has seen `start`, there are no rows from there on, and as `features_for`.
    """
    if model.train_end > start:
        raise DataError(
            f"The model has learned until {model.train_end.isoformat()}: from {start.isoformat()} on "
            "nothing that it earns is out of sample."
        )
    panel = known.panel
    first = int(np.searchsorted(panel.ts, to_datetime64(start)))
    if first == len(panel):
        raise DataError(f"There are no bars from {start.isoformat()} on to rehearse.")
    features = features_for(model, known)
    lead = max(0, first - model.window_bars)
    targets = np.full(panel.open.shape, np.nan)
    targets[lead:] = model.evaluate(features[lead:]).target_position
    # The window of the first rows is not whole.
    targets[: max(0, first - 1)] = np.nan
    ordered = decided_at_close(targets)[first:]
    test = panel.rows(slice(first, len(panel)))
    net, gross = (
        simulate(ordered, test.open, test.close, paid, no_trade_band=model.parameters.no_trade_band)
        for paid in (costs, NO_COSTS)
    )
    return Rehearsal(
        start,
        daily_returns(test.closes_at, net.equity, net.start_equity),
        daily_returns(test.closes_at, gross.equity, gross.start_equity),
    )


def features_for(model: SignalModel, known: Knowledge) -> FloatArray:
    """(T, S, F) what the model reads of the rows of `known`.

    Out of `known` where it is of the model's view, and computed from its bars where it is of another one.
    Raises DataError where the symbols differ, or the code no longer has that version of the view.
    """
    panel = known.panel
    if model.symbols != panel.symbols or model.interval != panel.interval:
        raise DataError(
            f"The model trades {', '.join(model.symbols)} in bars of {model.interval}; there are "
            f"{', '.join(panel.symbols)} in bars of {panel.interval}."
        )
    if (model.view, model.view_version) == (known.view, known.view_version):
        return columns_of(known.features, known.feature_names, model.feature_names)
    view = _view_of(model)
    return columns_of(compute(view, panel), view.names, model.feature_names)


def _view_of(model: SignalModel) -> FeatureView:
    for view in VIEWS:
        if (view.name, view.version) == (model.view, model.view_version):
            return view
    raise DataError(f"The model reads view {model.view} {model.view_version}, which this code does not have.")
