"""Parity: what was served is rebuilt from the tick store, and a skew is found, value by value."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import typer
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from levibot.commands import feature_parity
from levibot.features.engine import compute_tail
from levibot.features.parity import Difference, check_parity
from levibot.features.served import ServedVector
from levibot.features.views import CORE
from levibot.market.bars import Bars, Panel, to_datetime
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.serving import client
from levibot.settings import Settings
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import Metrics

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N = 1400


@pytest.fixture(scope="module")
def market() -> dict[str, Bars]:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    return {s: source.bars(s, MARKET_START, MARKET_START + N * HOUR) for s in SYMBOLS}


@pytest.fixture(scope="module")
def served(market: dict[str, Bars]) -> list[ServedVector]:
    """What the online path gave for the newest rows."""
    panel = Panel.align(market)
    vectors = []
    for back in (1, 2, 26):
        window = panel.rows(slice(0, len(panel) - back))
        row = compute_tail(CORE, window, 1)[0]
        at = to_datetime(window.closes_at[-1])
        for column, symbol in enumerate(SYMBOLS):
            values = dict(zip(CORE.names, map(float, row[column]), strict=True))
            vectors.append(
                ServedVector(symbol, "market", "core", CORE.version, at, at + timedelta(seconds=3), values)
            )
    # As they come back from the log.
    return [ServedVector.from_event(vector.to_event()) for vector in vectors]


@pytest.fixture
async def stored(tick_store: TickStore, market: dict[str, Bars]) -> TickStore:
    await tick_store.write_many("market", market.values())
    return tick_store


async def check(ticks: TickStore, served: list[ServedVector], metrics: Metrics | None = None) -> Any:
    return await check_parity(
        ticks,
        served,
        market_id="market",
        symbols=SYMBOLS,
        interval=HOUR,
        view=CORE,
        metrics=metrics or Metrics(CollectorRegistry()),
    )


async def test_what_was_served_is_what_history_gives(stored: TickStore, served: list[ServedVector]) -> None:
    metrics = Metrics(CollectorRegistry())
    found = await check(stored, served, metrics)
    assert found.differences == ()
    assert (found.n_vectors, found.n_values) == (6, 6 * len(CORE.names))
    value = metrics.registry.get_sample_value
    assert value("levibot_feature_parity_checked_total") == found.n_values
    assert value("levibot_feature_parity_differences_total") == 0


@pytest.mark.parametrize("change", [2e-6, -2e-6, 0.5])
async def test_a_planted_skew_is_found_and_named(
    stored: TickStore, served: list[ServedVector], change: float
) -> None:
    metrics = Metrics(CollectorRegistry())
    vector = served[3]
    rebuilt = vector.values["return_24"]
    skewed = replace(vector, values={**vector.values, "return_24": rebuilt * (1 + change)})
    found = await check(stored, [*served[:3], skewed, *served[4:]], metrics)
    (difference,) = found.differences
    assert (difference.symbol, difference.event_time, difference.feature) == (
        vector.symbol,
        vector.event_time,
        "return_24",
    )
    assert difference.served == rebuilt * (1 + change)
    assert difference.rebuilt == pytest.approx(rebuilt, rel=1e-6)
    assert metrics.registry.get_sample_value("levibot_feature_parity_differences_total") == 1


async def test_a_skew_below_the_tolerance_is_none(stored: TickStore, served: list[ServedVector]) -> None:
    vector = served[0]
    shifted = replace(vector, values={name: v * (1 + 1e-8) for name, v in vector.values.items()})
    assert (await check(stored, [shifted])).differences == ()


async def test_values_that_only_one_side_has_differ(stored: TickStore, served: list[ServedVector]) -> None:
    vector = served[0]
    fewer = {name: v for name, v in vector.values.items() if name != "return_1"}
    changed = replace(vector, values={**fewer, "made_up": 1.0})
    found = (await check(stored, [changed])).differences
    assert [d.feature for d in found] == ["return_1", "made_up"]
    assert found[0].served is None
    assert found[0].rebuilt == pytest.approx(vector.values["return_1"])
    assert found[1] == Difference("BTCUSDT", vector.event_time, "made_up", 1.0, None)


async def test_a_vector_of_a_bar_that_is_not_stored_differs_in_every_value(
    tick_store: TickStore, served: list[ServedVector]
) -> None:
    found = await check(tick_store, served[:1])
    assert {d.feature for d in found.differences} == set(served[0].values)
    assert all(d.rebuilt is None for d in found.differences)


async def test_what_cannot_be_compared_is_counted(stored: TickStore, served: list[ServedVector]) -> None:
    others = [replace(served[0], market_id="other"), replace(served[1], view_version="ffffffffffff")]
    found = await check(stored, others)
    assert found.n_vectors == 0
    assert found.not_comparable == {"of another market": 1, "of another version of the view": 1}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[list[ServedVector]], None]:
    """What the API shows as served, and the command's own surroundings."""

    def set_up(vectors: list[ServedVector]) -> None:
        newest_first = sorted((v.to_event() for v in vectors), key=lambda event: event.ts, reverse=True)

        def events(
            base: str, kind: str, *, since: Any = None, limit: int | None = None, key: str | None = None
        ) -> Any:
            return [e for e in newest_first if since is None or e.ts >= since][:limit]

        monkeypatch.setattr(client, "events", events)

    monkeypatch.setenv("LEVIBOT_HOME", str(tmp_path))
    monkeypatch.setenv("LEVIBOT_SYMBOLS", ",".join(SYMBOLS))
    monkeypatch.setenv("LEVIBOT_REDIS_URL", "redis://not.used/0")
    return set_up


async def test_the_command_reports_and_its_exit_code_says_so(
    stored: TickStore,
    served: list[ServedVector],
    answers: Callable[[list[ServedVector]], None],
    postgres_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stored._client.connection("which_database") as (db, _):
        database = await db.fetchval("SELECT current_database()")
    monkeypatch.setenv("LEVIBOT_POSTGRES_DSN", postgres_dsn.rsplit("/", 1)[0] + f"/{database}")
    market_id = Settings.load().market_id
    await stored.write_many(market_id, await _bars(stored))
    app = typer.Typer()
    app.command()(feature_parity.parity)
    ours = [replace(vector, market_id=market_id) for vector in served]

    answers(ours)
    done = await asyncio.to_thread(CliRunner().invoke, app, ["--hours", "5", "--json"])
    assert done.exit_code == 0, done.output
    # The two rows of 26 hours ago are too old.
    assert json.loads(done.output)["vectors"] == 4

    skewed = replace(ours[0], values={**ours[0].values, "return_1": 9.0})
    answers([skewed, *ours[1:]])
    done = await asyncio.to_thread(CliRunner().invoke, app, ["--hours", "48"])
    assert done.exit_code == 1
    assert "6 served vectors" in done.output
    assert "1 differ." in done.output
    assert "return_1: served 9.0, rebuilt" in done.output

    answers([])
    done = await asyncio.to_thread(CliRunner().invoke, app, [])
    assert done.exit_code == 0
    assert "0 served vectors" in done.output


async def _bars(ticks: TickStore) -> list[Bars]:
    return [await ticks.read_bars("market", symbol, HOUR) for symbol in SYMBOLS]
