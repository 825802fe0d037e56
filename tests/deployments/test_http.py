"""The HTTP face over a fake of what is behind it: every route, and every error in one shape."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.processes import Said
from deployments.ensemble import EnsembleState
from deployments.errors import MAX_BODY_BYTES
from deployments.http import build_http
from deployments.policies import PolicyAnswer
from levibot import __version__
from levibot.errors import (
    DataError,
    NotReady,
    RegistryConflict,
    RegistryError,
    StoreError,
    StoreUnavailable,
    UnknownSymbol,
    UnknownVersion,
    UsageError,
)
from levibot.serving.answer import Answer
from levibot.serving.client import headers_with
from levibot.stores.events import EventCursor, EventPage, EventQuery
from levibot.stores.live_weights import HeldWeights
from levibot.stores.online import Freshness, Signal
from levibot.stores.policy_ledger import PolicyRecord
from levibot.stores.query_profile import QueryCost
from levibot.stores.reading import FeatureReading
from levibot.stores.shadow import Earned
from levibot.stores.signals import Blend
from levibot.telemetry.logging import configure_logging
from tests.fakes.face import NOON, FakeFace, error_of


@pytest.fixture
def face(tmp_path: Path) -> FakeFace:
    return FakeFace(tmp_path)


@pytest.fixture
async def client(face: FakeFace) -> AsyncIterator[httpx.AsyncClient]:
    # What the application lets through is an error here, as it would be in the server.
    transport = httpx.ASGITransport(build_http(face), raise_app_exceptions=True)
    headers = headers_with(face.operator)
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot", headers=headers) as client:
        yield client


async def ask(client: httpx.AsyncClient, symbol: str = "BTCUSDT", **headers: str) -> httpx.Response:
    return await client.post("/ai/predict", json={"symbol": symbol}, headers=headers)


async def test_a_prediction_says_all_that_it_rests_on(client: httpx.AsyncClient) -> None:
    answer = await ask(client)
    assert answer.status_code == 200
    assert answer.json() == {
        "symbol": "BTCUSDT",
        "as_of": "2024-05-01T12:00:00Z",
        "probability_up": 0.53,
        "expected_return": 0.01,
        "target_position": -0.25,
        "model_version": "v1.0.2",
        "view_version": "abc123",
        "feature_age_s": 12.5,
        "freshness": "FRESH",
        "source": "simulated",
        "served_from": "cache",
        "arm": "champion",
        "problem": "",
        "blend": None,
        "trace_id": answer.headers["x-request-id"],
    }


async def test_features_are_shown_with_their_ages_and_what_is_missing_is_null(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    answer = await client.get("/features/BTCUSDT", params={"order_notional": "2.5e4"})
    body = answer.json()
    assert answer.status_code == 200
    assert face.order_notional == 25_000.0
    assert body["features"] == {
        "a": {"value": 1.5, "status": "FRESH", "age_s": 12.5},
        "b": {"value": None, "status": "MISSING", "age_s": None},
    }
    assert body["on_demand"] == {"bar_age": {"value": 0.5, "status": "FRESH", "age_s": 12.5}}
    assert (body["status"], body["age_s"], body["problem"]) == ("FRESH", 12.5, "Bars are late.")
    assert (body["event_time"], body["market_time"]) == ("2024-05-01T12:00:00Z",) * 2
    assert (body["symbol"], body["view"], body["view_version"]) == ("BTCUSDT", "core", "abc123")
    assert body["trace_id"] == answer.headers["x-request-id"]
    await client.get("/features/BTCUSDT?order_notional=")
    assert face.order_notional is None


async def test_a_symbol_without_features_is_missing_as_a_whole(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    face.known = replace(face.known, vector=FeatureReading.missing("BTCUSDT"))
    body = (await client.get("/features/BTCUSDT")).json()
    assert (body["status"], body["age_s"], body["event_time"]) == ("MISSING", None, None)
    assert {name: entry["status"] for name, entry in body["features"].items()} == {
        "a": "MISSING",
        "b": "MISSING",
    }


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/features/DOGEUSDT", 404, "unknown_symbol"),
        ("/features/bt%20c", 422, "bad_request"),
        *((f"/features/BTCUSDT?order_notional={size}", 422, "bad_request") for size in ("0", "-1", "x")),
        *((f"/features/BTCUSDT?order_notional={size}", 422, "bad_request") for size in ("nan", "inf")),
        ("/features/BTCUSDT?order=1", 422, "bad_request"),
        ("/features/BTCUSDT?order_notional=1&order_notional=2", 422, "bad_request"),
    ],
)
async def test_what_cannot_be_asked_of_the_features_is_refused_in_the_one_shape(
    client: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    error_of(await client.get(path), status, code)


async def test_without_a_store_there_are_no_features(client: httpx.AsyncClient, face: FakeFace) -> None:
    face.error = StoreUnavailable("Redis does not answer.")
    error_of(await client.get("/features/BTCUSDT"), 503, "store_unavailable")


async def test_alive_is_whoever_answers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/livez")
    assert answer.json() == {"status": "alive", "version": __version__, "source": "simulated"}


@pytest.mark.parametrize(("is_ready", "status"), [(True, 200), (False, 503)])
async def test_readiness_is_in_the_status_and_in_the_body(
    client: httpx.AsyncClient, face: FakeFace, is_ready: bool, status: int
) -> None:
    face.is_ready = is_ready
    answer = await client.get("/readyz")
    assert answer.status_code == status
    assert answer.json()["ready"] is is_ready
    assert answer.json()["market_time"] == "2024-05-01T12:00:12.500000Z"
    assert bool(answer.json()["reasons"]) is not is_ready
    assert ("retry-after" in answer.headers) is not is_ready


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnknownSymbol("XUSDT is not served.", hint="Served are: BTCUSDT."), 404, "unknown_symbol"),
        (UsageError("That cannot be.", hint="Do it otherwise."), 400, "usage"),
        (DataError("A bar is broken.", hint="Mend it."), 500, "bad_data"),
        (NotReady("No model is active.", hint="Train one."), 503, "not_ready"),
        (StoreUnavailable("Redis is away.", hint="Wait."), 503, "store_unavailable"),
        (StoreError("Redis refused.", hint="Look."), 500, "store_error"),
        (RegistryError("v1.0.2 is broken.", hint="Publish it again."), 500, "registry"),
        (UnknownVersion("There is no version v1.0.3."), 404, "unknown_version"),
        (RegistryConflict("v1.0.2 came first.", hint="Ask again."), 409, "registry_conflict"),
    ],
)
async def test_each_of_our_errors_has_its_status(
    client: httpx.AsyncClient, face: FakeFace, error: StoreError, status: int, code: str
) -> None:
    face.error = error
    answer = await ask(client)
    found = error_of(answer, status, code)
    assert (found["message"], found["hint"]) == (error.message, error.hint)
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "body"),
        (b"null", "body"),
        (b"[]", "body"),
        (b'"BTCUSDT"', "body"),
        (b"{}", "body.symbol"),
        (b'{"symbol": "BTCUSDT"', "body."),
        (b'{"symbol": null}', "body.symbol"),
        (b'{"symbol": 7}', "body.symbol"),
        (b'{"symbol": ""}', "body.symbol"),
        (b'{"symbol": "btcusdt"}', "body.symbol"),
        (b'{"symbol": "BTC\\nUSDT"}', "body.symbol"),
        (b'{"symbol": "BTCUSDT\\n"}', "body.symbol"),
        (b'{"symbol": "BTCUSDT", "horizon": 3}', "body.horizon"),
        (b'{"symbol": "' + b"A" * 5000 + b'"}', "body.symbol"),
    ],
)
async def test_a_body_that_does_not_fit_is_a_bad_request(
    client: httpx.AsyncClient, face: FakeFace, body: bytes, where: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post("/ai/predict", content=body, headers=headers)
    assert error_of(answer, 422, "bad_request")["message"].startswith(where)
    assert len(answer.content) < 1000
    assert face.n_asked == 0


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense"])
async def test_a_body_of_another_kind_is_a_bad_request(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {"content-type": content_type}
    answer = await client.post("/ai/predict", content=b'{"symbol": "BTCUSDT"}', headers=headers)
    error_of(answer, 422, "bad_request")


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b'{"symbol": "\xff"}', b"[" * 60_000])
async def test_what_cannot_even_be_read_is_a_bad_request(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/ai/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    error_of(answer, answer.status_code, "bad_request")


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_without_end_is_refused_while_it_arrives(
    client: httpx.AsyncClient, face: FakeFace, announced: bool
) -> None:
    n_sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal n_sent
        for _ in range(1000):
            n_sent += 1024
            yield b"x" * 1024

    headers = {"content-length": "1024000"} if announced else {}
    answer = await client.post("/ai/predict", content=body(), headers=headers)
    error_of(answer, 413, "too_large")
    assert n_sent <= MAX_BODY_BYTES + 2 * 1024
    assert face.n_asked == 0


@pytest.mark.parametrize("path", ["/", "/nope", "/ai", "/AI/PREDICT", "/%00", "/../etc/passwd"])
async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    error_of(await client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/ai/predict", "POST"), ("DELETE", "/ai/predict", "POST"), ("POST", "/readyz", "GET")],
)
async def test_a_wrong_method_says_which_is_right(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    error_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def listen(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], Lines]]:
    """Call it to log as the running application does; what it returns reads the lines since then."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def begin() -> Lines:
        configure_logging("WARNING", "api")
        return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    yield begin
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_an_unforeseen_error_is_logged_once_and_not_told(
    client: httpx.AsyncClient, face: FakeFace, listen: Callable[[], Lines]
) -> None:
    logged = listen()
    face.error = ZeroDivisionError("the password is hunter2")
    answer = await ask(client, **{"x-request-id": "mine"})
    error = error_of(answer, 500, "internal")
    assert "hunter2" not in answer.text
    assert error["hint"] == "Try again; the log has the cause."
    (line,) = logged()
    assert (line["event"], line["level"], line["process"]) == ("a request failed", "error", "api")
    assert (line["error_type"], line["error"]) == ("ZeroDivisionError", "the password is hunter2")
    assert (line["trace_id"], line["path"]) == ("mine", "/ai/predict")
    assert "Traceback" in line["traceback"]
    face.error = None
    assert (await ask(client)).status_code == 200


