"""How every actor of LeviBot is started: by name, once, and for ever."""

from __future__ import annotations

from typing import Any

import ray
from ray.actor import ActorHandle

from actors import NAMESPACE
from levibot.settings import Settings


def start_detached(
    actor: type[Any], name: str, settings: Settings, *arguments: Any, max_task_retries: int = 0
) -> ActorHandle:
    """The cluster's actor of this name, started if it is not there yet.

    It outlives its starter and restarts without limit.
    arguments: what its constructor takes after the settings.
    max_task_retries: how often a call that meets its death is sent again, -1 without limit; only where calls
        are safe to repeat.
    """
    return (
        ray.remote(actor)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=max_task_retries,
            # Actors wait more than they work; what is scarce is left to the jobs that learn.
            num_cpus=0,
        )
        .remote(settings, *arguments)
    )
