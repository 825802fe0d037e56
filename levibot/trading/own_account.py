"""What a policy sees of its own account, and how that account goes through a bar.

Training plays thousands of these accounts in arrays (rl/account_kernel.py), serving keeps one a symbol: both
call what is here, so that a served policy sees what it was trained on. Prices are met in
`levibot.trading.market_step.step_alone`, and nowhere here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.market_step import Rules, step_alone, weigh_alone
from levibot.trading.sizing import ordered_beyond

# What is seen of the account, behind the features and the share of them that is missing.
OWN = ("position", "unrealised_return", "idle")
# Nothing that a policy sees lies outside: a flash crash must not be an input that it never met.
CLIP = 5.0
# Unrealised returns are told in deviations of the market over so many bars.
HOLDING_BARS = 24.0

# units, last_price, cash, equity: as in `step_alone`. side: -1, 0 or 1, of the open position;
# opened_at_equity: equity before the order that opened it. idle_bars: since the last order, or the beginning.
HELD_FIELDS = (
    *((name, np.int64) for name in ("side", "idle_bars")),
    *((name, np.float64) for name in ("units", "last_price", "cash", "equity", "opened_at_equity")),
)
HELD = np.dtype([*HELD_FIELDS])


# Inlined: as a call of its own it cost the environments a quarter of their speed.
@njit(cache=True, inline="always")
def hold(
    held: Any,
    target: float,
    fill: float,
    mark: float,
    impact: float,
    funding_rate: float,
    rules: Rules,
    no_trade_band: float,
) -> float:
    """Take an account, a record with the fields of HELD, through a bar; returns its position at the close.

    target: of the close before, as a fraction of equity. The others as in `step_alone`.
    """
    before, units_before = held.equity, held.units
    weight = 0.0
    if no_trade_band > 0.0:
        # What the band compares with is the position at the price at which the order would fill.
        weight = weigh_alone(units_before, held.cash, fill, held.last_price)
    units, last_price, cash, equity = step_alone(
        units_before,
        held.last_price,
        held.cash,
        ordered_beyond(target, weight, no_trade_band),
        fill,
        mark,
        rules,
        impact,
        funding_rate,
    )
    held.units, held.last_price, held.cash, held.equity = units, last_price, cash, equity
    held.idle_bars = held.idle_bars + 1 if units == units_before else 0
    position: float = weigh_alone(units, cash, last_price, last_price)
    # What a band leaves of a closed position is no open one, also when it grows a little with its price.
    side = 0 if abs(position) <= 2.0 * no_trade_band else (1 if position > 0.0 else -1)
    if side != held.side:
        held.side, held.opened_at_equity = side, before
    return position


@njit(cache=True)
def seen_of(held: Any, position: float, per_unrealised: float) -> tuple[float, float, float]:
    """What is seen of an account, see `OWN`. per_unrealised: see `per_unrealised_of`."""
    unrealised = 0.0
    if held.side != 0:
        unrealised = (held.equity / held.opened_at_equity - 1.0) * per_unrealised
    idle = held.idle_bars / (held.idle_bars + HOLDING_BARS)
    return min(max(position, -CLIP), CLIP), min(max(unrealised, -CLIP), CLIP), idle


def per_unrealised_of(bar_volatility: float) -> float:
    """What an unrealised return is multiplied by. bar_volatility: of the training window, a log return."""
    return 1.0 / (bar_volatility * float(np.sqrt(HOLDING_BARS)))


class OwnAccount:
    """One live account of one symbol, as its policy sees it. State: the account, changed by `advance`.

    start_equity, no_trade_band, rules, bar_volatility: those of the training. Not safe to share.
    Raises DataError on a price that is not above zero.
    """

    def __init__(
        self, price: float, *, start_equity: float, no_trade_band: float, rules: Rules, bar_volatility: float
    ) -> None:
        _check_price("first", price)
        self._records: npt.NDArray[np.void] = np.zeros(1, dtype=HELD)
        for name in ("cash", "equity", "opened_at_equity"):
            self._records[name] = start_equity
        self._records["last_price"] = price
        self._position = 0.0
        self._rules = rules
        self._no_trade_band = no_trade_band
        self._per_unrealised = per_unrealised_of(bar_volatility)

    def advance(
        self, target: float, fill: float, mark: float, *, impact: float = 0.0, funding_rate: float = 0.0
    ) -> None:
        """The bar after a decision: it fills at the bar's open and is marked at its close."""
        _check_price("fill", fill)
        _check_price("mark", mark)
        self._position = _hold_first(
            self._records, target, fill, mark, impact, funding_rate, self._rules, self._no_trade_band
        )

    def seen(self) -> FloatArray:
        """(3,) see `OWN`."""
        return np.array(_seen_first(self._records, self._position, self._per_unrealised))

    @property
    def equity(self) -> float:
        """In quote currency, at the last mark."""
        return float(self._records["equity"][0])


@njit(cache=True)
def _hold_first(
    records: npt.NDArray[np.void],
    target: float,
    fill: float,
    mark: float,
    impact: float,
    funding_rate: float,
    rules: Rules,
    no_trade_band: float,
) -> float:
    position: float = hold(records[0], target, fill, mark, impact, funding_rate, rules, no_trade_band)
    return position


@njit(cache=True)
def _seen_first(
    records: npt.NDArray[np.void], position: float, per_unrealised: float
) -> tuple[float, float, float]:
    seen: tuple[float, float, float] = seen_of(records[0], position, per_unrealised)
    return seen


def _check_price(what: str, price: float) -> None:
    if not 0.0 < price < np.inf:
        raise DataError(f"The {what} price of an account is {price}: it must be above zero.")
