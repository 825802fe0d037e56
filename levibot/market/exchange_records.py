"""What an exchange tells beside bars and trades."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from levibot.market.bars import FloatArray


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """How far the exchange's clock is ahead of ours; negative: behind.

    error_s: half the round trip, the most by which `skew_s` may be off.
    """

    skew_s: float
    error_s: float
    as_of: datetime


@dataclass(frozen=True, slots=True)
class ExchangeStatus:
    """Whether the exchange says that it works. reason: empty while it does."""

    is_operating: bool
    reason: str
    as_of: datetime


@dataclass(frozen=True, slots=True)
class MarketRules:
    """What an order in this market must fulfil, and what it costs.

    price_step in quote, size_step in base currency; min_notional in quote currency, None where the exchange
    has none. Fees are those of an account without discounts.
    """

    symbol: str
    price_step: float
    size_step: float
    min_notional: float | None
    maker_fee_bps: float
    taker_fee_bps: float


@dataclass(frozen=True, slots=True)
class TopOfBook:
    """Best bid and ask. Prices in quote, sizes in base currency, all > 0; bid < ask."""

    symbol: str
    bid: float
    bid_size: float
    ask: float
    ask_size: float
    as_of: datetime

    @property
    def mid(self) -> float:
        """Between the best prices."""
        return (self.bid + self.ask) / 2.0

    @property
    def spread_bps(self) -> float:
        """From bid to ask, of the mid price."""
        return 1e4 * (self.ask - self.bid) / self.mid


@dataclass(frozen=True, slots=True)
class DayStatistics:
    """The last 24 hours of a market. last_price in quote, volume in base currency."""

    symbol: str
    last_price: float
    volume: float
    as_of: datetime


@dataclass(frozen=True, slots=True)
class OrderBook:
    """Resting orders. Each array (levels,), best first: prices in quote, sizes in base currency."""

    symbol: str
    bid_price: FloatArray
    bid_size: FloatArray
    ask_price: FloatArray
    ask_size: FloatArray
    as_of: datetime


@dataclass(frozen=True, slots=True)
class FundingRate:
    """What the long side of a perpetual paid the short side at `ts`, as a fraction of the position."""

    symbol: str
    ts: datetime
    rate: float
