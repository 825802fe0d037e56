"""The Serve application: Api, Router, members, policy. `serve deploy ops/serve/development.yaml`.

How many replicas there are and how long their queues is said in those files, and nowhere here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import ServeApplicationSchema

from deployments.api import Api
from deployments.graph import GraphArgs
from deployments.model import MembersReplica
from deployments.rl_policy import RlPolicy
from deployments.router import Router


def build_app(args: dict[str, Any]) -> Application:
    """What `serve deploy` calls, and then sets the options of each deployment from its file."""
    return _graph(GraphArgs.model_validate(args), {})


def as_defined(application: ServeApplicationSchema) -> Application:
    """The graph of a definition, as `serve deploy` builds it."""
    options = {
        one.name: one.model_dump(exclude_unset=True, exclude={"name"}) for one in application.deployments
    }
    return _graph(GraphArgs.model_validate(application.args), options)


def _graph(args: GraphArgs, options: Mapping[str, Mapping[str, Any]]) -> Application:
    """Bound and not yet running; options by deployment. Replicas read their node's settings."""

    def deployment(name: str, target: Any) -> Any:
        return serve.deployment(name=name)(target).options(**options.get(name, {}))

    members = {kinds: deployment(name, MembersReplica).bind(kinds) for name, kinds in args.holders().items()}
    router = deployment("Router", Router).bind(members)
    policy = deployment("RlPolicy", RlPolicy).bind()
    return deployment("Api", serve.ingress()(Api)).bind(router, policy)
