"""The routes of signals: one, many at once, and those to come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from deployments.errors import trace_id_of
from deployments.schemas import BlendEntry, ErrorBody, ErrorResponse
from deployments.signal_schemas import (
    BatchEntry,
    BatchRequest,
    BatchResponse,
    PredictRequest,
    PredictResponse,
    SignalEntry,
    Trust,
)
from levibot.errors import LeviBotError
from levibot.serving.answer import Answer
from levibot.serving.signal_feed import Gap, SignalFeed
from levibot.stores.online import Signal
from levibot.stores.signal_stream import check_id

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 408, 413, 422, 500, 503)
}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorResponse}}
JSON_ERROR = {
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
    "description": "",
}
# Serve ends every request after 30 s, in the middle of a line; and a stream must not hold a replica that is
# being replaced. How long a client waits before it comes again.
LASTS_S, COME_AGAIN_MS = 25.0, 250
PREDICT = "/ai/predict"


class SignalsFace(Protocol):
    """What the routes need to know of signals."""

    @property
    def feed(self) -> SignalFeed:
        """The signals to come."""
        ...

    def held(self, symbol: str, key_id: str) -> Answer | None:
        """The fresh signal of a symbol that is in memory, None where it must be looked for."""
        ...

    async def predict(self, symbol: str, version: str | None = None, key_id: str = "") -> Answer:
        """The newest usable signal of the arm that a key is in, or that of one version.

        Raises UnknownSymbol, NotReady, RegistryError.
        """
        ...

    async def predict_many(
        self, symbols: Sequence[str], key_id: str = ""
    ) -> dict[str, Answer | LeviBotError]:
        """The newest usable signal of each symbol, or what `predict` would raise."""
        ...


def add_signal_routes(http: FastAPI, face: SignalsFace) -> None:
    """`/ai/predict`, `/ai/predict/batch` and `/ai/signals/stream` over `face`."""

    @http.post(PREDICT, responses=ERRORS | CONFLICT, summary="The signal of a symbol")
    async def predict(body: PredictRequest, request: Request) -> PredictResponse:
        """The newest signal: probability up, target position, and how old and how fresh it is. While a canary
        is served, a share of the API keys is answered with its signal, each key by one arm. With a
        `model_version` what that one says of the same bar: 404 where there is none, 409 where it does not fit
        this run, 503 while it is being loaded.
        """
        answer = await face.predict(body.symbol, body.model_version, key_id_of(request))
        return response(answer, trace_id_of(request))

    @http.post("/ai/predict/batch", responses=ERRORS, summary="The signals of many symbols")
    async def batch(body: BatchRequest, request: Request) -> BatchResponse:
        """As `/ai/predict` of each symbol, from one read of the cache. What fails of one, fails of that one
        alone: the status is 200, and its entry has the error.
        """
        trace_id = trace_id_of(request)
        found = await face.predict_many(body.symbols, key_id_of(request))
        answers = [_entry(s, a, trace_id) for s, a in found.items()]
        n_failed = sum(answer.error is not None for answer in answers)
        return BatchResponse(answers=answers, n_failed=n_failed, trace_id=trace_id)

    async def place(
        request: Request,
        last_event_id: Annotated[
            str | None, Header(description="id of the last signal that came; EventSource sends it")
        ] = None,
    ) -> AsyncIterator[None]:
        # Before the answer begins, so that a refusal has its status.
        request.state.after = check_id(last_event_id) if last_event_id else None
        with face.feed.place(key_id_of(request)):
            yield

    @http.get(
        "/ai/signals/stream",
        # The errors are JSON, and not of the response's own class.
        responses={422: JSON_ERROR},
        response_class=EventSourceResponse,
        dependencies=[Depends(place)],
        summary="Signals as they come",
    )
    async def stream(request: Request) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events: `signal` for each new one of the version that serves, never of a canary, in the
        order they were made. With the header
        `Last-Event-ID` the stream goes on after that one; what is no longer kept is told by an event `gap`.
        It ends every 25 s, for the client to come again with the id of the last signal, as EventSource does
        by itself. A signal may come twice where its router was replaced: symbol, as_of and version tell.
        """
        yield ServerSentEvent(comment="signals", retry=COME_AGAIN_MS)
        async for told in face.feed.follow(request.state.after, LASTS_S):
            if isinstance(told, Gap):
                yield ServerSentEvent(event="gap", data={"reason": told.reason})
            else:
                entry = SignalEntry(**_fields(told.signal))
                yield ServerSentEvent(event="signal", id=told.id, raw_data=entry.model_dump_json())


def key_id_of(request: Request) -> str:
    """Of the key that the request was let in with; empty where keys are switched off."""
    key_id: str = getattr(request.state, "key_id", "")
    return key_id


def _fields(signal: Signal) -> dict[str, Any]:
    return {
        "symbol": signal.symbol,
        "as_of": signal.as_of,
        "probability_up": signal.probability_up,
        "expected_return": signal.expected_return,
        "target_position": signal.target_position,
        "model_version": signal.model_version,
        "view_version": signal.view_version,
        "source": signal.source,
        "blend": None if signal.blend is None else BlendEntry.model_validate(signal.blend),
    }


def response(answer: Answer, trace_id: str) -> PredictResponse:
    """What is answered for one symbol."""
    return PredictResponse(**_fields(answer.signal), **_trust(answer, trace_id))


class ResponseTexts:
    """`response` as it leaves. State: how each signal reads that was told last, by symbol and arm."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str | None], tuple[Signal, str]] = {}

    def text(self, answer: Answer, trace_id: str) -> bytes:
        """The bytes of `response`; of a signal that was told before only its trust is written anew."""
        signal, place = answer.signal, (answer.signal.symbol, answer.arm)
        told, text = self._told.get(place, (None, ""))
        if told is not signal:
            text = SignalEntry(**_fields(signal)).model_dump_json()
            self._told[place] = signal, text
        trust = Trust(**_trust(answer, trace_id)).model_dump_json()
        return f"{text[:-1]},{trust[1:]}".encode()


def _trust(answer: Answer, trace_id: str) -> dict[str, Any]:
    return {
        "feature_age_s": answer.feature_age_s,
        "freshness": answer.freshness,
        "served_from": answer.served_from,
        "problem": answer.problem,
        "arm": answer.arm,
        "trace_id": trace_id,
    }


def _entry(symbol: str, answer: Answer | LeviBotError, trace_id: str) -> BatchEntry:
    if isinstance(answer, Answer):
        return BatchEntry(symbol=symbol, signal=response(answer, trace_id), error=None)
    error = ErrorBody(code=answer.code, message=answer.message, hint=answer.hint, trace_id=trace_id)
    return BatchEntry(symbol=symbol, signal=None, error=error)
