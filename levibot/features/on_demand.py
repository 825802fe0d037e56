"""Features that need the request: its instant, its order. Computed when it comes, from the newest bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from levibot.errors import UnknownSymbol, UsageError
from levibot.features.feature import Definition
from levibot.features.inputs import FILL_LIMIT, Inputs
from levibot.features.rolling import log_ratio, ratio, rolling_mean, rolling_sum
from levibot.market.bars import FloatArray, Panel, TimeArray, to_datetime64


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks about. as_of: aware UTC. order_notional: in quote currency, > 0; None without one.

    Raises UsageError on an order of no size.
    """

    symbol: str
    as_of: datetime
    order_notional: float | None = None

    def __post_init__(self) -> None:
        if self.order_notional is not None and not 0.0 < self.order_notional < np.inf:
            raise UsageError(
                f"An order of {self.order_notional:g} in quote currency has no size.",
                hint="Give a size above 0, or none.",
            )


@dataclass(frozen=True)
class OnDemandFeature(Definition):
    """One number per request.

    formula: called as formula(inputs, request, **parameters) with the bars of the request's symbol that were
    finished at `as_of`; returns (T, 1), of which the last row counts. NaN where the value is not known.
    """

    def compute(self, inputs: Inputs, request: Request) -> FloatArray:
        """The feature over the rows of `inputs`, (T, 1)."""
        return self.formula(inputs, request, **self.arguments)


def compute_on_demand(features: Sequence[OnDemandFeature], panel: Panel, request: Request) -> FloatArray:
    """The features of one request, (F,), from the bars that were finished at `as_of`.

    panel: may be as long as it likes; what the longest feature reads is taken. NaN without such bars.
    Raises UnknownSymbol on a symbol that the panel does not have.
    """
    if request.symbol not in panel.symbols:
        raise UnknownSymbol(
            f"The panel does not have {request.symbol}.", hint=f"It has {', '.join(panel.symbols)}."
        )
    column = panel.symbols.index(request.symbol)
    finished = int(np.searchsorted(panel.closes_at, to_datetime64(request.as_of), side="right"))
    window_bars = max((feature.warmup_bars for feature in features), default=1) + FILL_LIMIT
    known = panel.rows(slice(max(0, finished - window_bars), finished)).columns(slice(column, column + 1))
    if len(known) == 0:
        return np.full(len(features), np.nan)
    inputs = Inputs(known.by_symbol())
    return np.array([feature.compute(inputs, request)[-1, 0] for feature in features])


def bar_age(inputs: Inputs, request: Request) -> FloatArray:
    """Time from the close of the symbol's newest bar to the request, in bars."""
    closes_at = np.where(inputs.has_bar[:, 0], inputs.panel.closes_at, np.datetime64("NaT"))
    newest: TimeArray = np.fmax.accumulate(closes_at)
    age: FloatArray = (to_datetime64(request.as_of) - newest) / np.timedelta64(inputs.panel.interval)
    return age[:, None]


def order_size(inputs: Inputs, request: Request, bars: int) -> FloatArray:
    """log of the order over the mean dollar volume of a bar. NaN without an order, or without trade."""
    return log_ratio(_order(inputs, request), rolling_mean(inputs.dollar_volume, bars))


def order_impact(inputs: Inputs, request: Request, bars: int) -> FloatArray:
    """The order times the absolute return per dollar traded: the log return that it may cost."""
    moved = rolling_sum(np.abs(inputs.log_return), bars)
    return _order(inputs, request) * ratio(moved, rolling_sum(inputs.dollar_volume, bars))


def _order(inputs: Inputs, request: Request) -> FloatArray:
    size = np.nan if request.order_notional is None else request.order_notional
    return np.full(inputs.panel.close.shape, size)


def _order_size(bars: int) -> OnDemandFeature:
    return OnDemandFeature(
        name=f"order_size_{bars}",
        family="request",
        unit="log ratio",
        source="Almgren & Chriss 2001: an order is measured by the volume that the market trades",
        inputs=("close", "volume", "order_notional"),
        window_bars=bars,
        formula=order_size,
        parameters=(("bars", bars),),
    )


ON_DEMAND = (
    OnDemandFeature(
        name="bar_age",
        family="request",
        unit="bars",
        source="time since the newest bar's close",
        inputs=("ts", "as_of"),
        window_bars=1,
        formula=bar_age,
    ),
    _order_size(24),
    _order_size(168),
    OnDemandFeature(
        name="order_impact_168",
        family="request",
        unit="log return",
        source="Amihud 2002: absolute return per dollar of volume, times the order",
        inputs=("close", "volume", "order_notional"),
        window_bars=169,
        formula=order_impact,
        parameters=(("bars", 168),),
    ),
)
