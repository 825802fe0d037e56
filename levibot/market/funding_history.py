"""What perpetual contracts paid, page by page from an exchange."""

from __future__ import annotations

from datetime import datetime, timedelta

from levibot.market.exchange_client import PAGE_ROWS, ExchangeClient
from levibot.market.exchange_records import FundingRate

# An exchange tells a payment within so much of making it. What is read long after the payment counts as known
# from then on: later than some knew it, and never before anybody did.
TOLD_WITHIN = timedelta(minutes=1)
_ONE_MS = timedelta(milliseconds=1)


async def funding_history(
    client: ExchangeClient, symbol: str, start: datetime, end: datetime
) -> list[FundingRate]:
    """The payments in [start, end), oldest first. client: of kind `perpetual`.

    Raises as `ExchangeClient.funding_rates` does.
    """
    rates: list[FundingRate] = []
    at = start
    while at < end:
        page = [rate for rate in await client.funding_rates(symbol, at) if rate.ts >= at]
        rates += [rate for rate in page if rate.ts < end]
        if len(page) < PAGE_ROWS:
            break
        at = page[-1].ts + _ONE_MS
    return rates
