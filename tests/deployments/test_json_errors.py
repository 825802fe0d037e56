"""The middleware of the proxy, over small applications that answer as Ray Serve's proxy does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import JsonErrors, error_response, proxy_middlewares
from deployments.schemas import ErrorResponse

Header = tuple[bytes, bytes]
TEXT: Sequence[Header] = ((b"content-type", b"text/plain"), (b"content-length", b"5"))


def plays(status: int, headers: Sequence[Header], *bodies: bytes) -> ASGIApp:
    """An application that answers in as many parts as there are bodies."""

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for number, body in enumerate(bodies):
            more = number < len(bodies) - 1
            await send({"type": "http.response.body", "body": body, "more_body": more})

    return app


async def ask(app: ASGIApp, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(JsonErrors(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        return await client.get("/ai/predict", headers=headers)


@pytest.mark.parametrize("bodies", [(b"Internal Server Error",), (b"", b""), (b"part ", b"of ", b"", b"it")])
@pytest.mark.parametrize(
    ("status", "expected", "code", "retry_after"),
    [
        (500, 503, "unavailable", "1"),
        (502, 503, "unavailable", "1"),
        (503, 503, "unavailable", "1"),
        (504, 503, "unavailable", "1"),
        (408, 408, "timeout", "1"),
        (404, 404, "not_found", None),
        (400, 400, "bad_request", None),
        (413, 413, "too_large", None),
        (431, 431, "http_error", None),
    ],
)
async def test_plain_text_becomes_the_one_shape(
    bodies: tuple[bytes, ...], status: int, expected: int, code: str, retry_after: str | None
) -> None:
    answer = await ask(plays(status, TEXT, *bodies))
    assert answer.status_code == expected
    error = ErrorResponse(**answer.json()).error
    assert error.code == code
    assert error.trace_id == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers.get("retry-after") == retry_after
    assert "part of" not in answer.text


async def test_the_callers_request_id_is_kept() -> None:
    answer = await ask(plays(500, TEXT, b"died"), **{"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == answer.json()["error"]["trace_id"] == "mine"


async def test_an_overload_is_called_so_and_says_when_to_come_again() -> None:
    answer = await ask(plays(503, TEXT, b"Request dropped ", b"due to backpressure"))
    assert ErrorResponse(**answer.json()).error.code == "overloaded"
    assert answer.headers["retry-after"] == "1"


async def test_the_request_id_is_told_once() -> None:
    told = ((b"content-type", b"application/json"), (b"x-request-id", b"mine"), (b"X-Request-ID", b"mine"))
    answer = await ask(plays(200, told, b"{}"))
    assert answer.headers.get_list("x-request-id") == ["mine"]


async def test_an_error_without_any_headers_is_reshaped() -> None:
    assert ErrorResponse(**(await ask(plays(500, (), b""))).json()).error.code == "unavailable"


@pytest.mark.parametrize("content_type", ["application/json", "application/problem+json; charset=utf-8"])
async def test_an_error_in_json_passes_untouched(content_type: str) -> None:
    headers = ((b"content-type", content_type.encode()), (b"x-own", b"kept"))
    answer = await ask(plays(503, headers, b'{"ready":', b" false}"))
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
    assert (answer.headers["content-type"], answer.headers["x-own"]) == (content_type, "kept")


async def test_our_own_error_is_not_wrapped_twice() -> None:
    answer = await ask(error_response(503, "not_ready", "No model.", "Train one.", "mine"))
    assert answer.json()["error"] == {
        "code": "not_ready",
        "message": "No model.",
        "hint": "Train one.",
        "trace_id": "mine",
    }


async def ticks() -> AsyncIterator[bytes]:
    for number in range(3):
        yield f"data: {number}\n\n".encode()


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("levibot_build_info 1.0"),
        Response(status_code=204),
        Response(status_code=304),
        Response(status_code=307, headers={"location": "/docs"}),
        JSONResponse([1]),
        StreamingResponse(ticks(), media_type="text/event-stream"),
    ],
)
async def test_what_is_no_error_passes_untouched(response: Response) -> None:
    answer = await ask(response)
    assert answer.status_code == response.status_code
    assert dict(answer.headers) == dict(response.headers)
    if isinstance(response, StreamingResponse):
        assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    else:
        assert answer.content == response.body


async def test_a_stream_is_passed_on_part_by_part() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    app = JsonErrors(plays(200, TEXT, b"a", b"b", b"c"))
    await app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert [message.get("body") for message in sent] == [None, b"a", b"b", b"c"]
    assert [message.get("more_body") for message in sent[1:]] == [True, True, False]


async def test_a_request_reaches_the_application_as_it_came() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        await Response(body[::-1])(scope, receive, send)

    transport = httpx.ASGITransport(JsonErrors(echo))
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        assert (await client.post("/", content=b"abc")).content == b"cba"


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_what_is_not_http_passes_by(kind: str) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        await send({"type": f"{kind}.answer"})

    async def receive() -> Message:
        return {"type": "nothing"}

    async def send(message: Message) -> None:
        seen.append(message["type"])

    await JsonErrors(app)({"type": kind}, receive, send)
    assert seen == [kind, f"{kind}.answer"]


def test_the_proxy_is_told_of_it() -> None:
    (middleware,) = proxy_middlewares()
    assert middleware.cls is JsonErrors


async def test_a_replica_that_dies_before_it_answers_is_an_error_in_the_one_shape() -> None:
    """Serve sends nothing at all then, and its server would answer in plain text."""

    async def silent(_: Scope, __: Receive, ___: Send) -> None:
        return

    answer = await ask(silent)
    assert answer.status_code == 503
    assert ErrorResponse(**answer.json()).error.code == "unavailable"
    assert answer.headers["retry-after"] == "1"


async def test_a_replica_that_dies_between_head_and_body_is_an_error_in_the_one_shape() -> None:
    json_head = ((b"content-type", b"application/json"), (b"content-length", b"500"))

    answer = await ask(plays(200, json_head))

    assert answer.status_code == 503
    assert ErrorResponse(**answer.json()).error.code == "unavailable"
