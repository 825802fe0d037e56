"""From ccxt's dictionaries to typed values. Nonsense raises KeyError, IndexError, TypeError or ValueError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from levibot.market.bars import FloatArray
from levibot.market.exchange_records import (
    DayStatistics,
    ExchangeStatus,
    FundingRate,
    MarketRules,
    OrderBook,
    TopOfBook,
)
from levibot.market.ticks import Ticks

Answer = Any
# The opening instant in milliseconds, then open, high, low, close and volume.
BarRow = list[Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pairs_of(markets: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, str]:
    """ccxt's name of each symbol of one kind that is traded. key: `spot` or `swap`."""
    pairs = {
        f"{market['base']}{market['quote']}": pair
        for pair, market in markets.items()
        if market.get(key)
        and market.get("active") is not False
        # A perpetual that is settled in its base currency is another market.
        and market.get("inverse") is not True
    }
    if not pairs:
        raise ValueError("no market")
    return pairs


def rules_of(symbol: str, market: Mapping[str, Any]) -> MarketRules:
    """The rules in ccxt's description of a market."""
    least = market["limits"]["cost"]["min"]
    return MarketRules(
        symbol,
        price_step=positive(market["precision"]["price"]),
        size_step=positive(market["precision"]["amount"]),
        min_notional=None if least is None else positive(least),
        maker_fee_bps=1e4 * finite(market["maker"]),
        taker_fee_bps=1e4 * finite(market["taker"]),
    )


def instant_of(milliseconds: Answer) -> datetime:
    """An instant that the exchange gives as milliseconds since 1970."""
    if not isinstance(milliseconds, int):
        raise TypeError("an instant is a whole number")
    return EPOCH + timedelta(milliseconds=milliseconds)


def status_of(exchange_id: str, answer: Answer, as_of: datetime) -> ExchangeStatus:
    """What the exchange says of itself."""
    state = answer["status"]
    if not isinstance(state, str):
        raise TypeError("a status is a word")
    is_operating = state == "ok"
    reason = "" if is_operating else f"The exchange {exchange_id} says of itself: {state}."
    return ExchangeStatus(is_operating, reason, as_of)


def bar_rows_of(answer: Answer) -> list[BarRow]:
    """The rows as they are, once each has an instant; their numbers are checked as bars."""
    if not all(isinstance(row[0], int) for row in answer):
        raise TypeError("a bar opens at a whole number of milliseconds")
    return list(answer)


def ticks_of(symbol: str, rows: Sequence[Mapping[str, Any]]) -> Ticks:
    """Trades in the order of their ids, each once.

    Each has an id, an instant and a side, or the answer is none. Price and size are as the exchange has them,
    NaN where it has none: who stores trades screens them, so that a broken one does not hold up the rest.
    """
    by_id = {int(row["id"]): row for row in rows}
    ids = sorted(by_id)
    if ids and ids[0] <= 0:
        raise ValueError("a trade has an id above 0")
    ordered = [by_id[trade_id] for trade_id in ids]
    milliseconds = [row["timestamp"] for row in ordered]
    if not all(isinstance(at, int) for at in milliseconds):
        raise TypeError("an instant is a whole number of milliseconds")
    return Ticks(
        symbol,
        np.array(milliseconds, np.int64).astype("datetime64[ms]").astype("datetime64[us]"),
        np.array([row["price"] for row in ordered], np.float64),
        np.array([row["amount"] for row in ordered], np.float64),
        np.array(ids, np.int64),
        # The side is the taker's.
        np.array([{"buy": False, "sell": True}[row["side"]] for row in ordered], np.bool_),
    )


def days_of(
    answer: Mapping[str, Mapping[str, Any]], pairs: Mapping[str, str], as_of: datetime
) -> dict[str, DayStatistics]:
    """The last 24 hours of each symbol. pairs: ccxt's name of each."""
    return {
        symbol: DayStatistics(
            symbol, positive(answer[pair]["last"]), not_negative(answer[pair]["baseVolume"]), as_of
        )
        for symbol, pair in pairs.items()
    }


def tops_of(
    answer: Mapping[str, Mapping[str, Any]], pairs: Mapping[str, str], as_of: datetime
) -> dict[str, TopOfBook]:
    """Best bid and ask of each symbol. pairs: ccxt's name of each."""
    tops = {}
    for symbol, pair in pairs.items():
        bid, bid_size, ask, ask_size = (
            positive(answer[pair][name]) for name in ("bid", "bidVolume", "ask", "askVolume")
        )
        if bid >= ask:
            raise ValueError("the best bid is not below the best ask")
        tops[symbol] = TopOfBook(symbol, bid, bid_size, ask, ask_size, as_of)
    return tops


def book_of(symbol: str, answer: Mapping[str, Any], as_of: datetime) -> OrderBook:
    """The resting orders of both sides, neither of them empty."""
    bids, asks = (_levels(answer[side]) for side in ("bids", "asks"))
    if bids[0, 0] >= asks[0, 0]:
        raise ValueError("the best bid is not below the best ask")
    return OrderBook(symbol, bids[:, 0], bids[:, 1], asks[:, 0], asks[:, 1], as_of)


def funding_of(symbol: str, rows: Sequence[Mapping[str, Any]]) -> tuple[FundingRate, ...]:
    """Funding rates, oldest first."""
    rates = (FundingRate(symbol, instant_of(row["timestamp"]), finite(row["fundingRate"])) for row in rows)
    return tuple(sorted(rates, key=lambda rate: rate.ts))


def finite(value: Any) -> float:
    """A number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no number")
    return number


def positive(value: Any) -> float:
    """A number above 0."""
    number = finite(value)
    if number <= 0.0:
        raise ValueError(f"{number} is not above 0")
    return number


def not_negative(value: Any) -> float:
    """A number of at least 0."""
    number = finite(value)
    if number < 0.0:
        raise ValueError(f"{number} is below 0")
    return number


def _levels(side: Sequence[Sequence[Any]]) -> FloatArray:
    """(levels, 2) of price and size, levels >= 1, read-only."""
    levels = np.array([[positive(level[0]), positive(level[1])] for level in side], np.float64)
    if not len(levels):
        raise ValueError("an empty side")
    levels.flags.writeable = False
    return levels
