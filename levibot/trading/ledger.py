"""What is written down of trading: signals, shadow fills and orders, each once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class SignalRow:
    """What one model version said of a symbol. as_of: close of the newest bar it rests on, aware UTC.

    source: what produced it. probability_up: in [0, 1]. target_position: fraction of equity, below 0 short.
    expected_return: log return, None where the model gives none.
    """

    symbol: str
    as_of: datetime
    model_version: str
    view_version: str
    source: str
    probability_up: float
    target_position: float
    expected_return: float | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class ShadowFill:
    """What an account's order would have done. ts: opening of the bar at whose price it filled, aware UTC.

    account: a member of the ensemble, or a way of weighing them. model_version: which version decided, empty
    where an account without equity was closed. units: traded, in base currency, below 0 when sold. price:
    > 0, with slippage. fee, slippage: >= 0, in quote currency. funding: paid, below 0 when received. equity:
    of the account after the bar.
    """

    symbol: str
    ts: datetime
    account: str
    model_version: str
    units: float
    price: float
    fee: float
    slippage: float
    funding: float
    equity: float


@dataclass(frozen=True, slots=True)
class Order:
    """An order that was sent or received. order_id: ours, not empty; a repeat carries the same one.

    at: aware UTC. units: > 0, in base currency. limit_price: > 0, None at the market. source: who asked for
    it, a model version or a webhook.
    """

    order_id: str
    symbol: str
    at: datetime
    side: Literal["buy", "sell"]
    units: float
    source: str
    limit_price: float | None = None
    trace_id: str | None = None
