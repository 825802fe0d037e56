"""Under what a backtest trades: costs, terms, delay and capital."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from levibot.errors import DataError
from levibot.trading.backtest import START_EQUITY
from levibot.trading.costs import Costs
from levibot.trading.terms import Terms


@dataclass(frozen=True, slots=True)
class Conditions:
    """The same for every strategy of a report. By default nobody pays funding and nothing limits a position.

    latency_bars: how many bars after the next one an order fills. capital: of each account at its start, in
    quote currency; it matters to impact and to `Terms.max_notional` alone. Raises DataError on a latency
    below zero and a capital that is not above it.
    """

    costs: Costs = field(default_factory=Costs)
    terms: Terms = field(default_factory=lambda: Terms(funded="none"))
    latency_bars: int = 0
    capital: float = START_EQUITY

    def __post_init__(self) -> None:
        if self.latency_bars < 0 or not 0.0 < self.capital < math.inf:
            raise DataError(
                f"A latency of {self.latency_bars} bars and a capital of {self.capital} cannot be traded: "
                "the one must be 0 or more, the other above 0 and finite."
            )

    def departures(self) -> dict[str, Any]:
        """What differs from the default, costs aside; JSON values. Empty where nothing does."""
        usual = Conditions(self.costs)
        mine, theirs = (
            asdict(of.terms) | {"latency_bars": of.latency_bars, "capital": of.capital}
            for of in (self, usual)
        )
        return {name: value for name, value in mine.items() if value != theirs[name]}


CONDITIONS = Conditions()
