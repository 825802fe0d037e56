"""Keeps what a canary does, prices its limits in, and takes it back when it breaks one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog

from levibot.errors import DataError, LeviBotError, StoreUnavailable
from levibot.learning.blending import Blending
from levibot.resilience.guard import Guard
from levibot.serving.arms import CANARY, CHAMPION, Arm
from levibot.serving.canary_desk import CanaryBar
from levibot.serving.canary_report import NEWEST_BARS, Breach, answers_of, breach_of_answers, read_report
from levibot.stores.canaries import CanaryAnswer, CanaryRun, book_of
from levibot.stores.canary_setting import CanarySetting
from levibot.stores.signals import Signal
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import DEFAULT, Metrics
from levibot.trading.shadow import Decision

# The report is read as often, where a bar was priced since.
LOOK_S = 2.0
# Bars that wait while PostgreSQL is away; the oldest are given up first.
MAX_WAITING = 2_000
MAX_PROBLEM = 500
_Key = tuple[str, int]
log = structlog.get_logger()


class CanaryKeeping:
    """What is on record of canaries, and the one judge of them, for one event loop.

    A canary begins only where PostgreSQL says that it was not rolled back. While it is away the bars of one
    that has begun wait here, and errors and latency are judged all the same.
    manifest: reads a version's; it blocks. tell: told of a canary that is rolled back, once; must not wait.
    State: the run, its newest answers, what waits to be written, and what has broken a limit until that is
    on record.
    """

    def __init__(
        self,
        open_ticks: Callable[[], Awaitable[TickStore]],
        market_id: str,
        interval: timedelta,
        manifest: Callable[[str], Mapping[str, Any]],
        tell: Callable[[CanaryRun], None],
        *,
        timeout_s: float,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._open_ticks = open_ticks
        self._market_id = market_id
        self._interval = interval
        self._manifest = manifest
        self._tell = tell
        self._metrics = metrics
        self._ticks: TickStore | None = None
        self._run: CanaryRun | None = None
        self._is_left = False
        self._is_unsaved = False
        self._newest: deque[CanaryAnswer] = deque(maxlen=NEWEST_BARS)
        self._waiting: deque[tuple[CanarySetting, CanaryBar]] = deque(maxlen=MAX_WAITING)
        self._broken: dict[_Key, CanaryRun] = {}
        self._horizons: dict[str, int] = {}
        self._seen_to: datetime | None = None
        # Its fallback: a canary that has not begun does not begin, and what one does waits to be written.
        self._guard = Guard(
            "canary record",
            timeout_s=4.0 * timeout_s,
            attempts=1,
            failure_threshold=2,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )

    async def admits(self, setting: CanarySetting, as_of: datetime) -> bool:
        """Whether a canary may be asked at a close. Raises StoreUnavailable before that is known."""
        held = self._run
        if _key(setting) in self._broken:
            return False
        if held is None or _key(held.setting) != _key(setting):
            self._run = held = await self._guard.call(self._begin, setting, as_of)
        elif held.setting != setting:
            # Who runs already need not wait for the store to be told of another share.
            self._run = held = replace(held, setting=setting)
            self._is_unsaved = True
        return held.ended_at is None

    async def leave(self, why: Literal["configuration", "activated"], as_of: datetime) -> None:
        """Have none run from a close on. Raises StoreUnavailable where that is not on record."""
        if not self._is_left:
            await self._guard.call(self._end, why, as_of)

    def note(self, setting: CanarySetting, bar: CanaryBar) -> None:
        """Have a bar written soon, and judge at once whether errors or latency break a limit."""
        self._waiting.append((setting, bar))
        self._newest.append(_answer(bar))
        run = self._run
        if run is not None and run.ended_at is None:
            breach = breach_of_answers(answers_of([*self._newest]), setting.limits)
            if breach is not None:
                self._roll_back(run, breach, bar.as_of)

    async def run(self) -> None:
        """Write and judge until cancelled."""
        try:
            while True:
                try:
                    await self._guard.call(self.turn)
                except LeviBotError as exc:
                    log.warning("the record of the canary waits", reason=str(exc), n=len(self._waiting))
                except Exception as exc:
                    log.error("the record of the canary failed and begins again", exc_info=exc)
                await asyncio.sleep(LOOK_S)
        finally:
            if self._ticks is not None:
                await self._ticks.close()

    async def turn(self) -> None:
        """Write what waits; each step is safe to repeat, for the first of a bar and of an end stands."""
        if not (self._waiting or self._broken or self._run):
            return
        ticks = await self._opened()
        while self._waiting:
            setting, bar = self._waiting[0]
            try:
                await self._write(ticks, setting, bar)
            except DataError as exc:
                # No repeat cures what the tables refuse.
                log.error("a bar of the canary is not written", as_of=bar.as_of, reason=str(exc))
            if self._waiting and self._waiting[0][1] is bar:
                self._waiting.popleft()
        for key, ended in [*self._broken.items()]:
            assert ended.ended_at is not None
            assert ended.ended_why is not None
            await ticks.canaries.end(
                self._market_id, ended.ended_at, ended.ended_why, setting=ended.setting, numbers=ended.numbers
            )
            del self._broken[key]
        run = self._run
        if run is None or run.ended_at is not None:
            return
        if self._is_unsaved:
            await ticks.canaries.begin(self._market_id, run.setting, run.began_at)
            self._is_unsaved = False
        await self._judge(ticks, run)

    async def _judge(self, ticks: TickStore, run: CanaryRun) -> None:
        reached = await ticks.shadow.reach(book_of(self._market_id, run.setting, CANARY))
        if reached == self._seen_to:
            return
        report = await read_report(ticks, self._market_id, self._interval)
        self._seen_to = reached
        if report is None or self._run is not run:
            return
        self._metrics.canary_net_pnl.labels(CHAMPION).set(report.pnl.champion)
        self._metrics.canary_net_pnl.labels(CANARY).set(report.pnl.canary)
        breach = report.breach()
        if breach is not None:
            self._roll_back(run, breach, report.priced_to or run.began_at)

    def _roll_back(self, run: CanaryRun, breach: Breach, at: datetime) -> None:
        ended = replace(run, ended_at=at, ended_why=breach.limit, numbers=dict(breach.numbers))
        self._run = self._broken[_key(run.setting)] = ended
        self._metrics.canary_rolled_back.labels(breach.limit).inc()
        why = {"broken": breach.limit, "numbers": dict(breach.numbers)}
        log.error("a canary is rolled back", version=run.setting.version, **why)
        self._tell(ended)

    async def _begin(self, setting: CanarySetting, as_of: datetime) -> CanaryRun:
        canaries = (await self._opened()).canaries
        run = await canaries.begin(self._market_id, setting, as_of)
        self._newest.clear()
        self._newest.extend(await canaries.answers(self._market_id, setting, NEWEST_BARS))
        self._is_left, self._seen_to = False, None
        return run

    async def _end(self, why: Literal["configuration", "activated"], as_of: datetime) -> None:
        await (await self._opened()).canaries.end(self._market_id, as_of, why)
        self._run, self._is_left = None, True

    async def _write(self, ticks: TickStore, setting: CanarySetting, bar: CanaryBar) -> None:
        arms: Mapping[Arm, Mapping[str, Signal]] = {CHAMPION: bar.champion, CANARY: bar.canary}
        for arm, signals in arms.items():
            decisions = [await self._decision(arm, signal) for signal in signals.values()]
            await ticks.shadow.decide(book_of(self._market_id, setting, arm), decisions)
        await ticks.canaries.note(self._market_id, setting, _answer(bar))

    async def _decision(self, arm: Arm, signal: Signal) -> Decision:
        version = signal.model_version
        if version not in self._horizons:
            metadata = await asyncio.to_thread(self._manifest, version)
            self._horizons[version] = max(Blending.from_metadata(metadata).parameters.horizons_bars)
        return Decision(
            symbol=signal.symbol,
            as_of=signal.as_of,
            model_version=version,
            view_version=signal.view_version,
            no_trade_band=0.0 if signal.blend is None else signal.blend.no_trade_band,
            positions={arm: signal.target_position},
            blend={"probability_up": signal.probability_up, "horizon_bars": self._horizons[version]},
        )

    async def _opened(self) -> TickStore:
        if self._ticks is None:
            self._ticks = await self._open_ticks()
        return self._ticks


def _answer(bar: CanaryBar) -> CanaryAnswer:
    return CanaryAnswer(bar.as_of, bar.outcome, bar.problem[:MAX_PROBLEM], bar.latency_s)


def _key(setting: CanarySetting) -> _Key:
    return setting.version, setting.attempt
