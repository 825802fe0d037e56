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
from deployments.app import app
from levibot.settings import Settings
from levibot.telemetry.logging import configure_logging

REQUEST_TIMEOUT_S = 30.0


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
    http_options = {
        "host": settings.http_host,
        "port": settings.http_port,
        "request_timeout_s": REQUEST_TIMEOUT_S,
    }
    # First, for Serve kills a front that is not up in time, as it may be beside all the actors that start.
    serve.start(http_options=http_options)
    for actor in detached:
        actor.start(settings)
    # Under Serve's own default name, so that `serve run deployments.app:app` replaces it and does not clash.
    serve.run(app, route_prefix="/")


if __name__ == "__main__":
    main()
