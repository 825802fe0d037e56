"""A canary's record on a real PostgreSQL: it outlives the router, and a broken limit is for good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import StoreUnavailable
from levibot.features.views import CORE
from levibot.learning.blending import SignalParameters
from levibot.market.bars import Bars
from levibot.serving.arms import CANARY, CHAMPION
from levibot.serving.canary_desk import CanaryBar
from levibot.serving.canary_keeping import CanaryKeeping
from levibot.serving.shadow_pricing import ShadowPricing
from levibot.stores.canaries import CanaryRun, book_of
from levibot.stores.canary_setting import CanaryLimits, CanarySetting
from levibot.stores.signals import Signal
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import Metrics

pytestmark = pytest.mark.stores

MARKET, SYMBOL, HOUR = "m", "AUSDT", timedelta(hours=1)
AT = datetime(2022, 5, 1, 12, tzinfo=UTC)
SETTING = CanarySetting("v1.1.0", 0.25)


def signal(version: str, n: int, position: float = 0.5) -> Signal:
    return Signal(SYMBOL, AT + n * HOUR, 0.6, position, version, "w", MARKET, "simulated")


def bar(n: int, *, fails: bool = False, position: float = 0.5, latency_s: float = 0.05) -> CanaryBar:
    champion = {SYMBOL: signal("v1.0.0", n)}
    if fails:
        return CanaryBar(AT + n * HOUR, "failed", "It is away.", None, champion, {})
    canary = {SYMBOL: signal("v1.1.0", n, position)}
    return CanaryBar(AT + n * HOUR, "answered", "", latency_s, champion, canary)


def manifest(version: str) -> Mapping[str, Any]:
    return {
        "feature_names": list(CORE.names),
        "symbols": [SYMBOL],
        "interval_s": 3600.0,
        "parameters": SignalParameters().to_json(),
        "training": {"kinds": ["lightgbm"]},
    }


class Bench:
    """Routers that come one after the other, and what they told."""

    def __init__(self, store: TickStore) -> None:
        self.store = store
        self.told: list[CanaryRun] = []
        self.is_away = False
        self.metrics = Metrics(CollectorRegistry())

    def router(self) -> CanaryKeeping:
        return CanaryKeeping(
            self._open, MARKET, HOUR, manifest, self.told.append, timeout_s=2.0, metrics=self.metrics
        )

    async def _open(self) -> TickStore:
        if self.is_away:
            raise StoreUnavailable("PostgreSQL is away.")
        return self.store

    def count(self, limit: str) -> float | None:
        return self.metrics.registry.get_sample_value("levibot_canary_rolled_back_total", {"reason": limit})


@pytest.fixture
def bench(tick_store: TickStore) -> Bench:
    return Bench(tick_store)


async def test_what_both_arms_want_is_written_and_a_router_that_comes_later_goes_on(bench: Bench) -> None:
    first = bench.router()
    assert await first.admits(SETTING, AT)
    first.note(SETTING, bar(0))
    first.note(SETTING, bar(1, fails=True))
    await first.turn()
    second = bench.router()
    assert await second.admits(SETTING, AT + 2 * HOUR)
    second.note(SETTING, bar(1))
    second.note(SETTING, bar(2, position=-0.25))
    await second.turn()
    canaries = bench.store.canaries
    run = await canaries.newest(MARKET)
    assert run == CanaryRun(SETTING, AT)
    outcomes = [one.outcome for one in await canaries.answers(MARKET, SETTING, 10)]
    assert outcomes == ["answered", "failed", "answered"]
    wanted = {
        arm: [
            (one.as_of, one.model_version, one.positions)
            for one in await bench.store.shadow.decisions(book_of(MARKET, SETTING, arm))
        ]
        for arm in (CHAMPION, CANARY)
    }
    assert wanted[CHAMPION] == [(AT + n * HOUR, "v1.0.0", {CHAMPION: 0.5}) for n in range(3)]
    # The bar that was decided twice, once without it and once with it, has what the canary said of it.
    assert wanted[CANARY] == [
        (AT + n * HOUR, "v1.1.0", {CANARY: position}) for n, position in enumerate((0.5, 0.5, -0.25))
    ]
    (decision, *_) = await bench.store.shadow.decisions(book_of(MARKET, SETTING, CANARY))
    assert decision.blend == {"probability_up": 0.6, "horizon_bars": 24}


async def test_one_that_fails_is_taken_back_at_once_and_stays_so_for_every_router_after(bench: Bench) -> None:
    router = bench.router()
    assert await router.admits(SETTING, AT)
    for n in range(3):
        assert bench.told == []
        assert await router.admits(SETTING, AT + n * HOUR)
        router.note(SETTING, bar(n, fails=True))
    (rolled_back,) = bench.told
    assert (rolled_back.ended_why, rolled_back.ended_at) == ("errors", AT + 2 * HOUR)
    assert rolled_back.numbers == {"n": 3, "n_failed": 3, "error_share": 1.0, "limit": 0.1}
    assert bench.count("errors") == 1.0
    assert not await router.admits(SETTING, AT + 3 * HOUR)
    await router.turn()
    assert await bench.store.canaries.newest(MARKET) == rolled_back
    for other in (SETTING, replace(SETTING, share=1.0)):
        assert not await router.admits(other, AT + 3 * HOUR)
        assert not await bench.router().admits(other, AT + 3 * HOUR)
    assert await bench.router().admits(replace(SETTING, attempt=2), AT + 4 * HOUR)
    assert await bench.router().admits(replace(SETTING, version="v1.2.0"), AT + 5 * HOUR)
    assert len(bench.told) == 1


async def test_errors_of_the_router_before_count_too(bench: Bench) -> None:
    first = bench.router()
    await first.admits(SETTING, AT)
    first.note(SETTING, bar(0, fails=True))
    first.note(SETTING, bar(1, fails=True))
    await first.turn()
    second = bench.router()
    await second.admits(SETTING, AT + 2 * HOUR)
    second.note(SETTING, bar(2, fails=True))
    assert [run.ended_why for run in bench.told] == ["errors"]


async def test_while_postgres_is_away_none_begins_and_one_that_runs_is_judged_all_the_same(
    bench: Bench,
) -> None:
    bench.is_away = True
    router = bench.router()
    with pytest.raises(StoreUnavailable):
        await router.admits(SETTING, AT)
    bench.is_away = False
    router = bench.router()
    await router.admits(SETTING, AT)
    bench.is_away, router._ticks = True, None
    # A smaller share need not wait either.
    smaller = replace(SETTING, share=0.1)
    assert await router.admits(smaller, AT)
    for n in range(3):
        router.note(smaller, bar(n, fails=True))
    assert not await router.admits(smaller, AT + 3 * HOUR)
    with pytest.raises(StoreUnavailable):
        await router.turn()
    bench.is_away = False
    await router.turn()
    run = await bench.store.canaries.newest(MARKET)
    assert run is not None
    assert run.is_rolled_back
    assert len(await bench.store.canaries.answers(MARKET, SETTING, 10)) == 3
    assert len(bench.told) == 1


async def test_an_account_that_loses_too_much_takes_the_canary_back(bench: Bench) -> None:
    level = np.array([100.0, 100.0, 90.0, 80.0, 80.0])
    close = np.append(level[1:], level[-1])
    ts = np.datetime64(AT.replace(tzinfo=None), "us") + np.arange(5) * np.timedelta64(1, "h")
    high, low = np.maximum(level, close), np.minimum(level, close)
    await bench.store.write_bars(MARKET, Bars(SYMBOL, HOUR, ts, level, high, low, close, np.ones(5)))
    careful = replace(SETTING, limits=CanaryLimits(drawdown=0.15))
    router = bench.router()
    await router.admits(careful, AT)
    for n in range(4):
        router.note(careful, bar(n, position=1.0))
    await router.turn()
    assert bench.told == []
    for arm in (CHAMPION, CANARY):
        book = book_of(MARKET, careful, arm)
        await ShadowPricing(bench.store, MARKET, (SYMBOL,), HOUR, book_id=book).turn(AT + 4 * HOUR)
    await router.turn()
    (rolled_back,) = bench.told
    assert (rolled_back.ended_why, rolled_back.ended_at) == ("drawdown", AT + 4 * HOUR)
    assert rolled_back.numbers is not None
    assert rolled_back.numbers["drawdown"] == pytest.approx(0.2, abs=0.01)
    pnl = bench.metrics.registry.get_sample_value("levibot_canary_net_pnl", {"arm": "canary"})
    assert pnl == pytest.approx(-0.2, abs=0.01)
    await router.turn()
    run = await bench.store.canaries.newest(MARKET)
    assert run is not None
    assert run.ended_why == "drawdown"


async def test_what_an_operator_takes_away_may_come_again(bench: Bench) -> None:
    router = bench.router()
    await router.admits(SETTING, AT)
    await router.leave("configuration", AT + HOUR)
    run = await bench.store.canaries.newest(MARKET)
    assert run is not None
    assert (run.ended_why, run.ended_at) == ("configuration", AT + HOUR)
    assert await router.admits(SETTING, AT + 2 * HOUR)
    run = await bench.store.canaries.newest(MARKET)
    assert run is not None
    assert (run.ended_at, run.began_at) == (None, AT)
    assert bench.told == []


async def test_a_share_that_is_changed_is_on_record_and_a_new_run_it_is_not(bench: Bench) -> None:
    router = bench.router()
    await router.admits(SETTING, AT)
    half = replace(SETTING, share=0.5)
    assert await router.admits(half, AT + HOUR)
    await router.turn()
    assert await bench.store.canaries.newest(MARKET) == CanaryRun(half, AT)


async def test_a_broken_limit_outlives_an_operator_who_was_quicker_than_the_record(bench: Bench) -> None:
    router = bench.router()
    await router.admits(SETTING, AT)
    for n in range(3):
        router.note(SETTING, bar(n, fails=True))
    # Another version is set before the rollback is on record, and taken back.
    assert await router.admits(replace(SETTING, version="v1.2.0"), AT + 3 * HOUR)
    assert not await router.admits(SETTING, AT + 3 * HOUR)
    await router.turn()
    assert not await bench.router().admits(SETTING, AT + 4 * HOUR)
