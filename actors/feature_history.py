"""The owner of the feature history: loads it from the tick store hour by hour, exports it, checks parity.

DuckDB lets one process hold its file, so one actor does. Training jobs read exports, never its file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from ray.actor import ActorHandle

from actors import event_log
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import DataError, NotReady, StoreUnavailable
from levibot.features.parity import Parity, check_parity
from levibot.features.served import EVENT_TYPE, ServedVector
from levibot.features.views import CORE, view
from levibot.learning.history import HistoryLoader, Loaded
from levibot.learning.labels import label_name
from levibot.learning.signal import SignalParameters
from levibot.market.bars import Bars, to_datetime
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_ticks
from levibot.stores.events import EventQuery
from levibot.stores.export_writer import export_once
from levibot.stores.features_at import FeaturesAt
from levibot.stores.history_parts import load_parts
from levibot.stores.history_rows import instant_us
from levibot.stores.offline import OfflineStore
from levibot.stores.query_profile import PROFILE
from levibot.stores.ticks import TickStore
from levibot.stores.training_set import TrainingSet
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

T = TypeVar("T")

NAME = "feature_history"
RETRY_S = 5.0
# An hour of the market between two passes, and in a fast replay so much of ours.
EVERY_HOURS = 1
SHORTEST_TURN_S = 30.0
# A first pass over years of minutes.
PASS_TIMEOUT_S = 3600.0
# A month is put into files when its last day is so long over: late bars have come by then.
SEAL_AFTER = timedelta(days=1)
PARITY_HOURS = 1
PARITY_PAGE = 1000
# A job reads its export within hours, and one of years of bars takes some hundred megabytes.
KEPT_EXPORTS = 5
HISTORY_FOLDER, EXPORT_FOLDER = "history", "exports"
log = structlog.get_logger()


class FeatureHistory:
    """Keeps the history up to the tick store. After a crash it goes on from what was written last."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        # The only thread that touches the store: a pass, questions and exports take turns.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="duckdb")
        self._store: OfflineStore | None = None
        self._events = event_log.Reader(NAME)
        # Its fallback is to wait: what was missed is loaded at the next turn.
        self._guard = Guard(
            NAME, timeout_s=PASS_TIMEOUT_S, attempts=1, reset_s=1.0, transient=(StoreUnavailable,)
        )
        self._due = asyncio.Event()
        self._passing = asyncio.Lock()
        self._loaded = Loaded(None, 0)
        self._parity: Parity | None = None
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def load_soon(self) -> None:
        """Load now rather than at the next turn."""
        self._due.set()

    async def status(self) -> dict[str, Any]:
        """How far the history is, the last parity check, and the problem that there is now, if any."""
        parity = self._parity
        return {
            "up_to": self._loaded.up_to.isoformat() if self._loaded.up_to else None,
            "rows_added": self._loaded.n_rows,
            "parity": None if parity is None else {"n": parity.n_values, "differ": len(parity.differences)},
            "problem": self._problem,
        }

    async def get_features_at(
        self, view_name: str, entities: list[str], as_of: datetime, names: list[str] | None = None
    ) -> FeaturesAt:
        """See `OfflineStore.get_features_at`. Raises UsageError on an unknown view."""
        of = view(view_name)
        return await self._ask(lambda store: store.get_features_at(of, entities, as_of, names))

    async def get_training_set(
        self,
        view_name: str,
        label: str,
        start: datetime,
        end: datetime,
        as_of: datetime,
        names: list[str] | None = None,
    ) -> TrainingSet:
        """See `OfflineStore.get_training_set`. Raises UsageError on an unknown view."""
        of = view(view_name)
        return await self._ask(
            lambda store: store.get_training_set(of, label, start, end, as_of, names=names)
        )

    async def export(
        self, start: datetime | None = None, end: datetime | None = None, as_of: datetime | None = None
    ) -> str:
        """Write an export of the served view and its labels; returns its folder.

        By default all that is known now. The same question is answered with the export that is there already.
        The newest KEPT_EXPORTS stay.
        Raises NotReady before the first row, UsageError as `OfflineStore.get_training_set` does.
        """
        settings = self._settings
        for name, given in (("start", start), ("end", end), ("as_of", as_of)):
            if given is not None:
                instant_us(name, given)
        now = await self._ask(OfflineStore.now)
        known = as_of or now
        end = end or known
        labels = [label_name(bars) for bars in SignalParameters().horizons_bars]
        finished_by = min(known, end - timedelta(microseconds=1))
        bars = await self._guard.call(self._bars)
        bars = {symbol: of.closed_by(finished_by) for symbol, of in bars.items()}
        if not any(len(of) for of in bars.values()):
            raise NotReady(f"No bars of {settings.market_id} are finished at {finished_by.isoformat()}.")
        first = min(to_datetime(of.ts[0]) for of in bars.values() if len(of))
        start = start or first
        write = partial(
            export_once,
            folder=settings.home / EXPORT_FOLDER,
            view=CORE,
            labels=labels,
            start=start,
            end=end,
            as_of=known,
            market_id=settings.market_id,
            bars=bars,
            keep=KEPT_EXPORTS,
        )
        return str(await self._ask(write))

    async def export_until(self, until: datetime) -> str:
        """Load what bars are finished at `until`, and export what is known of them; returns the folder."""
        await self._pass(unless_loaded=until)
        return await self.export(end=until + timedelta(microseconds=1))

    async def assume_available_at_close(self) -> int:
        """Declare that every row was known as soon as its bar was finished; returns how many it changed.

        For a history that was recorded elsewhere. It is written down, and what was asked as of the past is
        answered differently from now on.
        """
        return (await self._pass(assume_available_at_close=True)).n_rows

    async def load_parts(self, folder: str, assume_available_at_close: bool = False) -> int:
        """Take the files of a backfill; returns how many rows were new. See `history_parts.load_parts`."""
        take = partial(load_parts, folder=Path(folder), assume_available_at_close=assume_available_at_close)
        return await self._ask(take)

    async def load_from_the_start(self) -> int:
        """Compute everything again and add what differs; returns how many rows that were."""
        return (await self._pass(from_the_start=True)).n_rows

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def close(self) -> None:
        """End the loop and let go of the file, for another process to open it."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        await follow_for_ever("the feature history", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Load again and again until a problem comes up, which is raised."""
        while True:
            await self._pass()
            self._problem = ""
            await self._wait()

    async def _pass(
        self,
        *,
        from_the_start: bool = False,
        assume_available_at_close: bool = False,
        unless_loaded: datetime | None = None,
    ) -> Loaded:
        """unless_loaded: nothing is to be done when all up to there is loaded by the time it is our turn."""
        settings = self._settings
        async with self._passing:
            up_to = self._loaded.up_to
            if unless_loaded is not None and up_to is not None and up_to >= unless_loaded:
                return self._loaded
            store = await self._ask(lambda store: store)
            ticks = await open_ticks(settings)
            try:
                loader = HistoryLoader(
                    ticks,
                    store,
                    market_id=settings.market_id,
                    symbols=settings.symbols,
                    interval=settings.interval,
                    view=CORE,
                    thread=self._thread,
                )
                now = self._clock.now()
                loaded = await self._guard.call(loader.load, now, from_the_start, assume_available_at_close)
                await self._ask(lambda store: store.seal(now - SEAL_AFTER))
                self._loaded = loaded
                await self._check_parity(ticks, now)
            finally:
                await ticks.close()
        if loaded.n_rows:
            log.info("the history is loaded", rows=loaded.n_rows, up_to=str(loaded.up_to))
        return loaded

    async def _bars(self) -> dict[str, Bars]:
        settings = self._settings
        ticks = await open_ticks(settings)
        try:
            return {
                symbol: await ticks.read_bars(settings.market_id, symbol, settings.interval)
                for symbol in settings.symbols
            }
        finally:
            await ticks.close()

    async def _check_parity(self, ticks: TickStore, now: datetime) -> None:
        """What was served in the last hour, against history. Without the event log it waits for a turn."""
        since = now - timedelta(hours=PARITY_HOURS)
        try:
            page = await self._events.page(EventQuery(PARITY_PAGE, EVENT_TYPE, since=since))
            served = [ServedVector.from_event(event) for event in page.events]
            rebuilt = partial(
                check_parity,
                ticks,
                served,
                market_id=self._settings.market_id,
                symbols=self._settings.symbols,
                interval=self._settings.interval,
                view=CORE,
            )
            self._parity = await self._guard.call(rebuilt)
        except (StoreUnavailable, DataError) as exc:
            log.warning("parity was not checked", reason=str(exc))
            return
        for difference in self._parity.differences[:10]:
            log.error("what was served is not what history gives", **asdict(difference))

    async def _wait(self) -> None:
        rate = 1.0
        if self._settings.source != "exchange":
            rate = self._settings.interval.total_seconds() * self._settings.replay_speed
        turn_s = max(SHORTEST_TURN_S, EVERY_HOURS * 3600.0 / rate)
        try:
            async with asyncio.timeout(turn_s):
                await self._due.wait()
        except TimeoutError:
            return
        self._due.clear()

    async def _ask(self, call: Callable[[OfflineStore], T]) -> T:
        return await self._in_thread(lambda: call(self._opened()))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _opened(self) -> OfflineStore:
        # Opened at the first call and not before: an actor whose constructor fails is never restarted.
        if self._store is None:
            settings = self._settings
            folder = settings.home / HISTORY_FOLDER
            self._store = OfflineStore.open(folder, settings.market_id, self._clock)
        return self._store

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def start(settings: Settings) -> ActorHandle:
    """The cluster's feature history, started if it is not there yet."""
    return start_detached(FeatureHistory, NAME, settings)
