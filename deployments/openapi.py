"""Completes the OpenAPI of the face: which key a route takes, and the errors that it may answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from deployments.errors import error_body
from deployments.gate import role_for
from deployments.openapi_examples import ANSWERS, TRACE
from levibot.access.api_key import Role

SCHEME = "api_key"
ERROR = "#/components/schemas/ErrorResponse"
# Of each status the error that is met most often: code, message, hint.
EXAMPLES: dict[str, tuple[str, str, str]] = {
    "400": (
        "usage",
        "since is 2024-05-01T12:00:00, without a time zone.",
        "Write it as 2024-05-01T12:00:00Z.",
    ),
    "401": ("key_refused", "The request carries no API key.", "Send `Authorization: Bearer KEY`."),
    "403": (
        "role_refused",
        "The key 1f0a3c5e7b9d is a reader's, and this takes an operator's.",
        "Ask an operator.",
    ),
    "404": ("unknown_symbol", "DOGEUSDT is not served.", "Served are: BTCUSDT, ETHUSDT."),
    "405": ("method_not_allowed", "Method Not Allowed.", "See /docs."),
    "408": ("timeout", "The request took too long.", "Try again."),
    "409": (
        "registry_conflict",
        "v1.2.3 does not fit this run.",
        "Read the list again, and choose from what it says now.",
    ),
    "413": ("too_large", "The body is longer than 65536 bytes.", "See /docs."),
    "422": ("bad_request", "body.symbol: Field required.", "See /docs for the schema."),
    "429": (
        "rate_limited",
        "The key 1f0a3c5e7b9d asks more often than its limit allows.",
        "Try again in 1 s.",
    ),
    "500": ("internal", "The request failed inside LeviBot.", "Try again; the log has the cause."),
    "503": ("not_ready", "BTCUSDT has no signal yet.", "See /readyz."),
}
# What may meet a request of any route, and one of a guarded route.
ALWAYS = ("400", "408", "413", "500", "503")
GUARDED = ("401", "429")
RETRIED = ("408", "429", "503")
DESCRIPTIONS = {
    "400": "What is asked for cannot be",
    "401": "No API key or signature, or one that is not valid",
    "403": "This takes another role",
    "404": "It is not there",
    "408": "It took too long",
    "409": "The state is another one than the caller takes it for",
    "413": "The body is too long",
    "422": "The request breaks the schema",
    "429": "More often than the limit allows",
    "500": "A fault of ours; the log has it under the trace id",
    "503": "Not now: something is not ready, away or overloaded",
}


def describe(http: FastAPI) -> FastAPI:
    """The same application, whose OpenAPI is complete. Made once, when it is first asked for."""
    plain = http.openapi

    def complete() -> dict[str, Any]:
        if http.openapi_schema is None:
            http.openapi_schema = completed(plain())
        return http.openapi_schema

    http.openapi = complete  # type: ignore[method-assign] # FastAPI's documented way to extend it
    return http


def completed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with keys, errors and examples; the given one is changed."""
    schema.setdefault("components", {})["securitySchemes"] = {
        SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of `python -m levibot keys create`.",
        }
    }
    for name, example in ANSWERS.items():
        schema["components"]["schemas"][name]["examples"] = [example]
    for path, methods in schema["paths"].items():
        role = role_for(path)
        for operation in methods.values():
            operation["security"] = [] if role is None else [{SCHEME: []}]
            if role is not None:
                operation["description"] = (
                    f"{operation.get('description', '')}\n\nTakes a key of: {role}.".strip()
                )
            _complete_errors(operation["responses"], role)
    return schema


def _complete_errors(responses: dict[str, Any], role: Role | None) -> None:
    wanted = (*ALWAYS, *(GUARDED if role else ()), *(("403",) if role is Role.OPERATOR else ()))
    for status in wanted:
        # What a route has said of a status itself stays: /readyz answers 503 in its own shape.
        responses.setdefault(status, {"content": {"application/json": {"schema": {"$ref": ERROR}}}})
    for status, response in responses.items():
        content = response.get("content", {}).get("application/json")
        if status[0] not in "45" or not content or content.get("schema", {}).get("$ref") != ERROR:
            continue
        response["description"] = DESCRIPTIONS[status]
        content["example"] = error_body(*EXAMPLES[status], TRACE)
        headers = {"x-request-id": {"schema": {"type": "string"}, "description": "as trace_id"}}
        if status in RETRIED:
            headers["retry-after"] = {"schema": {"type": "string"}, "description": "seconds"}
        response["headers"] = headers
    for status in responses:
        responses[status].setdefault("description", DESCRIPTIONS.get(status, ""))
