"""Start every actor of the cluster: `python -m actors.start`. What runs already is left alone."""

from __future__ import annotations

import ray

from actors import NAMESPACE, event_log, market_feed, online_features
from levibot.settings import Settings
from levibot.telemetry.logging import configure_logging


def start_all(settings: Settings) -> None:
    """Start the actors, the log first. They come up by themselves; nobody waits for them here."""
    for actor in (event_log, online_features, market_feed):
        actor.start(settings)


def main() -> None:
    settings = Settings.load()
    configure_logging(settings.log_level, "actors")
    # Only the cluster that this process is told of, never one that happens to be on the host.
    ray.init(address="auto", namespace=NAMESPACE, logging_level="WARNING")
    start_all(settings)


if __name__ == "__main__":
    main()
