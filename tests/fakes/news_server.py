"""A stand-in for OpenAI: chat completions with an answer in a JSON schema, in its wire shape."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.loopback_server import Asked, LoopbackServer

KEY = "sk-news-key-that-nobody-may-see"
PROMPT_TOKENS, ANSWER_TOKENS = 220, 45


class FakeOpenAI(LoopbackServer):
    """Rates each headline, or answers `content` where it is set. refusal, finish_reason: of the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.content: str | None = None
        self.refusal: str | None = None
        self.finish_reason = "stop"
        self.usage: dict[str, Any] = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": ANSWER_TOKENS,
            "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "rejected_prediction_tokens": 0},
        }

    async def respond(self, asked: Asked) -> tuple[int, str]:
        if asked.path != "/chat/completions" or asked.method != "POST":
            return 404, json.dumps(
                {"error": {"message": "Unknown request URL", "type": "invalid_request_error"}}
            )
        if asked.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, json.dumps(
                {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}
            )
        body = json.loads(asked.body)
        problem = _problem(body)
        if problem:
            return 400, json.dumps({"error": {"message": problem, "type": "invalid_request_error"}})
        headlines = json.loads(body["messages"][1]["content"])
        return 200, json.dumps(
            {
                "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
                "object": "chat.completion",
                "created": 1741569952,
                "model": body["model"] + "-2024-07-18",
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "role": "assistant",
                            "content": None if self.refusal else self.content or ratings(len(headlines)),
                            "refusal": self.refusal,
                            "annotations": [],
                        },
                        "logprobs": None,
                        "finish_reason": self.finish_reason,
                    }
                ],
                "usage": self.usage,
                "service_tier": "default",
                "system_fingerprint": "fp_06737a9306",
            }
        )


def ratings(n: int, **changes: Any) -> str:
    """What the model says of `n` headlines. changes: fields of the first one."""
    rows = [{"index": i, "score": 0.5, "relevance": 1, "symbols": ["BTCUSDT"]} for i in range(n)]
    rows[0].update(changes)
    return json.dumps({"ratings": rows})


def _problem(body: dict[str, Any]) -> str:
    """What OpenAI would refuse: a strict schema must close each object and require each property."""
    form = body["response_format"]
    if form["type"] != "json_schema" or form["json_schema"]["strict"] is not True:
        return "response_format is not a strict schema"
    return _loose(form["json_schema"]["schema"])


def _loose(schema: dict[str, Any]) -> str:
    if schema["type"] == "array":
        return _loose(schema["items"])
    if schema["type"] != "object":
        return ""
    if schema.get("additionalProperties") is not False or set(schema["required"]) != set(
        schema["properties"]
    ):
        return "Invalid schema for response_format"
    return "".join(_loose(part) for part in schema["properties"].values())
