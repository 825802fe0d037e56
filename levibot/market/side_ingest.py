"""What a market itself tells beside its bars, brought into the store: recorded or past funding."""

from __future__ import annotations

import asyncio
from datetime import datetime

from levibot.market.intake import Account, Intake
from levibot.market.observations import screen_observations
from levibot.market.side_series import SERIES
from levibot.market.sources import Source


async def ingest_side_series(source: Source, intake: Intake, start: datetime, end: datetime) -> Account:
    """Store what became available in [start, end) and is not stored yet.

    Of a recorded market all may be stored at once: who reads as of an instant sees nothing that was known
    later. Raises as `Source.side_series` and `Intake.take_observations` do.
    """
    series = await asyncio.to_thread(source.side_series, SERIES, start, end)
    screened = [
        screen_observations(
            source.name,
            one.name,
            one.symbol,
            {"event_ts": one.true_at, "available_ts": one.available_at, "value": one.value},
        )
        for one in series
    ]
    return await intake.take_observations(screened)
