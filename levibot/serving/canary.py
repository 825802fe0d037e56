"""The canary of a router: who asks it, and who keeps a record of it and judges it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from levibot.serving.canary_desk import CanaryDesk
from levibot.serving.canary_keeping import CanaryKeeping
from levibot.serving.canary_process import CanaryProcess
from levibot.serving.desk import Weigh
from levibot.settings import Settings
from levibot.stores.canaries import CanaryRun
from levibot.stores.canary_setting import CanarySetting
from levibot.stores.connect import open_ticks
from levibot.stores.events import Event
from levibot.stores.online import OnlineStore
from levibot.stores.signals import Signal


class Canary:
    """Made in the event loop that it runs in, by tasks of its own. State: the desk's and the keeper's.

    kinds: of all members that there may be. manifest: reads a version's; it blocks. tell: takes an event, and
    must not wait.
    """

    def __init__(
        self,
        settings: Settings,
        online: OnlineStore,
        kinds: Sequence[str],
        manifest: Callable[[str], Mapping[str, Any]],
        weigh: Weigh,
        tell: Callable[[Event], None],
    ) -> None:
        self.keeping = CanaryKeeping(
            lambda: open_ticks(settings),
            settings.market_id,
            settings.interval,
            manifest,
            lambda run: tell(_rolled_back(run)),
            timeout_s=settings.store_timeout_s,
        )
        self.desk = CanaryDesk(
            online,
            settings.symbols,
            settings.source,
            open_holder=lambda canary: CanaryProcess.of(
                settings, canary.version, kinds, canary.limits.deadline_s
            ),
            manifest=manifest,
            weigh=weigh,
            ttl_s=settings.feature_ttl_s,
            timeout_s=settings.store_timeout_s,
            keeper=self.keeping,
        )
        self._running = [asyncio.create_task(one.run()) for one in (self.desk, self.keeping)]

    def configure(self, setting: CanarySetting | None) -> None:
        """Take what an operator has set; None: no canary."""
        self.desk.configure(setting)

    def follow(self, signals: Mapping[str, Signal]) -> None:
        """Take the champion's signals of the newest bar, which are written already; waits for nothing."""
        self.desk.follow(signals)

    async def close(self) -> None:
        """End its tasks and its process. What Redis shows of it ends by itself, or with the next router."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def _rolled_back(run: CanaryRun) -> Event:
    payload = {"version": run.setting.version, "attempt": run.setting.attempt, "share": run.setting.share}
    payload |= {"reason": run.ended_why, "numbers": run.numbers}
    return Event("canary_rolled_back", "", run.ended_at or run.began_at, payload)