async def test_an_answer_that_breaks_its_schema_is_our_error(
    client: httpx.AsyncClient, face: FakeFace, listen: Callable[[], Lines]
) -> None:
    logged = listen()
    broken = Signal("BTCUSDT", NOON, 1.5, 0.0, "v", "w", "m", "simulated")
    face.answer = Answer(broken, 0.0, Freshness.FRESH, "cache")
    error_of(await ask(client), 500, "internal")
    assert [line["error_type"] for line in logged()] == ["ValidationError"]


async def test_refusals_are_no_errors_in_the_log(
    client: httpx.AsyncClient, listen: Callable[[], Lines]
) -> None:
    logged = listen()
    assert [(await ask(client, s)).status_code for s in ("XUSDT", "x")] == [404, 422]
    assert logged() == []


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/nope", "/openapi.json"])
async def test_every_answer_carries_the_callers_request_id(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers={"x-request-id": "abc-123"})
    assert answer.headers.get_list("x-request-id") == ["abc-123"]


@pytest.mark.parametrize("given", ["", "x" * 65, "a\tb", "ü".encode(), b"\x7f"])
async def test_an_unsound_request_id_is_replaced(client: httpx.AsyncClient, given: str | bytes) -> None:
    seen = set()
    for _ in range(2):
        answer = await client.post(
            "/ai/predict",
            json={"symbol": "BTCUSDT"},
            headers=[(b"x-request-id", given)],  # type: ignore[list-item]
        )
        trace_id = answer.json()["trace_id"]
        assert answer.headers["x-request-id"] == trace_id
        assert len(trace_id) == 32
        assert trace_id.isalnum()
        seen.add(trace_id)
    assert len(seen) == 2


