"""Events over HTTP: page after page, and what is no answer of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from levibot.errors import NotReady, UsageError
from levibot.serving import client
from levibot.stores.event import Event

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
EVENTS = [
    Event("features_served", "BTCUSDT", NOON - timedelta(seconds=n), {"n": n}, "", f"{n:03}")
    for n in range(5)
]


class Pages(BaseHTTPRequestHandler):
    """Answers as the API does, two events a page; `answer` instead, where it is set."""

    answer: tuple[int, bytes] | None = None

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        first = int(asked.get("after", "0"))
        since = (
            datetime.fromisoformat(asked["since"]) if "since" in asked else datetime.min.replace(tzinfo=UTC)
        )
        found = [e for e in EVENTS if e.event_type == asked["event_type"] and e.ts >= since]
        page = found[first : first + min(2, int(asked["limit"]))]
        more = first + len(page) < len(found)
        body: dict[str, Any] = {
            "events": [{**vars_of(event), "ts": event.ts.isoformat()} for event in page],
            "next_cursor": str(first + len(page)) if more else None,
            "trace_id": "",
        }
        status, data = type(self).answer or (200, json.dumps(body).encode())
        self.send_response(status)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def vars_of(event: Event) -> dict[str, Any]:
    names = ("event_type", "symbol", "payload", "trace_id", "event_id")
    return {name: getattr(event, name) for name in names}


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Pages, "answer", None)
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_events_are_read_page_by_page(base: str) -> None:
    assert client.events(base, "features_served") == EVENTS
    assert client.events(base, "features_served", since=NOON - timedelta(seconds=2)) == EVENTS[:3]
    assert client.events(base, "features_served", limit=3) == EVENTS[:3]
    assert client.events(base, "features_served", limit=1) == EVENTS[:1]
    assert client.events(base, "other") == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"events": [{}], "next_cursor": null}', b'{"events": 3}']
)
def test_what_is_no_list_of_events_is_refused(
    base: str, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(Pages, "answer", (200, body))
    with pytest.raises(NotReady, match="answers, but not with events"):
        client.events(base, "features_served")


def test_an_error_of_the_api_is_ours(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"error": {"code": "usage", "message": "since is not an instant.", "hint": ""}}
    monkeypatch.setattr(Pages, "answer", (400, json.dumps(error).encode()))
    with pytest.raises(UsageError, match="since is not an instant"):
        client.events(base, "features_served")


def test_where_nobody_answers_the_hint_says_how_to_start() -> None:
    with pytest.raises(NotReady, match="levibot up"):
        client.events("http://127.0.0.1:1", "features_served")
