"""Has every new signal written down in PostgreSQL, with what each account of the ensemble would hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection

import structlog

from levibot.errors import DataError, LeviBotError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.stores.signals import Signal
from levibot.stores.ticks import TickStore
from levibot.trading.ledger import SignalRow
from levibot.trading.shadow import Decision

# Signals of so many bars of a hundred symbols wait while PostgreSQL is away; the oldest are given up first.
MAX_WAITING = 100_000
BATCH = 1_000
RETRY_S = 0.5
log = structlog.get_logger()


class SignalRecorder:
    """Takes signals at once and writes them from a task of its own: no prediction waits for PostgreSQL.

    State: the signals that are not written yet. The fallback of a write that fails is that they wait. What
    dies with the process was served and is not on record: at the next bar the accounts then order nothing.
    """

    def __init__(
        self, open_ticks: Callable[[], Awaitable[TickStore]], market_id: str, *, timeout_s: float
    ) -> None:
        self._open_ticks = open_ticks
        self._market_id = market_id
        self._waiting: deque[Signal] = deque(maxlen=MAX_WAITING)
        self._due = asyncio.Event()
        self._ticks: TickStore | None = None
        self._guard = Guard(
            "signal record",
            timeout_s=4.0 * timeout_s,
            attempts=1,
            failure_threshold=2,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )

    @property
    def n_waiting(self) -> int:
        """Signals that are not written yet."""
        return len(self._waiting)

    def record(self, signals: Collection[Signal]) -> None:
        """Have them written soon; waits for nothing."""
        lost = max(0, len(self._waiting) + len(signals) - MAX_WAITING)
        if lost:
            log.error("signals are given up: too many wait to be written", n_lost=lost)
        self._waiting.extend(signals)
        self._due.set()

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                await self._write_all()
        finally:
            if self._ticks is not None:
                await self._ticks.close()

    async def _write_all(self) -> None:
        while self._waiting:
            batch = [self._waiting[n] for n in range(min(BATCH, len(self._waiting)))]
            try:
                await self._guard.call(self._write, batch)
            except DataError as exc:
                # No repeat cures what the tables refuse.
                log.error("signals are not written", reason=str(exc), n=len(batch))
            except LeviBotError as exc:
                log.warning("signals wait to be written", reason=str(exc), n=len(self._waiting))
                await asyncio.sleep(RETRY_S)
                continue
            except Exception as exc:
                log.error("the record of signals failed and begins again", exc_info=exc)
                await asyncio.sleep(RETRY_S)
                continue
            for _ in range(min(len(batch), len(self._waiting))):
                self._waiting.popleft()

    async def _write(self, signals: list[Signal]) -> None:
        """Safe to repeat: the first writer of a signal and of a decision wins."""
        if self._ticks is None:
            self._ticks = await self._open_ticks()
        decisions = [Decision.of(signal) for signal in signals if signal.blend is not None]
        await self._ticks.shadow.decide(self._market_id, decisions)
        await self._ticks.signals.write_many(self._market_id, [_row(signal) for signal in signals])


def _row(signal: Signal) -> SignalRow:
    return SignalRow(
        symbol=signal.symbol,
        as_of=signal.as_of,
        model_version=signal.model_version,
        view_version=signal.view_version,
        source=signal.source,
        probability_up=signal.probability_up,
        target_position=signal.target_position,
        expected_return=signal.expected_return,
    )
