"""The bars of a test as accounts trade on them: prices, and what trading there costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel
from levibot.trading.backtest import BacktestResult, decided_at_close, simulate
from levibot.trading.conditions import Conditions
from levibot.trading.costs import Costs
from levibot.trading.liquidity import Liquidity, trailing_liquidity
from levibot.trading.metrics import daily_returns


@dataclass(frozen=True, slots=True, eq=False)
class Tape:
    """Some rows of a market. Every account of a report goes through `trade`.

    test: (T, S) the bars. rows: where they are in the market that the decisions are of. liquidity: None where
    the market shows none and no impact asks for it. funding_rate: (T, S) a bar, None where nobody pays any.
    """

    test: Panel
    rows: slice
    conditions: Conditions
    liquidity: Liquidity | None
    funding_rate: FloatArray | None

    @classmethod
    def of(
        cls, panel: Panel, rows: slice, conditions: Conditions, funding_rate: FloatArray | None = None
    ) -> Self:
        """funding_rate: (T, S) of the whole panel. Raises DataError where an impact cannot be measured."""
        test = panel.rows(rows)
        liquidity = None
        try:
            liquidity = trailing_liquidity(test)
        except DataError:
            if conditions.costs.impact_bps > 0.0:
                raise
        rates = None if funding_rate is None else np.ascontiguousarray(funding_rate[rows])
        return cls(test, rows, conditions, liquidity, rates)

    def ordered(self, positions: FloatArray) -> FloatArray:
        """(T, S) of the test: positions decided at the closes of the panel, on the bar each fills on."""
        return decided_at_close(positions, self.conditions.latency_bars)[self.rows]

    def trade(
        self, ordered: FloatArray, band: float, *, costs: Costs | None = None, capital: float | None = None
    ) -> BacktestResult:
        """One account. ordered: (T, S) as of `ordered`. costs, capital: those of the conditions where left
        out. Raises DataError as `simulate` does.
        """
        return self._account(ordered, slice(None), band, costs, capital)

    def trade_alone(self, ordered: FloatArray, column: int, *, costs: Costs | None = None) -> BacktestResult:
        """One account that holds one symbol, without a band. ordered: (T, S)."""
        return self._account(ordered, slice(column, column + 1), 0.0, costs, None)

    def daily_returns(self, account: BacktestResult) -> FloatArray:
        """(D,) see `metrics.daily_returns`."""
        return daily_returns(self.test.closes_at, account.equity, account.start_equity)

    def _account(
        self,
        ordered: FloatArray,
        columns: slice,
        band: float,
        costs: Costs | None,
        capital: float | None,
    ) -> BacktestResult:
        paid = self.conditions.costs if costs is None else costs
        there = self.liquidity
        of_columns = (
            None if there is None else Liquidity(there.volume[:, columns], there.volatility[:, columns])
        )
        return simulate(
            *(ordered[:, columns], self.test.open[:, columns], self.test.close[:, columns], paid),
            no_trade_band=band,
            terms=self.conditions.terms,
            liquidity=of_columns,
            funding_rate=None if self.funding_rate is None else self.funding_rate[:, columns],
            start_equity=self.conditions.capital if capital is None else capital,
        )
