"""What a drill writes: numbered items in numbered streams, on one store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

# Of each call. Small, so that a frozen server is met more than once.
TIMEOUT_S = 1.0
HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MARKET_ID, VIEW = "faults", "v-faults"

Item = tuple[int, int]


class Subject(Protocol):
    """A store under fault. An item is (stream, number); each has a content that follows from it alone."""

    async def write(self, item: Item) -> None:
        """Return when the item is acknowledged. Repeating it must not add another."""
        ...

    async def stored(self, streams: int, n: int) -> list[Item]:
        """Every stored item of the first `n` of each stream, as often as it is stored."""
        ...

    async def close(self) -> None: ...
