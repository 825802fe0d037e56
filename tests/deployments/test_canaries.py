"""The route of the canary: a fake of what is behind it, and the reading on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest

from deployments.canaries import Canaries, CanaryState
from deployments.http import build_http
from levibot.errors import NotReady
from levibot.serving.canary_report import Answers, CanaryReport, Comparison
from levibot.serving.client import headers_with
from levibot.settings import Settings
from levibot.stores.canaries import CanaryRun
from levibot.stores.canary_setting import CanarySetting
from levibot.stores.ticks import TickStore
from tests.fakes.face import NOON, FakeFace

RUN = CanaryRun(CanarySetting("v1.1.0", 0.25), NOON - timedelta(hours=300))
REPORT = CanaryReport(
    run=RUN,
    champion="v1.0.0",
    counts={"answered": 298, "failed": 2},
    answers=Answers(100, 1, 99, 0.01, 0.04),
    pnl=Comparison(299, 0.01, 0.02, 0.3, -0.1, 0.7),
    drawdown=0.03,
    priced_to=NOON,
    brier=Comparison(12, 0.25, 0.24, -0.01, -np.inf, np.inf),
)


@pytest.fixture
def face(tmp_path: Path) -> FakeFace:
    return FakeFace(tmp_path)


@pytest.fixture
async def client(face: FakeFace) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_http(face), raise_app_exceptions=True)
    headers = headers_with(face.reader)
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot", headers=headers) as client:
        yield client


async def test_without_a_canary_there_is_none(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ai/models/canary")
    assert (answer.status_code, answer.json()["canary"], answer.json()["problem"]) == (200, None, "")


async def test_one_that_runs_is_told_with_both_arms(client: httpx.AsyncClient, face: FakeFace) -> None:
    face.canaries.state = CanaryState(REPORT, NOON, "PostgreSQL is away.")
    body = (await client.get("/ai/models/canary")).json()
    canary = body["canary"]
    assert (body["problem"], canary["state"], canary["share"]) == ("PostgreSQL is away.", "running", 0.25)
    assert (canary["version"], canary["champion"], canary["verdict"]) == ("v1.1.0", "v1.0.0", "undecided")
    assert canary["net_pnl"] == {
        "n": 299,
        "champion": 0.01,
        "canary": 0.02,
        "difference": 0.3,
        "low": -0.1,
        "high": 0.7,
    }
    assert (canary["brier"]["difference"], canary["brier"]["low"], canary["brier"]["high"]) == (
        -0.01,
        None,
        None,
    )
    assert (canary["error_share"], canary["latency_p95_s"]) == (0.01, 0.04)
    assert canary["bars"] == {"answered": 298, "failed": 2}


@pytest.mark.parametrize(
    ("why", "state"), [("net_pnl", "rolled_back"), ("configuration", "ended"), ("activated", "ended")]
)
async def test_one_that_does_not_run_answers_nobody_and_says_why(
    client: httpx.AsyncClient, face: FakeFace, why: str, state: str
) -> None:
    numbers = {"high": -0.1} if why == "net_pnl" else None
    run = replace(RUN, ended_at=NOON, ended_why=why, numbers=numbers)  # type: ignore[arg-type]
    face.canaries.state = CanaryState(replace(REPORT, run=run), NOON)
    canary = (await client.get("/ai/models/canary")).json()["canary"]
    assert (canary["state"], canary["share"], canary["share_set"]) == (state, 0.0, 0.25)
    assert (canary["ended_why"], canary["numbers"]) == (why, numbers)


@pytest.mark.stores
async def test_what_was_read_last_is_told_with_the_reason_while_postgres_is_away(
    tick_store: TickStore, postgres_dsn: str, tmp_path: Path
) -> None:
    async with tick_store._client.connection("which_database") as (db, _):
        name = await db.fetchval("SELECT current_database()")
    settings = Settings(
        home=tmp_path,
        replay_start=NOON,
        replay_wall_start=datetime.now(UTC),
        redis_url="redis://127.0.0.1:1",
        postgres_dsn=f"{postgres_dsn.rsplit('/', 1)[0]}/{name}",
    )
    canaries = Canaries(settings)
    try:
        assert (await canaries.canary()).report is None
        await tick_store.canaries.begin(settings.market_id, RUN.setting, RUN.began_at)
        state = await canaries.canary()
        assert state.report is not None
        assert (state.report.run, state.problem) == (RUN, "")
    finally:
        await canaries.close()
    away = await canaries.canary()
    assert away.report is state.report
    assert away.problem
    never = Canaries(settings.model_copy(update={"postgres_dsn": "postgresql://not.used/x"}))
    with pytest.raises(NotReady):
        await never.canary()
