"""Shadow accounts: what each member, and each way of weighing them, would have earned on live bars.

An account holds what its decisions say, through the market step, as the backtest's accounts do: decided at a
close, filled at the next bar's open, beyond the no-trade band, marked at the close. Nothing here fills or
charges by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Self

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.stores.signals import Signal
from levibot.trading.backtest import START_EQUITY
from levibot.trading.costs import Costs
from levibot.trading.ledger import ShadowFill
from levibot.trading.market_step import Account, market_step, trades_of
from levibot.trading.sizing import ordered_beyond

_ONE_US = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Decision:
    """What every account wants of one symbol, decided at `as_of`, the close of a bar.

    positions: by account, fraction of its equity; an account that is not there orders nothing. no_trade_band:
    fraction of equity. blend: how they came about, JSON values.
    """

    symbol: str
    as_of: datetime
    model_version: str
    view_version: str
    no_trade_band: float
    positions: Mapping[str, float]
    blend: Mapping[str, Any]

    @classmethod
    def of(cls, signal: Signal) -> Self:
        """What a served signal makes the accounts want. Raises DataError on one without a blend."""
        if signal.blend is None:
            raise DataError(f"The signal of {signal.symbol} at {signal.as_of.isoformat()} tells no members.")
        return cls(
            symbol=signal.symbol,
            as_of=signal.as_of,
            model_version=signal.model_version,
            view_version=signal.view_version,
            no_trade_band=signal.blend.no_trade_band,
            positions=signal.blend.positions,
            blend=signal.blend.to_json(),
        )


@dataclass(frozen=True, slots=True)
class Day:
    """An account over a UTC day: its equity before the first bar and after the newest one."""

    account: str
    day: date
    opened_equity: float
    equity: float

    @property
    def net_return(self) -> float:
        """Simple; 0 of an account without equity, as in `daily_returns`."""
        return self.equity / self.opened_equity - 1.0 if self.opened_equity > 0.0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Book:
    """All accounts after the newest priced bar. symbols: the columns of every account.

    days: the newest day of each account.
    """

    symbols: tuple[str, ...]
    accounts: Mapping[str, Account]
    days: Mapping[str, Day]

    @classmethod
    def empty(cls, symbols: Sequence[str]) -> Self:
        """Nobody has an account yet."""
        return cls(tuple(symbols), {}, {})

    def with_symbols(self, symbols: Sequence[str]) -> Book:
        """The same accounts with columns for these symbols too, flat and never priced."""
        new = tuple(symbol for symbol in symbols if symbol not in self.symbols)
        if not new:
            return self
        flat, unseen = np.zeros(len(new)), np.full(len(new), np.nan)
        accounts = {
            name: Account(
                np.append(held.units, flat), np.append(held.last_price, unseen), held.cash, held.equity
            )
            for name, held in self.accounts.items()
        }
        return Book((*self.symbols, *new), accounts, self.days)


@dataclass(frozen=True, slots=True)
class Marked:
    """An account's equity after a bar."""

    account: str
    closes_at: datetime
    equity: float


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """What some bars have done. days: every day of them, of each account; fills, marked: oldest first."""

    book: Book
    fills: tuple[ShadowFill, ...]
    days: tuple[Day, ...]
    priced_to: datetime
    marked: tuple[Marked, ...] = ()


