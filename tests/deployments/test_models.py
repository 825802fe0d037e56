"""The routes of the model registry, over a real folder and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.errors import install_error_handlers
from deployments.model_routes import add_model_routes
from deployments.models import Models
from deployments.schemas import ErrorResponse
from levibot.features.views import CORE
from levibot.settings import Settings
from levibot.stores.connect import open_registry
from levibot.stores.registry import Registry

pytestmark = pytest.mark.stores

SYMBOLS = ("BTCUSDT", "ETHUSDT")
METADATA = {"kind": "signal", "view_version": CORE.version, "symbols": list(SYMBOLS), "seed": 7}
FILES = {"model.txt": b"tree\n"}


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, postgres_dsn="postgresql://not.used/x", redis_url=redis_url, symbols=SYMBOLS
    )


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return open_registry(settings)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    http, models = FastAPI(), Models(settings)
    install_error_handlers(http)
    add_model_routes(http, models)
    transport = httpx.ASGITransport(http, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        yield client
    await models.close()


async def activate(client: httpx.AsyncClient, version: str, **other: Any) -> httpx.Response:
    body = {"version": version, "reason": "by hand", **other}
    return await client.post("/ai/models/activate", json=body)


def error_of(answer: httpx.Response, status: int, code: str) -> str:
    error = ErrorResponse(**answer.json()).error
    assert (answer.status_code, error.code) == (status, code)
    return error.message


async def test_an_empty_registry_has_an_empty_list(client: httpx.AsyncClient) -> None:
    body = (await client.get("/ai/models/list")).json()
    assert (body["active"], body["models"], body["history"], body["problem"]) == (None, [], [], "")


async def test_the_list_says_what_is_live_and_what_was(client: httpx.AsyncClient, registry: Registry) -> None:
    first, second = registry.publish(METADATA, FILES), registry.publish({**METADATA, "seed": 8}, FILES)
    registry.activate(first, "first model")
    registry.activate(second, "better", decision={"is_better": True})
    (registry.files.root / first / "model.json").write_text("{")  # type: ignore[attr-defined]
    body = (await client.get("/ai/models/list")).json()
    assert body["active"] == second == "v1.1.0"
    broken, whole = body["models"]
    assert (broken["version"], broken["is_active"], broken["published_at"]) == (first, False, None)
    assert "is not JSON" in broken["problem"]
    assert (whole["is_active"], whole["metadata"], whole["problem"]) == (True, {**METADATA, "seed": 8}, "")
    assert [(e["version"], e["replaced"], e["reason"], e["decision"]) for e in body["history"]] == [
        (second, first, "better", {"is_better": True}),
        (first, None, "first model", None),
    ]


async def test_a_version_is_activated_once(client: httpx.AsyncClient, registry: Registry) -> None:
    first, second = registry.publish(METADATA, FILES), registry.publish({**METADATA, "seed": 8}, FILES)
    answers = [(await activate(client, version)).json() for version in (first, second, second)]
    assert [(a["version"], a["replaced"], a["is_changed"]) for a in answers] == [
        (first, None, True),
        (second, first, True),
        (second, second, False),
    ]
    assert [entry["reason"] for entry in registry.history()] == ["by hand", "by hand"]


async def test_of_two_who_have_seen_the_same_list_the_second_is_refused(
    client: httpx.AsyncClient, registry: Registry
) -> None:
    versions = [registry.publish({**METADATA, "seed": seed}, FILES) for seed in range(3)]
    registry.activate(versions[0], "first model")
    state = (await client.get("/ai/models/list")).json()["state"]
    answers = await asyncio.gather(*(activate(client, v, instead_of=state) for v in versions[1:]))
    won, lost = sorted(answers, key=lambda answer: answer.status_code)
    live = won.json()["version"]
    assert error_of(lost, 409, "registry_conflict").endswith(f"was not activated: {live} came first.")
    assert (registry.active(), len(registry.history())) == (live, 2)


async def test_what_cannot_serve_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, registry: Registry
) -> None:
    good = registry.publish(METADATA, FILES)
    registry.activate(good, "first model")
    flipped = registry.publish({**METADATA, "seed": 8}, FILES)
    folder: Path = registry.files.root  # type: ignore[attr-defined]
    (folder / flipped / "model.txt").write_bytes(b"tref\n")
    missing = registry.publish({**METADATA, "seed": 9}, FILES)
    (folder / missing / "model.txt").unlink()
    half = registry.publish({**METADATA, "seed": 10}, FILES)
    (folder / half / "model.json").unlink()
    other = registry.publish({**METADATA, "view_version": "another"}, FILES)
    said = [
        error_of(await activate(client, version), status, code)
        for version, status, code in (
            (flipped, 500, "registry"),
            (missing, 500, "registry"),
            (half, 404, "unknown_version"),
            (other, 409, "registry_conflict"),
            ("v9.9.9", 404, "unknown_version"),
        )
    ]
    assert said == [
        f"model.txt of version {flipped} is not what was published.",
        f"model.txt of version {missing} is missing.",
        f"There is no version {half}: it has no model.json.",
        f"Version {other} reads view another of BTCUSDT, ETHUSDT; "
        f"this run has view {CORE.version} of BTCUSDT, ETHUSDT.",
        "There is no version v9.9.9: it has no model.json.",
    ]
    assert (registry.active(), len(registry.history())) == (good, 1)


@pytest.mark.parametrize("other", [{"reason": ""}, {"instead_of": "x"}, {"force": True}, {"version": "../x"}])
async def test_a_request_that_is_none_is_refused(
    client: httpx.AsyncClient, registry: Registry, other: dict[str, Any]
) -> None:
    version = registry.publish(METADATA, FILES)
    error_of(await activate(client, **{"version": version, **other}), 422, "bad_request")
    assert registry.active() is None


async def test_the_card_of_a_version_can_be_read(client: httpx.AsyncClient, registry: Registry) -> None:
    version = registry.publish(METADATA, FILES)
    answer = await client.get(f"/ai/models/{version}/card")
    assert answer.headers["content-type"].startswith("text/markdown")
    assert answer.text == registry.load(version).card
    assert "| Seed | 7 |" in answer.text
    error_of(await client.get("/ai/models/v9.9.9/card"), 404, "unknown_version")


async def test_while_the_registry_is_away_the_last_list_is_shown_and_says_so(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.publish(METADATA, FILES)
    models = Models(settings)
    assert (await models.list()).problem == ""
    away = settings.model_copy(update={"models_url": "s3://nobody/x", "store_timeout_s": 0.2})
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ALLOW_HTTP", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "x")
    models._registry = open_registry(away)
    found = await models.list()
    assert [info.version for info in found.versions] == [version]
    assert "s3://nobody/x did not answer" in found.problem
    await models.close()
