"""The running system's turn at the trials: those of its folder go to PostgreSQL, those of others come."""

from __future__ import annotations

import asyncio
import time

from levibot.errors import StoreError, StoreUnavailable
from levibot.launch.steps import Steps
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_ticks, open_trial_journal
from levibot.stores.trial_exchange import Exchanged, exchange

EVERY_S = 30.0
TIMEOUT_S = 20.0


class TrialIntake:
    """State: the event loop of its turns, when the next one is due, and whether the last one failed."""

    def __init__(self, settings: Settings, steps: Steps) -> None:
        self._settings = settings
        self._steps = steps
        self._runner = asyncio.Runner()
        self._guard = Guard(
            "PostgreSQL: the trial ledger", timeout_s=TIMEOUT_S, attempts=1, transient=(StoreUnavailable,)
        )
        self._due = 0.0
        self._has_failed = False

    def turn(self) -> None:
        """Exchange trials if it is time to. Where that fails they stay in the journal until a later turn."""
        if time.monotonic() < self._due:
            return
        try:
            done = self._runner.run(self._guard.call(self._exchange))
        except StoreError as exc:
            # Said once: the store's own outage is told of elsewhere.
            if not self._has_failed:
                text = f"The trials wait in the journal: {exc}"
                self._steps.say(text, {"trials_wait": str(exc)})
            self._has_failed = True
        else:
            self._has_failed = False
            if done.n_sent or done.n_taken:
                text = f"Trials: {done.n_sent} sent to PostgreSQL, {done.n_taken} taken from it."
                self._steps.say(text, {"trials_sent": done.n_sent, "trials_taken": done.n_taken})
        self._due = time.monotonic() + EVERY_S

    def close(self) -> None:
        self._runner.close()

    async def _exchange(self) -> Exchanged:
        ticks = await open_ticks(self._settings)
        try:
            return await exchange(open_trial_journal(self._settings), ticks.trials)
        finally:
            await ticks.close()