async def test_metrics_can_be_read_and_count_every_answer(client: httpx.AsyncClient, face: FakeFace) -> None:
    async def samples() -> dict[tuple[str, ...], float]:
        text = (await client.get("/metrics")).text
        families = list(text_string_to_metric_families(text))
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    before = await samples()
    await ask(client)
    await ask(client, "XUSDT")
    await client.get("/no/such/path")
    face.error = ZeroDivisionError()
    await ask(client)
    after = await samples()
    for key in (
        ("/ai/predict", "200", "POST"),
        ("/ai/predict", "404", "POST"),
        ("/ai/predict", "500", "POST"),
        ("404", "GET", "unknown"),
    ):
        name = ("levibot_http_requests_total", *key)
        assert after[name] == before.get(name, 0.0) + 1.0
    count = ("levibot_http_request_seconds_count", "/ai/predict")
    assert after[count] == before.get(count, 0.0) + 3.0
    assert after["levibot_build_info", __version__] == 1.0
    assert after["levibot_feature_staleness_seconds", "BTCUSDT"] == 12.5
    assert math.isnan(after["levibot_feature_staleness_seconds", "ETHUSDT"])
    # A gauge must not go on saying what was true once.
    face.ages = {"BTCUSDT": math.nan, "ETHUSDT": 3.0}
    later = await samples()
    assert math.isnan(later["levibot_feature_staleness_seconds", "BTCUSDT"])
    assert later["levibot_feature_staleness_seconds", "ETHUSDT"] == 3.0


