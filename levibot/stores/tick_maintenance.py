"""The housekeeping of trades: bars every second, partitions every few minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from levibot.clock import Clock
from levibot.errors import StoreError
from levibot.stores.partitions import TimePartitions
from levibot.stores.rollup import TickRollup

ROLL_UP_S = 1.0
PARTITIONS_S = 300.0
LONGEST_BACKOFF_S = 15.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MaintenanceState:
    """How a loop is doing. Instants are of its clock, aware; None before the first time.

    errors: what the newest round of a job met, by the job's name; a job that goes well has no entry.
    """

    rolled_up_at: datetime | None = None
    maintained_at: datetime | None = None
    errors: Mapping[str, str] = field(default_factory=dict)


class TickMaintenance:
    """Runs the housekeeping until it is cancelled. Several may run at once, on several machines.

    clock: the market's; partitions are made ahead of it, and it says what is too old.
    A server that is away, silent or refuses is logged once, and asked again with growing pauses.
    State: when each job was done, which `state` tells.
    """

    def __init__(
        self,
        rollup: TickRollup,
        partitions: TimePartitions,
        clock: Clock,
        *,
        roll_up_s: float = ROLL_UP_S,
        partitions_s: float = PARTITIONS_S,
    ) -> None:
        self._rollup = rollup
        self._partitions = partitions
        self._clock = clock
        self._roll_up_s = roll_up_s
        self._partitions_s = partitions_s
        self.state = MaintenanceState()

    async def run(self) -> None:
        """Both jobs, each at its own pace: bars do not wait for a partition that cannot be dropped."""
        async with asyncio.TaskGroup() as jobs:
            jobs.create_task(self._repeat("roll_up", self.roll_up, self._roll_up_s))
            jobs.create_task(self._repeat("partitions", self.maintain, self._partitions_s))

    async def roll_up(self) -> None:
        """One round of bars. Raises StoreError."""
        await self._rollup.roll_up()
        self.state = replace(self.state, rolled_up_at=self._clock.now())

    async def maintain(self) -> None:
        """One round of partitions. Raises StoreError."""
        await self._partitions.maintain(self._clock.now())
        self.state = replace(self.state, maintained_at=self._clock.now())

    async def _repeat(self, name: str, job: Callable[[], Awaitable[None]], every_s: float) -> None:
        loop = asyncio.get_running_loop()
        n_failed = 0
        while True:
            started = loop.time()
            try:
                await job()
            except StoreError as exc:
                if n_failed == 0:
                    log.warning("the housekeeping of trades failed", job=name, error=str(exc))
                n_failed += 1
                self.state = replace(self.state, errors={**self.state.errors, name: str(exc)})
                pause_s = min(LONGEST_BACKOFF_S, self._roll_up_s * 2 ** min(n_failed, 10))
            else:
                if n_failed:
                    log.info("the housekeeping of trades goes on", job=name, failures=n_failed)
                n_failed = 0
                errors = {other: error for other, error in self.state.errors.items() if other != name}
                self.state = replace(self.state, errors=errors)
                pause_s = every_s
            await asyncio.sleep(max(0.0, started + pause_s - loop.time()))
