"""What a canary is asked, when, and what counts against it, on a real Redis-protocol server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from levibot.clock import ManualClock
from levibot.errors import NotReady, StoreUnavailable
from levibot.features.views import CORE
from levibot.learning.blending import LearnedOpinion, SignalParameters
from levibot.market.bars import FloatArray
from levibot.serving.canary_desk import CanaryBar, CanaryDesk
from levibot.serving.desk import weigh_by_prior
from levibot.serving.member_panel import Absence
from levibot.stores.canary_setting import CanaryLimits, CanarySetting
from levibot.stores.online import FeatureWindow, OnlineStore, Signal
from levibot.stores.online_signals import CanaryShare
from levibot.telemetry.metrics import Metrics

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SYMBOL = f"S{secrets.token_hex(4).upper()}"
SETTING = CanarySetting("v1.1.0", 0.25)
MANIFEST = {
    "feature_names": list(CORE.names),
    "symbols": [SYMBOL],
    "interval_s": 3600.0,
    "parameters": SignalParameters().to_json(),
    "training": {"kinds": ["lightgbm", "linear"]},
}


class Members:
    """Both kinds, as a test wants them."""

    kinds = ("lightgbm", "linear")

    def __init__(self) -> None:
        self.said: dict[str, float] = {"lightgbm": 0.25, "linear": 0.5}
        self.error: Exception | None = None
        self.hangs = False
        self.asked = 0
        self.is_closed = False

    async def load(self, version: str) -> None:
        if isinstance(self.error, NotReady):
            raise self.error

    async def say(self, version: str, window: FloatArray) -> Mapping[str, LearnedOpinion] | Absence:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(60.0)
        if self.error is not None:
            raise self.error
        if not self.said:
            return Absence("crashed", "Its process ended.")
        whole = {kind: np.full((1, window.shape[1]), value) for kind, value in self.said.items()}
        return {kind: LearnedOpinion(row, row, row) for kind, row in whole.items()}

    async def close(self) -> None:
        self.is_closed = True


class Bench:
    """A desk whose turns the test takes, and what it told."""

    def __init__(self, online: OnlineStore) -> None:
        self.online = online
        self.members: list[Members] = []
        self.next = Members()
        self.told: list[tuple[CanarySetting, CanaryBar]] = []
        self.rolled_back: set[int] = set()
        self.is_away = False
        self.left: list[str] = []
        self.metrics = Metrics(CollectorRegistry())
        self.desk = CanaryDesk(
            online,
            (SYMBOL,),
            "simulated",
            open_holder=self._open,
            manifest=lambda _: MANIFEST,
            weigh=weigh_by_prior,
            ttl_s=60.0,
            timeout_s=2.0,
            keeper=self,
            metrics=self.metrics,
        )

    async def admits(self, setting: CanarySetting, as_of: datetime) -> bool:
        if self.is_away:
            raise StoreUnavailable("PostgreSQL is away.")
        return setting.attempt not in self.rolled_back

    async def leave(self, why: str, as_of: datetime) -> None:
        self.left.append(why)

    def note(self, setting: CanarySetting, bar: CanaryBar) -> None:
        self.told.append((setting, bar))

    def _open(self, _: CanarySetting) -> Members:
        self.members.append(self.next)
        return self.next

    async def bar(self, n: int = 0) -> Signal:
        """A new bar that the champion has answered."""
        at = NOON + n * HOUR
        row = np.full((2, len(CORE.names)), 1.0 + n)
        await self.online.write_features([FeatureWindow(SYMBOL, at, CORE.names, row)])
        served = Signal(SYMBOL, at, 0.6, 0.1, "v1.0.0", CORE.version, self.online.market_id, "simulated")
        self.desk.follow({SYMBOL: served})
        return served

    async def shown(self) -> tuple[CanaryShare | None, Signal | None]:
        arms = await self.online.read_arms([SYMBOL])
        return arms.canary, arms.canary_signal(SYMBOL)


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    online = OnlineStore.open(
        *(redis_url, f"market {secrets.token_hex(4)}", CORE.version, CORE.names),
        clock=ManualClock(NOON + 9 * HOUR),
        interval=HOUR,
        fresh_bars=12.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )
    await online._client.delete(f"{SYMBOL}:signal:canary")
    yield Bench(online)
    await online.end_canary()
    await online.close()


async def test_each_bar_is_asked_once_after_the_champion_and_told_with_both_arms(bench: Bench) -> None:
    bench.desk.configure(SETTING)
    await bench.desk.turn()
    assert bench.next.asked == 0
    for n in range(2):
        served = await bench.bar(n)
        for _ in range(3):
            await bench.desk.turn()
        assert bench.next.asked == n + 1
        setting, bar = bench.told[-1]
        assert (setting, bar.as_of, bar.outcome, bar.problem) == (SETTING, served.as_of, "answered", "")
        assert bar.champion == {SYMBOL: served}
        said = bar.canary[SYMBOL]
        assert (said.model_version, said.as_of, said.probability_up) == ("v1.1.0", served.as_of, 0.375)
        assert bar.latency_s is not None
        assert 0.0 <= bar.latency_s < 1.0
        assert await bench.shown() == (CanaryShare("v1.1.0", 0.25), said)
    assert len(bench.told) == 2


async def test_a_bar_that_the_champion_has_not_answered_is_nothing_to_the_canary(bench: Bench) -> None:
    bench.desk.configure(SETTING)
    served = await bench.bar(1)
    bench.desk.follow({SYMBOL: replace(served, as_of=NOON)})
    await bench.desk.turn()
    assert bench.told == []
    assert (await bench.shown())[1] is None
    bench.desk.follow({SYMBOL: served})
    await bench.desk.turn()
    ((_, bar),) = bench.told
    assert bar.as_of == served.as_of


@pytest.mark.parametrize(
    "fault", ["hangs", "is away", "crashes", "ends", "lacks a member", "lacks it as the champion"]
)
async def test_what_it_does_not_say_counts_against_it_and_what_it_said_before_goes_on(
    bench: Bench, fault: str
) -> None:
    bench.desk.configure(replace(SETTING, limits=CanaryLimits(deadline_s=0.05)))
    await bench.bar(0)
    await bench.desk.turn()
    before = (await bench.shown())[1]
    assert before is not None
    members, served = bench.next, await bench.bar(1)
    match fault:
        case "hangs":
            members.hangs = True
        case "is away":
            members.error = NotReady("It rests.")
        case "ends":
            members.said = {}
        case "crashes":
            members.error = ZeroDivisionError("no")
        case _:
            del members.said["linear"]
    absent = {"linear": "deadline_passed"} if fault == "lacks it as the champion" else {}
    blend = before.blend
    assert blend is not None
    bench.desk.follow({SYMBOL: replace(served, blend=replace(blend, absent=absent))})
    # A kind that is not answered is absent; the panel says why only where the holder does.
    if "lacks" in fault:
        bench.desk._run.panel = Lacking(bench.desk._run.panel)  # type: ignore[union-attr,assignment]
    await bench.desk.turn()
    _, bar = bench.told[-1]
    expected = {"lacks a member": "incomplete", "lacks it as the champion": "answered"}.get(fault, "failed")
    assert bar.outcome == expected
    assert bool(bar.problem) == (expected != "answered")
    assert (bar.latency_s is None) == (expected == "failed")
    if expected == "failed":
        assert bar.canary == {}
        assert (await bench.shown())[1] == before
    await bench.desk.turn()
    assert len(bench.told) == 2
    counted = {family.name: family.samples for family in bench.metrics.registry.collect()}
    assert counted["levibot_member_absent"] == []
    assert {s.labels["outcome"] for s in counted["levibot_canary_asked"]} == {"answered", expected}


class Lacking:
    """A panel whose answers say that one member was late."""

    def __init__(self, panel) -> None:  # type: ignore[no-untyped-def]
        self._panel = panel
        self.load = panel.load

    async def signals(self, version: str, window: FloatArray):  # type: ignore[no-untyped-def]
        said = await self._panel.signals(version, window)
        return replace(said, opinions=replace(said.opinions, absent={"linear": "deadline_passed"}))


async def test_a_share_is_changed_beside_a_running_process_and_a_version_is_another_one(
    bench: Bench,
) -> None:
    bench.desk.configure(SETTING)
    await bench.bar()
    await bench.desk.turn()
    first = bench.next
    bench.desk.configure(replace(SETTING, share=0.75))
    await bench.desk.turn()
    assert (await bench.shown())[0] == CanaryShare("v1.1.0", 0.75)
    assert (first.asked, first.is_closed) == (1, False)
    bench.next = Members()
    bench.desk.configure(CanarySetting("v1.2.0", 0.5))
    await bench.desk.turn()
    canary, said = await bench.shown()
    assert canary == CanaryShare("v1.2.0", 0.5)
    assert said is not None
    assert said.model_version == "v1.2.0"
    assert (first.is_closed, bench.next.asked) == (True, 1)


async def test_one_that_serves_or_is_taken_away_is_shown_no_longer(bench: Bench) -> None:
    bench.desk.configure(SETTING)
    served = await bench.bar()
    await bench.desk.turn()
    bench.desk.follow({SYMBOL: replace(served, model_version="v1.1.0")})
    await bench.desk.turn()
    assert (await bench.shown())[0] is None
    assert bench.left == ["activated"]
    bench.desk.follow({SYMBOL: served})
    await bench.desk.turn()
    assert (await bench.shown())[0] == CanaryShare("v1.1.0", 0.25)
    bench.desk.configure(None)
    await bench.desk.turn()
    assert (await bench.shown())[0] is None
    assert bench.next.is_closed
    assert bench.left == ["activated", "configuration"]


async def test_one_that_was_rolled_back_is_not_asked_or_shown_before_another_attempt(bench: Bench) -> None:
    bench.desk.configure(SETTING)
    await bench.bar(0)
    await bench.desk.turn()
    bench.rolled_back = {1}
    await bench.bar(1)
    await bench.desk.turn()
    assert (await bench.shown())[0] is None
    assert (bench.next.asked, bench.next.is_closed) == (1, True)
    bench.desk.configure(replace(SETTING, attempt=2))
    await bench.desk.turn()
    assert (await bench.shown())[0] == CanaryShare("v1.1.0", 0.25)
    assert bench.next.asked == 2


async def test_none_begins_before_it_is_known_that_it_may(bench: Bench) -> None:
    bench.is_away = True
    bench.desk.configure(SETTING)
    await bench.bar()
    await bench.desk.turn()
    assert (bench.next.asked, (await bench.shown())[0]) == (0, None)
    bench.is_away = False
    await bench.desk.turn()
    assert bench.next.asked == 1


async def test_what_a_router_before_has_left_is_taken_back(bench: Bench) -> None:
    await bench.online.write_canary(CanaryShare("v0.9.0", 1.0), [], 60.0)
    await bench.desk.turn()
    assert (await bench.shown())[0] is None
