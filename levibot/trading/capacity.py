"""How much money a strategy can trade before it moves the market against itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from levibot.market.bars import FloatArray
from levibot.trading.costs import Costs
from levibot.trading.metrics import sharpe
from levibot.trading.tape import Tape

# Y = 1 in the square-root law: what it is measured at across markets (Toth et al. 2011).
USUAL_IMPACT_BPS = 10.0
LEAST_NOTIONAL, MOST_NOTIONAL = 1e3, 1e12
_WITHIN = 1.02


def capacity(tape: Tape, ordered: FloatArray, band: float) -> float:
    """The start equity, in quote currency, at which impact has halved the net Sharpe ratio.

    ordered: (T, S) fractions of equity on the bar that each fills on. The costs' own impact is charged, or
    the usual one where they have none. Found within 2 %, between 1e3 and 1e12: an account beyond is given as
    the bound. NaN where the strategy earns nothing without impact, or the market shows no volume or no moves.
    """
    if tape.liquidity is None:
        return math.nan
    costs = tape.conditions.costs
    charged = replace(costs, impact_bps=costs.impact_bps or USUAL_IMPACT_BPS)

    def ratio(paid: Costs, equity: float) -> float:
        return sharpe(tape.daily_returns(tape.trade(ordered, band, costs=paid, capital=equity)))

    whole = ratio(replace(costs, impact_bps=0.0), MOST_NOTIONAL)
    if not whole > 0.0:
        return math.nan
    # An account that impact has closed has no ratio: it is beyond the half.
    return _crossing(lambda equity: ratio(charged, equity) >= 0.5 * whole)


def _crossing(keeps_half: Callable[[float], bool]) -> float:
    """The geometric middle of the last equity that keeps half and the first that does not."""
    low, high = LEAST_NOTIONAL, MOST_NOTIONAL
    if not keeps_half(low):
        return low
    if keeps_half(high):
        return high
    while high / low > _WITHIN:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps_half(middle) else (low, middle)
    return math.sqrt(low * high)
