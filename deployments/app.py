"""The Serve application: Api, Router, base model, the policy in shadow. `serve run deployments.app:app`."""

from __future__ import annotations

from ray import serve
from ray.serve import Application

from deployments.api import Api
from deployments.model import ModelReplica
from deployments.rl_policy import RlPolicy
from deployments.router import Router

# A dead replica is found within a second and its successor needs a few: service is back well before 15 s.
HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 10.0, "graceful_shutdown_timeout_s": 5.0}
# A laptop is a cluster of one node: replicas share its cores instead of claiming them.
SHARED_CPU = {"num_cpus": 0.1}


def build_app() -> Application:
    """The graph, bound and not yet running. Each replica reads the settings of the node it runs on."""
    model = serve.deployment(
        name="LightGBM", max_ongoing_requests=16, ray_actor_options=SHARED_CPU, **HEALTH
    )(ModelReplica).bind()
    router = serve.deployment(name="Router", max_ongoing_requests=64, ray_actor_options=SHARED_CPU, **HEALTH)(
        Router
    ).bind(model)
    face = serve.deployment(
        name="Api", max_ongoing_requests=128, max_queued_requests=512, ray_actor_options=SHARED_CPU, **HEALTH
    )(serve.ingress()(Api))
    policy = serve.deployment(
        name="RlPolicy", max_ongoing_requests=64, ray_actor_options=SHARED_CPU, **HEALTH
    )(RlPolicy).bind()
    return face.bind(router, policy)


app = build_app()
