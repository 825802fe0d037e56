"""Asks a running system over HTTP and puts what it says into our terms."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from levibot.errors import (
    KeyRefused,
    LeviBotError,
    NotReady,
    RateLimited,
    RoleRefused,
    UnknownSymbol,
    UsageError,
)
from levibot.stores.event import Event

# UnicodeError: a host name that cannot be one.
NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)
TIMEOUT_S = 30.0
# Events a page: what the API gives at most.
PAGE = 1000
SIGNAL_FIELDS = {"symbol", "as_of", "probability_up", "target_position", "freshness", "source"}
# What an error of the API means for the caller; any other says that there is no answer now.
KIND_OF_CODE: dict[str, type[LeviBotError]] = {
    **{kind.code: kind for kind in (UnknownSymbol, UsageError, KeyRefused, RoleRefused, RateLimited)},
    "bad_request": UsageError,
}


def headers_with(key: str | None) -> dict[str, str]:
    """What a request carries that asks with this API key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def predict(base: str, symbol: str, key: str | None = None) -> dict[str, Any]:
    """The signal of a symbol from the API at `base`, asked with an API key.

    Raises UnknownSymbol, UsageError, KeyRefused, RateLimited or NotReady.
    """
    try:
        answer = httpx.post(
            f"{base}/ai/predict", json={"symbol": symbol}, headers=headers_with(key), timeout=TIMEOUT_S
        )
    except NO_ANSWER as exc:
        raise _no_answer(base, exc) from exc
    body = _object(answer)
    if answer.status_code != 200:
        raise _error_of(body, base)
    if not body.keys() >= SIGNAL_FIELDS:
        raise NotReady(f"{base} answers, but not with a signal.", hint="Is it LeviBot that runs there?")
    return body


def events(
    base: str,
    event_type: str,
    *,
    since: datetime | None = None,
    limit: int | None = None,
    key: str | None = None,
) -> list[Event]:
    """Events of one type, newest first: all since then, or the newest `limit`. Raises as `predict` does."""
    found: list[Event] = []
    asked: dict[str, Any] = {"event_type": event_type, "limit": min(limit or PAGE, PAGE)}
    if since is not None:
        asked["since"] = since.isoformat()
    while True:
        try:
            answer = httpx.get(f"{base}/events", params=asked, headers=headers_with(key), timeout=TIMEOUT_S)
        except NO_ANSWER as exc:
            raise _no_answer(base, exc) from exc
        body = _object(answer)
        if answer.status_code != 200:
            raise _error_of(body, base)
        try:
            found += [_event(entry) for entry in body["events"]]
            cursor = body["next_cursor"]
        except (KeyError, TypeError, ValueError) as exc:
            hint = "Is it LeviBot that runs there?"
            raise NotReady(f"{base} answers, but not with events.", hint=hint) from exc
        if cursor is None or (limit is not None and len(found) >= limit):
            return found[:limit]
        asked["after"] = cursor


def _event(entry: dict[str, Any]) -> Event:
    fields = {name: entry[name] for name in ("event_type", "symbol", "payload", "trace_id", "event_id")}
    return Event(ts=datetime.fromisoformat(entry["ts"]), **fields)


def readiness(base: str) -> dict[str, Any]:
    """What `/readyz` says; not ready, with the reason, when it says nothing of the kind."""
    try:
        body = _object(httpx.get(f"{base}/readyz", timeout=TIMEOUT_S))
    except NO_ANSWER as exc:
        return {"ready": False, "reasons": [f"{base} does not answer: {exc}"]}
    if isinstance(body.get("ready"), bool):
        return body
    return {"ready": False, "reasons": [_error_of(body, base).message]}


def _no_answer(base: str, exc: Exception) -> NotReady:
    reason = str(exc).rstrip(".")
    return NotReady(f"{base} does not answer: {reason}.", hint="Start it with `python -m levibot up`.")


def _object(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object that an API answered, empty when it is something else."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error_of(body: dict[str, Any], base: str) -> LeviBotError:
    """The error that an API answered, in our tree."""
    error = body.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return NotReady(f"{base} refuses, but not as LeviBot does.", hint="Is it LeviBot that runs there?")
    kind = KIND_OF_CODE.get(str(error.get("code")), NotReady)
    return kind(error["message"], hint=str(error.get("hint", "")))
