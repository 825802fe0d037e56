"""Which version of the registry a run may go on with instead of training a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from levibot.errors import RegistryError
from levibot.stores.registry import Registry

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model must be of. begins_at: the run's first instant; a model must not have seen beyond it."""

    market_id: str
    view_version: str
    symbols: Sequence[str]
    begins_at: datetime

    def is_met_by(self, metadata: Mapping[str, Any]) -> bool:
        asked = (self.market_id, self.view_version, list(self.symbols))
        if tuple(metadata.get(name) for name in ("market_id", "view_version", "symbols")) != asked:
            return False
        try:
            return datetime.fromisoformat(metadata["train_end"]) <= self.begins_at
        except (KeyError, TypeError, ValueError):
            return False


def activate_fitting_model(registry: Registry, wanted: Wanted) -> bool:
    """Whether a whole and fitting version is live, if need be after a switch to the newest such one."""
    fitting = [info.version for info in registry.versions() if wanted.is_met_by(info.metadata)]
    active = _active(registry)
    newest_first = fitting[::-1]
    for version in sorted(newest_first, key=lambda version: version != active):
        try:
            if version == active:
                registry.load(version)
            else:
                registry.activate(version, "the newest version of this market")
        except RegistryError as exc:
            log.error("a model version cannot be used", version=version, reason=str(exc))
        else:
            return True
    return False


def _active(registry: Registry) -> str | None:
    try:
        return registry.active()
    except RegistryError as exc:
        log.error("it is not known which model version is live", reason=str(exc))
        return None
