"""What a paid source may cost a day: reserved before a call, settled after it, never beyond the limit."""

from __future__ import annotations

import math
from datetime import UTC, date
from typing import Protocol

from levibot.clock import Clock
from levibot.errors import SourceDisabled

# Accounts are kept in whole billionths of a dollar: prices are per million tokens, and sums stay exact.
NANO_PER_USD = 1_000_000_000


class Spending(Protocol):
    """Accounts by source and day, shared by all who spend from them. Raises StoreUnavailable, StoreError."""

    async def reserve(self, source: str, day: date, nano_usd: int, limit_nano_usd: int) -> bool:
        """Add to the account and say true, if it stays within the limit; otherwise leave it. Atomic."""
        ...

    async def settle(self, source: str, day: date, change_nano_usd: int) -> None:
        """Change what was reserved by the difference to the true cost."""
        ...

    async def spent_nano_usd(self, source: str, day: date) -> int:
        """What is spent and reserved."""
        ...


class MemorySpending:
    """Accounts of this process alone; a restart begins at zero."""

    def __init__(self) -> None:
        self._spent: dict[tuple[str, date], int] = {}

    async def reserve(self, source: str, day: date, nano_usd: int, limit_nano_usd: int) -> bool:
        spent = self._spent.get((source, day), 0) + nano_usd
        if spent > limit_nano_usd:
            return False
        # Days that are over are not needed again.
        self._spent = {key: value for key, value in self._spent.items() if key[0] != source or key[1] >= day}
        self._spent[source, day] = spent
        return True

    async def settle(self, source: str, day: date, change_nano_usd: int) -> None:
        self._spent[source, day] = max(0, self._spent.get((source, day), 0) + change_nano_usd)

    async def spent_nano_usd(self, source: str, day: date) -> int:
        return self._spent.get((source, day), 0)


class DailyBudget:
    """One source's money for each UTC day. A call that failed counts in full: nobody knows what it cost."""

    def __init__(self, source: str, limit_usd: float, spending: Spending, clock: Clock) -> None:
        self._source = source
        self._limit_nano_usd = int(limit_usd * NANO_PER_USD)
        self._spending = spending
        self._clock = clock

    async def is_spent(self) -> bool:
        """Whether nothing is left today."""
        return await self._spending.spent_nano_usd(self._source, self._today()) >= self._limit_nano_usd

    async def spent_usd(self) -> float:
        """What is spent and reserved today."""
        return await self._spending.spent_nano_usd(self._source, self._today()) / NANO_PER_USD

    async def reserve(self, most_usd: float) -> Reservation:
        """Set money aside for one call. Raises SourceDisabled where it would go beyond the limit."""
        day, nano_usd = self._today(), math.ceil(most_usd * NANO_PER_USD)
        if not await self._spending.reserve(self._source, day, nano_usd, self._limit_nano_usd):
            limit_usd = self._limit_nano_usd / NANO_PER_USD
            raise SourceDisabled(
                f"{self._source} is disabled: the budget of {day.isoformat()}, {limit_usd:g} USD, is spent.",
                hint="It is renewed at midnight UTC; LEVIBOT_NEWS_BUDGET_USD raises it.",
            )
        return Reservation(self._source, day, nano_usd, self._spending)

    def _today(self) -> date:
        return self._clock.now().astimezone(UTC).date()


class Reservation:
    """Money set aside for one call, on the day on which it was sent."""

    def __init__(self, source: str, day: date, nano_usd: int, spending: Spending) -> None:
        self._source = source
        self._day = day
        self._nano_usd = nano_usd
        self._spending = spending

    async def settle(self, cost_usd: float) -> None:
        """Replace what was set aside by what the call cost."""
        change = math.ceil(cost_usd * NANO_PER_USD) - self._nano_usd
        await self._spending.settle(self._source, self._day, change)