async def test_events_are_shown_as_they_are_and_say_where_the_next_page_begins(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    answer = await client.get("/events")
    assert answer.status_code == 200
    cursor = EventCursor(NOON, "id")
    assert answer.json() == {
        "events": [
            {
                "event_id": "id",
                "event_type": "signal",
                "symbol": "BTCUSDT",
                "ts": "2024-05-01T12:00:00Z",
                "trace_id": "trace",
                "payload": {"x": [0.1 + 0.2, None]},
            }
        ],
        "next_cursor": cursor.text(),
        "trace_id": answer.headers["x-request-id"],
    }
    assert face.query == EventQuery(limit=100)
    await client.get("/events", params={"after": answer.json()["next_cursor"]})
    assert face.query == EventQuery(limit=100, after=cursor)
    face.page = EventPage((), None)
    assert (await client.get("/events")).json()["next_cursor"] is None


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ("limit=100&event_type=&symbol=&since=&after=", EventQuery()),
        ("limit=1000&event_type=model_refused", EventQuery(1000, "model_refused")),
        ("limit=1&symbol=BTCUSDT", EventQuery(1, symbol="BTCUSDT")),
        ("since=2024-05-01T12:00:00Z", EventQuery(since=NOON)),
        ("since=2024-05-01T14:00:00%2B02:00", EventQuery(since=NOON)),
    ],
)
async def test_events_are_asked_for_by_type_symbol_and_time(
    client: httpx.AsyncClient, face: FakeFace, asked: str, query: EventQuery
) -> None:
    assert (await client.get(f"/events?{asked}")).status_code == 200
    assert face.query == query


