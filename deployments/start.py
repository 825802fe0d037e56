"""Deploy the application on the running cluster: `python -m deployments.start`."""

from __future__ import annotations

import ray
from ray import serve

from actors import NAMESPACE
from deployments.app import app
from levibot.settings import Settings
from levibot.telemetry.logging import configure_logging


def main() -> None:
    settings = Settings.load()
    configure_logging(settings.log_level, "deploy")
    ray.init(address="auto", namespace=NAMESPACE, logging_level="WARNING")
    serve.start(
        http_options={"host": settings.http_host, "port": settings.http_port, "request_timeout_s": 30.0}
    )
    serve.run(app, name="levibot", route_prefix="/", blocking=False)


if __name__ == "__main__":
    main()
