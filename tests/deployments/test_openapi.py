"""The OpenAPI is complete: keys, errors and examples of every route, and the examples are true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from deployments import canary_schemas, health_schemas, rl_schemas, schemas, signal_schemas, webhook_schemas
from deployments.gate import role_for
from deployments.http import build_http
from deployments.openapi import EXAMPLES
from deployments.schemas import ErrorResponse
from tests.fakes.face import FakeFace

MODULES = (schemas, canary_schemas, health_schemas, rl_schemas, signal_schemas, webhook_schemas)


@pytest.fixture
def schema(tmp_path: Path) -> dict[str, Any]:
    return build_http(FakeFace(tmp_path)).openapi()


def operations(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, one) for path, methods in schema["paths"].items() for one in methods.values()]


def test_every_route_says_what_it_does_and_which_key_it_takes(schema: dict[str, Any]) -> None:
    for path, operation in operations(schema):
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["security"] == ([] if role_for(path) is None else [{"api_key": []}]), path


def test_every_error_of_every_route_has_its_shape_and_an_example(schema: dict[str, Any]) -> None:
    for path, operation in operations(schema):
        responses = operation["responses"]
        wanted = {"408", "413", "500", "503"} | (set() if role_for(path) is None else {"401", "429"})
        assert wanted <= set(responses), path
        for status, response in responses.items():
            if status[0] in "45" and not (path in ("/readyz", "/healthz") and status == "503"):
                content = response["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/ErrorResponse"), (path, status)
                assert ErrorResponse(**content["example"]).error.code == EXAMPLES[status][0]


def test_every_json_answer_and_body_has_an_example_that_fits(schema: dict[str, Any]) -> None:
    named: set[str] = set()
    for _, operation in operations(schema):
        bodies = [r for s, r in operation["responses"].items() if s[0] == "2"]
        bodies += [operation["requestBody"]] if "requestBody" in operation else []
        for body in bodies:
            content = body.get("content", {}).get("application/json")
            if content and content["schema"]:
                named.add(content["schema"]["$ref"].rpartition("/")[2])
    assert len(named) >= 10
    for name in named:
        (model,) = {vars(module)[name] for module in MODULES if name in vars(module)}
        assert issubclass(model, BaseModel)
        (example,) = schema["components"]["schemas"][name]["examples"]
        adapter = TypeAdapter(model)
        adapter.validate_python(example)
        assert set(example) <= set(model.model_fields), name