@pytest.mark.parametrize(
    ("asked", "status", "code", "message"),
    [
        ("limit=0", 422, "bad_request", "query.limit: "),
        ("limit=1001", 422, "bad_request", "query.limit: "),
        ("limit=many", 422, "bad_request", "query.limit: "),
        ("event_type=Signal", 422, "bad_request", "query.event_type: "),
        ("event_type=x%27--", 422, "bad_request", "query.event_type: "),
        ("symbol=btcusdt", 422, "bad_request", "query.symbol: "),
        ("symbol=BTCUSDT%0A", 422, "bad_request", "query.symbol: "),
        ("type=signal", 422, "bad_request", "query.type: "),
        ("since=2024-05-01T12:00:00", 400, "usage", "since is 2024-05-01T12:00:00, without a time zone."),
        ("since=2024-05-01", 400, "usage", "since is 2024-05-01, without a time zone."),
        ("since=yesterday", 400, "usage", "since is 'yesterday', which is not an instant."),
        ("since=2024-05-01T14:00:00+02:00", 400, "usage", "since is '2024-05-01T14:00:00 02:00'"),
        ("since=" + "1" * 65, 422, "bad_request", "query.since: "),
        ("after=nonsense", 400, "usage", "'nonsense' is not a cursor of the events."),
        ("after=" + "A" * 1025, 422, "bad_request", "query.after: "),
    ],
)
async def test_what_cannot_be_asked_of_the_events_is_refused_with_a_reason(
    client: httpx.AsyncClient, face: FakeFace, asked: str, status: int, code: str, message: str
) -> None:
    answer = await client.get(f"/events?{asked}")
    assert error_of(answer, status, code)["message"].startswith(message)
    assert face.n_asked == 0


