"""Funding of the perpetual contracts, for the poll: its history at first, then each payment as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from levibot.clock import Clock
from levibot.errors import UnknownSymbol
from levibot.market.exchange_client import ExchangeClient
from levibot.market.funding_history import TOLD_WITHIN, funding_history
from levibot.market.observations import Reading
from levibot.market.outside_source import Newest
from levibot.market.side_series import FUNDING_RATE
from levibot.market.source_status import SourceStatus

# What a payment was is not said otherwise any more after so long.
LOOK_BACK = timedelta(hours=24)


class FundingRates:
    """Asks an exchange for what the perpetual contract of each symbol paid.

    client: of kind `perpetual`; it is closed with this. since: how far back the first look goes. A symbol
    without such a contract has no funding, which is no fault.
    """

    def __init__(
        self,
        name: str,
        client: ExchangeClient,
        symbols: Sequence[str],
        clock: Clock,
        *,
        every_s: float,
        since: datetime,
    ) -> None:
        self._name = name
        self._client = client
        self._symbols = tuple(symbols)
        self._clock = clock
        self._every_s = every_s
        self._since = since

    @property
    def name(self) -> str:
        return self._name

    @property
    def every_s(self) -> float:
        return self._every_s

    async def status(self) -> SourceStatus:
        if self._client.has_funding_rates:
            return SourceStatus(self._name, is_disabled=False)
        return SourceStatus(self._name, True, f"{self._client.exchange_id} tells no funding rates.")

    async def look(self, newest: Newest) -> list[Reading]:
        readings: list[Reading] = []
        now = self._clock.now()
        for symbol in self._symbols:
            known = newest.get((FUNDING_RATE, symbol))
            start = self._since if known is None else known - LOOK_BACK
            try:
                rates = await funding_history(self._client, symbol, start, now)
            except UnknownSymbol:
                continue
            for rate in rates:
                # Nobody watched before the first look: what was told then counts from when it was told.
                published_at = rate.ts + TOLD_WITHIN if known is None else None
                readings.append(Reading(FUNDING_RATE, symbol, rate.ts, rate.rate, published_at))
        return readings

    async def close(self) -> None:
        await self._client.close()
