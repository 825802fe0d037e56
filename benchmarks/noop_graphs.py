"""Serve graphs that do nothing, on a cluster that runs: `python -m benchmarks.noop_graphs`.

`/noop` is an ingress alone, `/noop3` an ingress that asks a second deployment, which asks a third: the hops
of a prediction past the cache. Options are those of the graph that is measured beside them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.graph import definition

ONE_HOP, THREE_HOPS = "/noop", "/noop3"
ANSWER = {"is_done": True}


class Last:
    """The third."""

    async def done(self) -> dict[str, bool]:
        return ANSWER


class Middle:
    """The second."""

    def __init__(self, last: DeploymentHandle[Any]) -> None:
        self._last = last

    async def done(self) -> dict[str, bool]:
        answer: dict[str, bool] = await self._last.done.remote()
        return answer


class First:
    """The ingress of three."""

    def __init__(self, middle: DeploymentHandle[Any]) -> None:
        self._middle = middle

    def __serve_build_asgi_app__(self) -> FastAPI:
        return answering(self.ask)

    async def ask(self) -> dict[str, bool]:
        answer: dict[str, bool] = await self._middle.done.remote()
        return answer


class Alone:
    """The ingress that asks nobody."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        return answering(self.ask)

    async def ask(self) -> dict[str, bool]:
        return ANSWER


def answering(ask: Callable[[], Awaitable[dict[str, bool]]]) -> FastAPI:
    """An application whose only route says what is asked."""
    http = FastAPI()
    http.post("/")(ask)
    return http


def main() -> None:
    """Deploy both, and return when they answer."""
    application, _ = definition("development")
    options = {
        one.name: one.model_dump(exclude_unset=True, exclude={"name", "user_config"})
        for one in application.deployments
    }
    ray.init(address="auto", logging_level="WARNING", log_to_driver=False)

    def deployment(target: Any, like: str) -> Any:
        return serve.deployment(name=target.__name__)(target).options(**options[like])

    alone = deployment(serve.ingress()(Alone), "Api").bind()
    serve.run(alone, name="noop", route_prefix=ONE_HOP)
    asked = deployment(Middle, "Router").bind(deployment(Last, "Members").bind())
    first = deployment(serve.ingress()(First), "Api").bind(asked)
    serve.run(first, name="noop3", route_prefix=THREE_HOPS)


if __name__ == "__main__":
    main()
