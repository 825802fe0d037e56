"""Who gets in: every route without a key, with a wrong one, with too low a role and above the limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from deployments.errors import SECURITY_HEADERS
from deployments.gate import role_for
from deployments.http import build_http
from levibot.access.admission import Admission
from levibot.access.api_key import Role
from levibot.resilience.deadline import remaining_s
from levibot.serving.answer import Answer
from levibot.serving.client import headers_with
from tests.fakes.face import FakeFace, error_of

OPEN = {"/livez", "/readyz", "/healthz", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/webhook/signal"}
OPERATORS = {"/ai/models/activate", "/ops/slow-queries"}


@pytest.fixture
def face(tmp_path: Path) -> FakeFace:
    return FakeFace(tmp_path)


@pytest.fixture
async def client(face: FakeFace) -> AsyncIterator[httpx.AsyncClient]:
    """A caller without a key."""
    transport = httpx.ASGITransport(build_http(face), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        yield client


def routes_of(face: FakeFace) -> list[tuple[str, str]]:
    """Every method and path that is served, with names in place of parameters."""
    found = []
    for route in build_http(face).routes:
        if isinstance(route, Route):
            path = route.path.replace("{symbol}", "BTCUSDT").replace("{version}", "v1.0.0")
            found += [(method, path) for method in sorted(route.methods or ())]
    assert len(found) > 12
    return found


async def test_no_route_but_health_and_documents_answers_without_a_key(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    guarded = [(method, path) for method, path in routes_of(face) if path not in OPEN]
    assert len(guarded) >= 8
    for method, path in [*guarded, ("GET", "/"), ("GET", "/nope"), ("POST", "/livez/"), ("GET", "//livez")]:
        answer = await client.request(method, path, json={"symbol": "BTCUSDT"})
        error_of(answer, 401, "key_refused")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (face.n_asked, face.limits.asked) == (0, [])


async def test_health_and_documents_answer_without_a_key(client: httpx.AsyncClient) -> None:
    for path in OPEN - {"/webhook/signal"}:
        assert (await client.get(path)).status_code == 200
    assert (await client.get("/static-offline-docs/swagger-ui.css")).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic eDp5", "{key}", "Bearer {key}x", "Bearer levibot_a_b", "Bearer ü"],
)
async def test_what_is_no_valid_key_opens_nothing(
    client: httpx.AsyncClient, face: FakeFace, authorization: str
) -> None:
    text = authorization.format(key=face.reader)
    answer = await client.get("/events", headers=[(b"authorization", text.encode())])  # type: ignore[list-item]
    error = error_of(answer, 401, "key_refused")
    assert face.reader not in answer.text
    assert error["hint"].startswith("Send `Authorization: Bearer KEY`")


async def test_a_revoked_key_is_refused_by_the_next_request(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    headers = headers_with(face.reader)
    assert (await client.get("/events", headers=headers)).status_code == 200
    (reader,) = (key for key in face.keys.records() if key.name == "reader")
    face.keys.revoke(reader.key_id)
    error_of(await client.get("/events", headers=headers), 401, "key_refused")


async def test_a_reader_asks_and_an_operator_changes(client: httpx.AsyncClient, face: FakeFace) -> None:
    body = {"version": "v1.0.0", "reason": "by hand"}
    # The stream of signals, which has no end, is asked for a place that there is not.
    headers = headers_with(face.reader) | {"last-event-id": "none"}
    for method, path in routes_of(face):
        if path in OPEN:
            continue
        expected = Role.OPERATOR if path in OPERATORS else Role.READER
        assert role_for(path) is expected
        answer = await client.request(method, path, headers=headers, json=body)
        assert (answer.status_code == 403) is (path in OPERATORS)
    answer = await client.post("/ai/models/activate", headers=headers_with(face.reader), json=body)
    error_of(answer, 403, "role_refused")
    answer = await client.post("/ai/models/activate", headers=headers_with(face.operator), json=body)
    error_of(answer, 503, "not_ready")


async def test_above_its_limit_a_key_is_told_when_to_come_back(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    face.limits.seconds = 1.2
    answer = await client.get("/events", headers=headers_with(face.reader))
    error_of(answer, 429, "rate_limited")
    assert answer.headers["retry-after"] == "2"
    assert face.n_asked == 0
    assert (await client.get("/healthz")).status_code == 200


async def test_a_broken_file_of_keys_lets_nobody_in_and_says_nothing_of_it(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    face.keys.path.write_text("{")
    answer = await client.get("/events", headers=headers_with(face.reader))
    error_of(answer, 503, "store_unavailable")
    assert str(face.keys.path) not in answer.text


async def test_without_keys_all_are_let_in_and_healthz_says_so(face: FakeFace) -> None:
    face.admission = Admission(None, face.limits)
    transport = httpx.ASGITransport(build_http(face))
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        assert (await client.get("/events")).status_code == 200
        assert (await client.get("/healthz")).json()["api_keys"] == "off"


@pytest.mark.parametrize("path", ["/livez", "/nope", "/events", "/docs", "/openapi.json"])
async def test_every_answer_has_the_security_headers_and_none_opens_cors(
    client: httpx.AsyncClient, face: FakeFace, path: str
) -> None:
    origin = {"origin": "https://elsewhere.example", "access-control-request-method": "GET"}
    for method in ("GET", "OPTIONS"):
        answer = await client.request(method, path, headers={**origin, **headers_with(face.reader)})
        assert set(SECURITY_HEADERS) <= set(answer.headers)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("seconds", ["0", "-1", "31", "nan", "inf", "soon", ""])
async def test_a_time_that_nobody_waits_is_refused(client: httpx.AsyncClient, seconds: str) -> None:
    answer = await client.get("/livez", headers={"x-request-timeout": seconds})
    error_of(answer, 400, "usage")


async def test_what_a_caller_no_longer_waits_for_ends_with_its_time(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    seen: list[float | None] = []

    async def hang(*_: object) -> Answer:
        seen.append(remaining_s())
        await asyncio.sleep(60)
        raise AssertionError("nobody waits for this any more")

    face.predict = hang  # type: ignore[method-assign]
    headers = {**headers_with(face.reader), "x-request-timeout": "0.2"}
    answer = await client.post("/ai/predict", json={"symbol": "BTCUSDT"}, headers=headers)
    error_of(answer, 408, "timeout")
    assert answer.headers["retry-after"] == "1"
    (left_s,) = seen
    assert left_s is not None
    assert 0.0 < left_s <= 0.2
