"""Asks a canary of every bar that is answered already, and has its signals shown to those in its arm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

import structlog
from prometheus_client import CollectorRegistry

from levibot.errors import LeviBotError, StoreUnavailable
from levibot.learning.blending import Signals
from levibot.market.bars import FloatArray
from levibot.resilience.guard import Guard
from levibot.serving.desk import RENEW_S, RENEWALS, Served, SignalDesk, Weigh
from levibot.serving.member_panel import Holder, MemberPanel
from levibot.stores.canary_setting import CanarySetting
from levibot.stores.online import OnlineStore
from levibot.stores.online_signals import CanaryShare
from levibot.stores.signals import Signal
from levibot.telemetry.metrics import DEFAULT, Metrics

# It looks at least as often, whether something has come or not.
TURN_S = 1.0
# Beyond the deadline of its members, for what is read and summed around them.
SLACK_S = 0.5
# incomplete: a member was absent that the champion has heard. failed: nothing was said.
Outcome = Literal["answered", "incomplete", "failed"]
log = structlog.get_logger()


class Keeper(Protocol):
    """Who keeps a record of canaries, and says which may be asked."""

    async def admits(self, setting: CanarySetting, as_of: datetime) -> bool:
        """Whether it may be asked of a bar. Raises StoreUnavailable before that is known."""

    async def leave(self, why: Literal["configuration", "activated"], as_of: datetime) -> None:
        """Have none run any more. Raises StoreUnavailable where that is not on record."""

    def note(self, setting: CanarySetting, bar: CanaryBar) -> None:
        """Take what came of a bar, once; it must not wait."""


class CanaryHolder(Holder, Protocol):
    """Every learned member of one version, and nobody else's."""

    async def close(self) -> None:
        """Let go of what it holds."""


@dataclass(frozen=True, slots=True)
class CanaryBar:
    """One bar: what the champion and the canary said of it, by symbol.

    latency_s: from the question to the canary's members to their answer, None where it failed; its signals
    are empty then, and `problem` says why.
    """

    as_of: datetime
    outcome: Outcome
    problem: str
    latency_s: float | None
    champion: Mapping[str, Signal]
    canary: Mapping[str, Signal]


class _Unanswered(Exception):
    """The canary did not answer; why, in one sentence."""


@dataclass(slots=True)
class _Run:
    """A canary at work. asked_at: the bar that it was asked of last; took_s: how long it took to answer."""

    setting: CanarySetting
    holder: CanaryHolder
    panel: MemberPanel
    desk: SignalDesk
    asked_at: datetime | None = None
    took_s: float = 0.0
    signals: Collection[Signal] = ()