def price(
    book: Book, rows: Panel, priced_to: datetime, decisions: Sequence[Decision], costs: Costs
) -> Priced:
    """Take every account through the rows of a panel, oldest first, all of them later than `priced_to`.

    The decisions taken at the close of a row fill at the open of the next one; those at `priced_to` at that
    of the first. An account is opened with the backtest's start equity at the first row that it decides.
    Raises DataError on a panel that begins before `priced_to`, or without rows.
    """
    if len(rows) == 0 or to_datetime(rows.ts[0]) < priced_to:
        raise DataError(f"Bars are priced from {priced_to.isoformat()} on: there are none, or earlier ones.")
    book = book.with_symbols(rows.symbols)
    column = {symbol: place for place, symbol in enumerate(book.symbols)}
    places = [column[symbol] for symbol in rows.symbols]
    at_close: dict[datetime, list[Decision]] = defaultdict(list)
    for decision in decisions:
        if decision.symbol in column:
            at_close[decision.as_of].append(decision)
    accounts, days = dict(book.accounts), dict(book.days)
    touched: dict[tuple[str, date], Day] = {}
    fills: list[ShadowFill] = []
    marked: list[Marked] = []
    decided_at = priced_to
    for t in range(len(rows)):
        fill, mark = (np.full(len(book.symbols), np.nan) for _ in range(2))
        fill[places], mark[places] = rows.open[t], rows.close[t]
        decided = at_close.get(decided_at, [])
        opens_at, closes_at = to_datetime(rows.ts[t]), to_datetime(rows.closes_at[t])
        names = dict.fromkeys([*accounts, *(name for one in decided for name in one.positions)])
        for name in names:
            before = accounts.get(name) or Account.opened(len(book.symbols), START_EQUITY)
            after, _, orders = market_step(
                before, _ordered(name, before, decided, column, fill), fill=fill, mark=mark, costs=costs
            )
            version = {one.symbol: one.model_version for one in decided}
            for place, trade in trades_of(orders, fill, costs):
                symbol = book.symbols[place]
                fills.append(
                    ShadowFill(
                        symbol=symbol,
                        ts=opens_at,
                        account=name,
                        # What nobody decided is the closing of an account without equity.
                        model_version=version.get(symbol, ""),
                        units=trade.units,
                        price=trade.price,
                        fee=trade.fee,
                        slippage=trade.slippage,
                        funding=0.0,
                        equity=after.equity,
                    )
                )
            accounts[name] = after
            marked.append(Marked(name, closes_at, after.equity))
            day = (closes_at - _ONE_US).date()
            known = days.get(name)
            opened = known.opened_equity if known is not None and known.day == day else before.equity
            days[name] = touched[name, day] = Day(name, day, opened, after.equity)
        decided_at = closes_at
    after_all = Book(book.symbols, accounts, days)
    return Priced(after_all, tuple(fills), tuple(touched.values()), decided_at, tuple(marked))


def _ordered(
    name: str, account: Account, decided: Sequence[Decision], column: Mapping[str, int], fill: FloatArray
) -> FloatArray:
    """(S,) what an account orders: its wanted positions that are worth their cost, NaN = nothing."""
    ordered = np.full(len(fill), np.nan)
    weights = account.weights(fill)
    for decision in decided:
        if name in decision.positions:
            place = column[decision.symbol]
            ordered[place] = ordered_beyond(
                decision.positions[name], float(weights[place]), decision.no_trade_band
            )
    return ordered


def settled_rows(
    panel: Panel,
    decided: Mapping[datetime, frozenset[str]],
    priced_to: datetime,
    give_up_at: datetime,
) -> int:
    """How many rows of a panel, all later than `priced_to`, are whole, so that they can be priced for good.

    A row is whole when every symbol has its bar, or a later one, and each symbol that has one was decided at
    the close before. One that closed at `give_up_at` or earlier counts as it is: what is not there by then is
    an outage. Rows after one that is not whole wait for it. decided: which symbols, by close.
    """
    has_bar = ~np.isnan(panel.close)
    decided_at = priced_to
    for t in range(len(panel)):
        closes_at = to_datetime(panel.closes_at[t])
        here = frozenset(s for s, there in zip(panel.symbols, has_bar[t], strict=True) if there)
        is_whole = bool(has_bar[t:].any(axis=0).all()) and here <= decided.get(decided_at, frozenset())
        if not is_whole and closes_at > give_up_at:
            return t
        decided_at = closes_at
    return len(panel)
