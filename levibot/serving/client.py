"""Asks a running system over HTTP and puts what it says into our terms."""

from __future__ import annotations

from typing import Any

import httpx

from levibot.errors import LeviBotError, NotReady, UnknownSymbol, UsageError

# UnicodeError: a host name that cannot be one.
NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)
TIMEOUT_S = 30.0
SIGNAL_FIELDS = {"symbol", "as_of", "probability_up", "target_position", "freshness", "source"}
# What an error of the API means for the caller; any other says that there is no answer now.
KIND_OF_CODE = {kind.code: kind for kind in (UnknownSymbol, UsageError)} | {"bad_request": UsageError}


def predict(base: str, symbol: str) -> dict[str, Any]:
    """The signal of a symbol from the API at `base`. Raises UnknownSymbol, UsageError or NotReady."""
    try:
        answer = httpx.post(f"{base}/ai/predict", json={"symbol": symbol}, timeout=TIMEOUT_S)
    except NO_ANSWER as exc:
        reason = str(exc).rstrip(".")
        hint = "Start it with `python -m levibot up`."
        raise NotReady(f"{base} does not answer: {reason}.", hint=hint) from exc
    body = _object(answer)
    if answer.status_code != 200:
        raise _error_of(body, base)
    if not body.keys() >= SIGNAL_FIELDS:
        raise NotReady(f"{base} answers, but not with a signal.", hint="Is it LeviBot that runs there?")
    return body


def readiness(base: str) -> dict[str, Any]:
    """What `/readyz` says; not ready, with the reason, when it says nothing of the kind."""
    try:
        body = _object(httpx.get(f"{base}/readyz", timeout=TIMEOUT_S))
    except NO_ANSWER as exc:
        return {"ready": False, "reasons": [f"{base} does not answer: {exc}"]}
    if isinstance(body.get("ready"), bool):
        return body
    return {"ready": False, "reasons": [_error_of(body, base).message]}


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
