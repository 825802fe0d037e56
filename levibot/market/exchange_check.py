"""Whether an exchange can be relied on now, and what its markets look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from levibot.clock import Clock
from levibot.market.exchange_client import ExchangeClient
from levibot.market.exchange_records import ClockSkew, ExchangeStatus

# A bar is taken for finished by our clock; this far off it could be read before the exchange finished it.
MAX_SKEW_S = 1.0
# Orders within this distance of the mid price count as depth.
DEPTH_BPS = 10.0
FUNDING_WINDOW = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Health:
    """What the exchange says of itself, and how its clock stands to ours."""

    exchange_id: str
    status: ExchangeStatus
    skew: ClockSkew

    @property
    def problem(self) -> str:
        """Why bars and trades of now should not be relied on; empty when they can."""
        if not self.status.is_operating:
            return self.status.reason
        skew_s = self.skew.skew_s
        if abs(skew_s) - self.skew.error_s > MAX_SKEW_S:
            side = "behind" if skew_s > 0.0 else "ahead of"
            return (
                f"This machine's clock is {abs(skew_s):.1f} s {side} that of {self.exchange_id}, "
                f"more than {MAX_SKEW_S:g} s: set it by NTP."
            )
        return ""


@dataclass(frozen=True, slots=True)
class MarketSnapshot:
    """One market now. spread_bps: from bid to ask, of the mid price; fee_bps: for taking, of the notional.

    depth: what rests within 10 bps of the mid price on both sides, and day_volume: of 24 hours; both in base
    currency. trade_age_s: since the newest trade, None before the first. funding_bps: what the long side of
    the perpetual paid last, None without a perpetual.
    """

    symbol: str
    mid: float
    spread_bps: float
    depth: float
    day_volume: float
    fee_bps: float
    trade_age_s: float | None
    funding_bps: float | None


async def check_health(client: ExchangeClient) -> Health:
    """Ask the exchange for its status and its time. Raises SourceUnavailable and SourceError."""
    return Health(client.exchange_id, await client.status(), await client.clock_skew())


async def look_at_markets(
    spot: ExchangeClient, perpetual: ExchangeClient | None, symbols: Sequence[str], clock: Clock
) -> tuple[MarketSnapshot, ...]:
    """A snapshot of each symbol. Raises UnknownSymbol, SourceUnavailable and SourceError."""
    tops = await spot.tops_of_book(symbols)
    days = await spot.day_statistics(symbols)
    funded = set() if perpetual is None else set(symbols) & set(await perpetual.pairs())
    snapshots = []
    for symbol in symbols:
        rules = await spot.rules(symbol)
        trades = await spot.newest_trades(symbol, 1)
        top = tops[symbol]
        newest = trades.ts[-1].item() if len(trades) else None
        funding = (
            await _last_funding_bps(perpetual, symbol, clock) if perpetual and symbol in funded else None
        )
        snapshots.append(
            MarketSnapshot(
                symbol,
                top.mid,
                top.spread_bps,
                await _depth(spot, symbol),
                days[symbol].volume,
                rules.taker_fee_bps,
                None if newest is None else _age_s(newest, clock),
                funding,
            )
        )
    return tuple(snapshots)


async def _depth(client: ExchangeClient, symbol: str) -> float:
    book = await client.order_book(symbol, 100)
    mid = (book.bid_price[0] + book.ask_price[0]) / 2.0
    reach = mid * DEPTH_BPS / 1e4
    bids = book.bid_size[book.bid_price >= mid - reach]
    asks = book.ask_size[book.ask_price <= mid + reach]
    return float(np.sum(bids) + np.sum(asks))


async def _last_funding_bps(client: ExchangeClient, symbol: str, clock: Clock) -> float | None:
    rates = await client.funding_rates(symbol, clock.now() - FUNDING_WINDOW)
    return 1e4 * rates[-1].rate if rates else None


def _age_s(newest: datetime, clock: Clock) -> float:
    return max(0.0, (clock.now().replace(tzinfo=None) - newest).total_seconds())