async def test_an_event_log_that_does_not_answer_is_one_503(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    face.error = StoreUnavailable("api:event_log:read did not answer within 2 s.")
    answer = await client.get("/events")
    error_of(answer, 503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_the_ten_slowest_queries_of_all_processes_are_shown_with_who_is_silent(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    def costs(*total_s: float) -> list[dict[str, Any]]:
        return [asdict(QueryCost("clickhouse", f"q{t:g}", 3, 1, 0, t, t / 2)) for t in total_s]

    face.profiles = [
        Said("api", []),
        Said("event_log", costs(*range(20, 0, -2))),
        Said("market_feed", costs(19, 9.5)),
        Said("router", None, "It does not answer."),
    ]
    answer = (await client.get("/ops/slow-queries")).json()
    shown = [(query["process"], query["total_s"]) for query in answer["queries"]]
    assert shown[:3] == [("event_log", 20), ("market_feed", 19), ("event_log", 18)]
    assert len(shown) == 10
    assert answer["queries"][0] == {
        "process": "event_log",
        "store": "clickhouse",
        "query": "q20",
        "calls": 3,
        "failed": 1,
        "slow": 0,
        "total_s": 20,
        "longest_s": 10,
    }
    assert answer["missing"] == {"router": "It does not answer."}


async def test_the_weights_say_how_old_they_are_and_what_their_members_earned(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    refused = await client.get("/ai/ensemble/weights")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    members = ("trend", "strength")
    held = HeldWeights(
        NOON.date() - timedelta(days=1),
        members,
        (0.75, 0.25),
        (0.5, 0.5),
        "",
        {"bull": 1.0},
        "prior",
        "v1.0.0",
    )
    before = replace(held, as_of=None, weights=(0.5, 0.5), abstained="It is new.", regime={})
    earned = [Earned("trend", "bull", 2, 5_000.0), Earned("trend", "bear", 1, -1_000.0)]
    face.ensemble.state = EnsembleState(held, "memory", [held, before], earned, NOON, "Redis is away.")
    answer = (await client.get("/ai/ensemble/weights", params={"history_days": 2})).json()
    assert face.ensemble.asked == [0, 2]
    assert answer["held"] == {
        "as_of": (NOON.date() - timedelta(days=1)).isoformat(),
        "model_version": "v1.0.0",
        "basis": "prior",
        "weights": {"trend": 0.75, "strength": 0.25},
        "routed": {"trend": 0.5, "strength": 0.5},
        "route": "router",
        "abstained": "",
        "regime": {"bull": 1.0},
    }
    assert answer["prior"] == {"trend": 0.5, "strength": 0.5}
    # Since the midnight that ended the day.
    assert answer["age_s"] == 43_200.0
    assert [day["route"] for day in answer["history"]] == ["router", "ensemble"]
    assert answer["accounts"] == {
        "trend": {"net_pnl": 0.004, "days": 3, "by_regime": {"bull": 0.005, "bear": -0.001}}
    }
    assert (answer["weights_from"], answer["problem"]) == ("memory", "Redis is away.")
    assert (await client.get("/ai/ensemble/weights", params={"history_days": -1})).status_code == 422


async def test_a_prediction_tells_its_members(client: httpx.AsyncClient, face: FakeFace) -> None:
    assert (await client.post("/ai/predict", json={"symbol": "BTCUSDT"})).json()["blend"] is None
    weights = {"trend": 0.75, "strength": 0.25}
    blend = Blend(weights, weights, 0.012, weights, "ensemble", "None.", {}, "redis", NOON.date(), 7.0)
    face.answer = replace(face.answer, signal=replace(face.answer.signal, blend=blend))
    told = (await client.post("/ai/predict", json={"symbol": "BTCUSDT"})).json()["blend"]
    assert told == blend.to_json()


async def test_the_schema_shows_an_example_and_the_shape_of_errors(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    assert schema["info"]["version"] == __version__
    assert "source: simulated" in schema["info"]["description"]
    assert schema["components"]["schemas"]["PredictRequest"]["examples"] == [{"symbol": "BTCUSDT"}]
    predict = schema["paths"]["/ai/predict"]["post"]["responses"]
    for status in ("400", "404", "408", "413", "422", "500", "503"):
        shown = predict[status]["content"]["application/json"]["schema"]["$ref"]
        assert shown.endswith("/ErrorResponse")
    assert set(schema["paths"]) == {
        "/ai/predict",
        "/ai/predict/batch",
        "/ai/predict/rl",
        "/ai/signals/stream",
        "/ai/models/list",
        "/ai/models/activate",
        "/ai/models/canary",
        "/ai/models/{version}/card",
        "/ai/ensemble/weights",
        "/features/{symbol}",
        "/events",
        "/ops/slow-queries",
        "/webhook/signal",
        "/livez",
        "/readyz",
        "/healthz",
        "/metrics",
    }
    assert (await client.get("/docs")).status_code == 200


async def test_the_policy_in_shadow_says_what_it_wants_or_why_it_says_nothing(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    async def wanted(**body: str) -> httpx.Response:
        return await client.post("/ai/predict/rl", json=body or {"symbol": "BTCUSDT"})

    error_of(await wanted(), 404, "unknown_version")
    face.policies.answer = RegistryConflict("Policy v1.0.0 was trained on another view.")
    error_of(await wanted(), 409, "registry_conflict")
    face.policies.answer = NotReady("BTCUSDT has no features online.")
    refused = await wanted()
    error_of(refused, 503, "not_ready")
    assert refused.headers["retry-after"] == "1"
    error_of(await wanted(symbol="no such"), 422, "bad_request")
    of_choices = {"short": 0.1, "flat": 0.2, "long": 0.7}
    record = PolicyRecord("BTCUSDT", NOON, None, "v1.0.0", "abc123", 1.0, 2.0, of_choices, {"a": None}, 1e6)
    face.policies.answer = PolicyAnswer(record, 12.5, Freshness.FRESH)
    answer = await wanted()
    assert answer.json() == {
        "symbol": "BTCUSDT",
        "as_of": "2024-05-01T12:00:00Z",
        "position": 1.0,
        "action": 2.0,
        "probabilities": of_choices,
        "account_equity": 1e6,
        "feature_age_s": 12.5,
        "freshness": "FRESH",
        "policy_version": "v1.0.0",
        "view_version": "abc123",
        "source": "simulated",
        "trace_id": answer.headers["x-request-id"],
    }
