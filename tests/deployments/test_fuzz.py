"""Whatever is sent to any route of the OpenAPI: no 5xx, and every answer as the OpenAPI says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import just
from schemathesis import Case, CheckFunction, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from deployments.ensemble import EnsembleState
from deployments.http import build_http
from deployments.model_routes import ModelsFace
from deployments.models import Activated, ModelList
from deployments.webhook_schemas import WebhookSignal
from deployments.webhooks import Accepted
from levibot.access.webhook_signature import check_signature, signature_of
from levibot.errors import UnknownVersion
from levibot.stores.live_weights import HeldWeights
from levibot.stores.shadow import Earned
from tests.fakes.face import NOON, FakeFace

SECRET = "a secret of more than 32 characters"
# Of each route. The quick run is for CI, the long one is asked for: 10,000 and more over all routes.
N_QUICK, N_LONG = 6, 800


class SomeModels:
    """A registry with one version."""

    async def list(self) -> ModelList:
        return ModelList((), "v1.0.0", "0" * 64, (), NOON)

    async def card(self, version: str) -> str:
        if version != "v1.0.0":
            raise UnknownVersion(f"There is no version {version}.")
        return "# v1.0.0"

    async def activate(self, version: str, reason: str, instead_of: str | None) -> Activated:
        if version != "v1.0.0":
            raise UnknownVersion(f"There is no version {version}.")
        return Activated(version, None, is_changed=True)


class SignedWebhooks:
    """Checks signatures as the real one does, and keeps nothing."""

    async def check(self, timestamp: str, signature: str, body: bytes) -> None:
        check_signature(SECRET, timestamp, signature, body, datetime.now(UTC))

    async def accept(self, signal: WebhookSignal, idempotency_key: str, trace_id: str) -> Accepted:
        return Accepted("0" * 32, is_repeat=False)


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> FakeFace:
    home: Path = tmp_path_factory.mktemp("fuzz")
    face = FakeFace(home)
    # So that both ways of answering are met: the other symbol is not in memory.
    face.in_memory = {"BTCUSDT": face.answer}
    models: ModelsFace = SomeModels()
    face.models = models
    held = HeldWeights(NOON.date(), ("trend",), (1.0,), (1.0,), "", {"bull": 1.0}, "prior", "v1.0.0")
    earned = [Earned("trend", "bull", 2, 5_000.0)]
    face.ensemble.state = EnsembleState(held, "redis", [held], earned, NOON, "")
    face.webhooks = SignedWebhooks()  # type: ignore[assignment]
    return face


def examine(face: FakeFace, n_examples: int) -> int:
    """Send every route requests that fit its description, and such that do not; returns how many."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", build_http(face))
    profile = hypothesis_settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=n_examples == N_QUICK,
    )
    n_sent, found_wrong = 0, []
    # It does not end by itself: tests/deployments/test_signal_routes.py asks it.
    for found in schema.exclude(path="/ai/signals/stream").get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            def send(case: Case, *, is_right: bool) -> None:
                nonlocal n_sent
                n_sent += 1
                case.call_and_validate(
                    headers=headers_for(case, face, is_right=is_right),
                    excluded_checks=beyond_this(case),
                )

            strategy = operation.as_strategy(generation_mode=mode)
            is_right = just(mode is GenerationMode.POSITIVE)
            try:
                profile(given(case=strategy, is_right=is_right)(send))()
            except Unsatisfiable:
                pass  # A route without parameters cannot be asked wrongly.
            except FailureGroup as exc:
                # The routes after it are asked all the same.
                found_wrong.append(exc)
    if found_wrong:
        raise BaseExceptionGroup(f"{len(found_wrong)} of the routes, asked {n_sent} times", found_wrong)
    return n_sent


def beyond_this(case: Case) -> list[CheckFunction]:
    """The checks that would be of the generator and not of the route."""
    checks: list[CheckFunction] = []
    if case.path == "/events":
        # An instant and a cursor are text in the schema; what is none is answered with 400.
        checks.append(positive_data_acceptance)
    if any(not value and not isinstance(value, bool | int | float) for value in case.query.values()):
        # Of a wrong value that is empty, such as a list of nothing, an empty text or nothing is sent.
        checks.append(negative_data_rejection)
    return checks


def headers_for(case: Case, face: FakeFace, *, is_right: bool) -> dict[str, str]:
    """An operator's key; of a webhook that is right the signature of its body."""
    headers = {"Authorization": f"Bearer {face.operator}"}
    if is_right and case.path == "/webhook/signal":
        at = str(int(datetime.now(UTC).timestamp()))
        body = json.dumps(case.body).encode()
        headers |= {"x-levibot-timestamp": at, "x-levibot-signature": signature_of(SECRET, at, body)}
    return headers


def test_no_request_breaks_a_route_or_its_description(face: FakeFace) -> None:
    assert examine(face, N_QUICK) > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_requests_break_no_route(face: FakeFace) -> None:
    assert examine(face, N_LONG) >= 10_000
