"""What is answered from memory is what the route says, and whatever is not plain goes to the route."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.http import build_http
from levibot.serving.client import headers_with
from levibot.stores.signals import Blend
from tests.fakes.face import FakeFace, error_of

BLEND = Blend(
    {"linear": 0.1, "trend": -0.5},
    {"linear": 0.1, "ensemble": 0.25},
    0.05,
    {"linear": 0.75, "trend": 0.25},
    "ensemble",
    "The evidence is thin.",
    {"bull": 0.5, "bear": 0.5},
    "redis",
    date(2024, 4, 30),
    60.0,
    {"lstm": "crashed"},
)


@pytest.fixture
def face(tmp_path: Path) -> FakeFace:
    face = FakeFace(tmp_path)
    signal = replace(face.answer.signal, blend=BLEND)
    face.answer = replace(face.answer, signal=signal, served_from="l1")
    return face


@pytest.fixture
async def client(face: FakeFace) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_http(face), raise_app_exceptions=True)
    headers = headers_with(face.reader) | {"x-request-id": "one"}
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot", headers=headers) as client:
        yield client


async def test_memory_and_route_answer_the_same_bytes_under_the_same_headers(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    routed = await client.post("/ai/predict", json={"symbol": "BTCUSDT"})
    assert face.n_asked == 1
    key_id, face.key_id = face.key_id, ""
    assert key_id
    face.in_memory = {"BTCUSDT": face.answer}
    held = await client.post("/ai/predict", json={"symbol": "BTCUSDT"})
    assert face.n_asked == 1
    assert face.key_id == key_id
    assert held.content == routed.content
    assert held.json()["blend"]["weights_as_of"] == "2024-04-30"
    assert sorted(held.headers.multi_items()) == sorted(routed.headers.multi_items())


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"symbol": "BTCUSDT", "model_version": "v1.0.2"}, {}),
        ({"symbol": "BTCUSDT"}, {"content-type": "application/json; charset=utf-8"}),
    ],
)
async def test_what_is_not_plain_is_asked_of_the_face(
    client: httpx.AsyncClient, face: FakeFace, body: dict[str, str], headers: dict[str, str]
) -> None:
    face.in_memory = {"BTCUSDT": face.answer}
    answer = await client.post("/ai/predict", content=json.dumps(body), headers=_JSON | headers)
    assert (answer.status_code, face.n_asked) == (200, 1)


async def test_a_body_that_comes_in_parts_reaches_the_route_whole(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"symbol": '
        yield b'"BTCUSDT"}'

    face.in_memory = {"BTCUSDT": face.answer}
    answer = await client.post("/ai/predict", content=parts(), headers=_JSON)
    assert (answer.status_code, answer.json()["symbol"], face.n_asked) == (200, "BTCUSDT", 1)


@pytest.mark.parametrize(
    "body",
    ['{"symbol": "BTCUSDT", "extra": 1}', '{"symbol": "bt c"}', "{", "", '["BTCUSDT"]', '{"symbol": 1}'],
)
async def test_a_wrong_body_is_refused_as_by_the_route(
    client: httpx.AsyncClient, face: FakeFace, body: str
) -> None:
    refused = await client.post("/ai/predict", content=body, headers=_JSON)
    error_of(refused, 422, "bad_request")
    face.in_memory = {"BTCUSDT": face.answer}
    assert (await client.post("/ai/predict", content=body, headers=_JSON)).content == refused.content


async def test_without_a_key_nothing_is_told_from_memory(client: httpx.AsyncClient, face: FakeFace) -> None:
    face.in_memory = {"BTCUSDT": face.answer}
    answer = await client.post("/ai/predict", json={"symbol": "BTCUSDT"}, headers={"authorization": ""})
    error_of(answer, 401, "key_refused")


async def test_it_counts_as_the_route_does(client: httpx.AsyncClient, face: FakeFace) -> None:
    face.in_memory = {"BTCUSDT": face.answer}
    before = await _counted(client)
    await client.post("/ai/predict", json={"symbol": "BTCUSDT"})
    assert await _counted(client) == before + 1


_JSON = {"content-type": "application/json"}


async def _counted(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "levibot_http_requests_total"
        and (sample.labels["route"], sample.labels["status"]) == ("/ai/predict", "200")
    )
