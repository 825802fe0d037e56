"""Start the actors and deploy the application on the running cluster: `python -m deployments.start`."""

from __future__ import annotations

import ray
from ray import serve

from actors import (
    NAMESPACE,
    dead_letter_replayer,
    ensemble_weights,
    event_log,
    feature_history,
    feature_monitor,
    market_feed,
    online_features,
    outside_data,
    shadow_ledger,
    shadow_models,
    webhook_intake,
)
from deployments.app import as_defined
from deployments.graph import definition
from levibot.settings import Settings
from levibot.telemetry.logging import configure_logging


def main() -> None:
    """What runs already is left alone; the application is replaced by this one, replica by replica."""
    settings = Settings.load()
    configure_logging(settings.log_level, "deploy")
    # The cluster that RAY_ADDRESS names, never one that happens to be on the host.
    ray.init(address="auto", namespace=NAMESPACE, logging_level="WARNING", log_to_driver=False)
    # The log first: the others tell it what they do. They come up by themselves, and nobody waits for them.
    detached = (
        event_log,
        dead_letter_replayer,
        online_features,
        feature_history,
        market_feed,
        feature_monitor,
        outside_data,
        shadow_ledger,
        ensemble_weights,
        webhook_intake,
        *((shadow_models,) if settings.shadow_versions else ()),
    )
    application, http_options = definition(settings.graph)
    # Where it listens is a setting of the run.
    http_options |= {"host": settings.http_host, "port": settings.http_port}
    # First, for Serve kills a front that is not up in time, as it may be beside all the actors that start.
    serve.start(http_options=http_options)
    for actor in detached:
        actor.start(settings)
    # Under the definition's name, so that `serve deploy` of it replaces this one and does not clash.
    serve.run(as_defined(application), name=application.name, route_prefix=application.route_prefix)


if __name__ == "__main__":
    main()