class CanaryDesk:
    """One canary at a time, by a task of its own: whoever serves hands over what was served, and goes on.

    State: what is set, the champion's newest signals, the canary at work, and what Redis shows of it.
    open_holder: the members of a version, apart from those that serve. manifest: reads a version's; it
    blocks.
    """

    def __init__(
        self,
        online: OnlineStore,
        symbols: Sequence[str],
        source: str,
        *,
        open_holder: Callable[[CanarySetting], CanaryHolder],
        manifest: Callable[[str], Mapping[str, Any]],
        weigh: Weigh,
        ttl_s: float,
        timeout_s: float,
        keeper: Keeper,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._online = online
        self._symbols = tuple(symbols)
        self._source = source
        self._open_holder = open_holder
        self._manifest = manifest
        self._weigh = weigh
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._keeper = keeper
        self._metrics = metrics
        self._due = asyncio.Event()
        self._setting: CanarySetting | None = None
        self._champion: Mapping[str, Signal] = {}
        self._run: _Run | None = None
        # What a router before this one has shown is taken back first.
        self._may_be_shown = True
        self._shown: tuple[CanaryShare, Collection[Signal]] | None = None
        self._renew_at = 0.0
        # Its fallback: callers are answered with the champion's signals once the canary's have ended.
        self._redis = Guard(
            "canary signals", timeout_s=timeout_s, attempts=1, reset_s=1.0, transient=(StoreUnavailable,)
        )

    def configure(self, setting: CanarySetting | None) -> None:
        """Take what an operator has set; None: no canary."""
        self._setting = setting
        self._due.set()

    def follow(self, signals: Mapping[str, Signal]) -> None:
        """Take the champion's signals of the newest bar, which are written already."""
        self._champion = signals
        self._due.set()

    async def run(self) -> None:
        """Ask and show until cancelled; what goes wrong concerns the canary alone."""
        try:
            while True:
                try:
                    await self.turn()
                except LeviBotError as exc:
                    log.warning("the canary waits", reason=str(exc))
                except Exception as exc:
                    log.error("the canary failed and begins again", exc_info=exc)
                # Between two turns there is a moment, whatever goes wrong at once.
                await asyncio.sleep(TURN_S / 20)
                with_timeout = asyncio.wait_for(self._due.wait(), TURN_S)
                await asyncio.gather(with_timeout, return_exceptions=True)
                self._due.clear()
        finally:
            await self._close_run()

    async def turn(self) -> None:
        """Ask the canary of a bar that it was not asked of yet, and keep Redis as it ought to be."""
        champion = self._champion
        newest = max((signal.as_of for signal in champion.values()), default=None)
        serves = {signal.model_version for signal in champion.values()}
        run = await self._current()
        if newest is None:
            await self._hide()
            return
        if run is None or run.setting.version in serves:
            await self._hide()
            await self._keeper.leave("configuration" if run is None else "activated", newest)
            return
        if not await self._is_admitted(run.setting, newest):
            await self._hide()
            await self._close_run()
            return
        if newest != run.asked_at:
            bar = await self._ask(run, champion, newest)
            if bar is not None:
                run.asked_at = newest
                run.signals = tuple(bar.canary.values()) or run.signals
                self._metrics.canary_asked.labels(bar.outcome).inc()
                self._keeper.note(run.setting, bar)
        await self._show(run)

    async def _current(self) -> _Run | None:
        """The canary that is set; its process is another one only where it must be."""
        setting, run = self._setting, self._run
        if setting is None or (run is not None and _is_other(run.setting, setting)):
            await self._close_run()
        if setting is None:
            return None
        if self._run is None:
            holder = self._open_holder(setting)
            # What is absent of a canary is not counted among the members that serve.
            panel = MemberPanel([holder], self._manifest, Metrics(CollectorRegistry()))
            desk = SignalDesk(self._online, self._symbols, timeout_s=self._timeout_s, weigh=self._weigh)
            self._run = _Run(setting, holder, panel, desk)
        self._run.setting = setting
        return self._run

    async def _is_admitted(self, setting: CanarySetting, as_of: datetime) -> bool:
        try:
            return await self._keeper.admits(setting, as_of)
        except StoreUnavailable as exc:
            log.warning("no canary begins before it is known that it may", reason=str(exc))
            return False

    async def _close_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            await run.holder.close()

    async def _ask(self, run: _Run, champion: Mapping[str, Signal], as_of: datetime) -> CanaryBar | None:
        """What it says of the champion's bar; None where the newest features are of another one already.

        Raises what Redis raises: that is no failure of the canary's.
        """
        version = run.setting.version

        async def predict(windows: FloatArray) -> Signals:
            try:
                # Whoever is loaded returns at once.
                await run.panel.load(version)
                started = time.perf_counter()
                async with asyncio.timeout(run.setting.limits.deadline_s + SLACK_S):
                    said = await run.panel.signals(version, windows)
            except (LeviBotError, TimeoutError) as exc:
                raise _Unanswered(str(exc) or "It did not answer in time.") from exc
            except Exception as exc:
                log.error("the canary failed as nobody foresaw", version=version, exc_info=exc)
                raise _Unanswered(f"It failed as nobody foresaw: {exc!r}") from exc
            run.took_s = time.perf_counter() - started
            return said

        try:
            signals = await run.desk.look(predict, Served(version, self._source))
        except _Unanswered as exc:
            log.warning("the canary has not answered", version=version, reason=str(exc))
            return CanaryBar(as_of, "failed", str(exc), None, champion, {})
        if any(signal.as_of != as_of for signal in signals):
            return None
        canary = {signal.symbol: signal for signal in signals}
        problem = _absent_alone(champion, canary)
        outcome: Outcome = "incomplete" if problem else "answered"
        return CanaryBar(as_of, outcome, problem, run.took_s, champion, canary)

    async def _show(self, run: _Run) -> None:
        """Have Redis tell of the canary: what is new at once, lives when it is time to."""
        shown = CanaryShare(run.setting.version, run.setting.share), run.signals
        now = time.monotonic()
        is_new = self._shown is None or self._shown[0] != shown[0] or self._shown[1] is not shown[1]
        if not is_new and now < self._renew_at:
            return
        write = self._online.write_canary if is_new else self._online.renew_canary
        self._may_be_shown = True
        await self._redis.call(write, *shown, self._ttl_s)
        self._shown, self._renew_at = shown, now + min(RENEW_S, self._ttl_s / RENEWALS)
        self._metrics.canary_share.set(run.setting.share)

    async def _hide(self) -> None:
        """Have everybody answered with the champion's signals."""
        self._metrics.canary_share.set(0.0)
        if self._may_be_shown:
            await self._redis.call(self._online.end_canary)
            self._may_be_shown, self._shown = False, None


def _is_other(held: CanarySetting, wanted: CanarySetting) -> bool:
    """Whether it takes another process: a share and most limits are changed beside a running one."""
    return (held.version, held.attempt, held.limits.deadline_s) != (
        *(wanted.version, wanted.attempt),
        wanted.limits.deadline_s,
    )


def _absent_alone(champion: Mapping[str, Signal], canary: Mapping[str, Signal]) -> str:
    """Which members the canary lacks that the champion has heard, or symbols; empty where there are none."""
    reasons: dict[str, str] = {}
    for signal in canary.values():
        other = champion.get(signal.symbol)
        known = {} if other is None or other.blend is None else other.blend.absent
        absent = {} if signal.blend is None else signal.blend.absent
        reasons |= {member: why for member, why in absent.items() if member not in known}
    silent = sorted(set(champion) - set(canary))
    told = [f"{member}: {why}" for member, why in reasons.items()]
    return ", ".join([*told, *(f"nothing of {symbol}" for symbol in silent)])
