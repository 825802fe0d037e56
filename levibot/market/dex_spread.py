"""How far decentralised exchanges are from ours, for the poll: 0x quotes beside the exchange's prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from levibot.market.dex import NAME, DexClient, Token
from levibot.market.exchange_client import ExchangeClient
from levibot.market.observations import Reading
from levibot.market.outside_source import Newest
from levibot.market.side_series import DEX_SPREAD
from levibot.market.source_status import SourceStatus

ETHEREUM = 1
TETHER = Token("USDT", "0xdac17f958d2ee523a2206206994597c13d831ec7", 6)


@dataclass(frozen=True, slots=True)
class Pair:
    """What stands for a symbol on a chain. amount: of `base`, sold for `quote`: a few thousand dollars."""

    base: Token
    quote: Token
    amount: float


# The symbols whose coin is traded in depth on Ethereum itself; others have no spread, which is no fault.
PAIRS: Mapping[str, Pair] = {
    "BTCUSDT": Pair(Token("WBTC", "0x2260fac5e5542a773aa44fbcfedf7c193bc2c599", 8), TETHER, 0.05),
    "ETHUSDT": Pair(Token("WETH", "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2", 18), TETHER, 1.0),
}


class DexSpread:
    """Price of 0x over the exchange's mid price, less one, by symbol. The clients are closed with this."""

    def __init__(
        self, dex: DexClient, exchange: ExchangeClient, symbols: Sequence[str], *, every_s: float
    ) -> None:
        self._dex = dex
        self._exchange = exchange
        self._pairs = {symbol: PAIRS[symbol] for symbol in symbols if symbol in PAIRS}
        self._every_s = every_s

    @property
    def name(self) -> str:
        return NAME

    @property
    def every_s(self) -> float:
        return self._every_s

    async def status(self) -> SourceStatus:
        status = await self._dex.status()
        if status.is_disabled or self._pairs:
            return status
        return SourceStatus(NAME, True, f"none of the symbols is known on a chain: {', '.join(PAIRS)} are.")

    async def look(self, newest: Newest) -> list[Reading]:  # noqa: ARG002 - a quote has no past
        tops = await self._exchange.tops_of_book(tuple(self._pairs))
        readings = []
        for symbol, pair in self._pairs.items():
            # Live or an error: a quote of minutes ago beside a price of now would be a spread of neither.
            quote = await self._dex.fetch_quote(ETHEREUM, pair.base, pair.quote, pair.amount)
            spread = quote.price / tops[symbol].mid - 1.0
            readings.append(Reading(DEX_SPREAD, symbol, quote.as_of, spread))
        return readings

    async def close(self) -> None:
        await self._dex.close()
        await self._exchange.close()
