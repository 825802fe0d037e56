"""What a poll asks: a source outside the market's bars, whatever is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from levibot.market.observations import Reading
from levibot.market.source_status import SourceStatus

# By series and symbol (None: the whole market): when the newest event was that is stored.
Newest = Mapping[tuple[str, str | None], datetime]


class OutsideSource(Protocol):
    """One place that is looked at again and again, for one event loop. Each call is guarded and bounded."""

    @property
    def name(self) -> str:
        """As metrics and the store call it."""
        ...

    @property
    def every_s(self) -> float:
        """From one look to the next."""
        ...

    async def status(self) -> SourceStatus:
        """Whether it can be asked. Raises StoreUnavailable and StoreError where an account says so."""
        ...

    async def look(self, newest: Newest) -> list[Reading]:
        """What it says now. newest: what is stored of it; it may be read anew.

        Raises SourceDisabled, SourceUnavailable, SourceError, StoreUnavailable and StoreError.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
