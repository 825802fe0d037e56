"""Models behind Ray Serve: a replica takes feature windows and says what its kinds of members say of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any

import structlog

from deployments.graph import MembersConfig, reconfigured
from deployments.loopback import keep_to_loopback
from levibot.errors import LeviBotError, StoreUnavailable
from levibot.features.views import CORE
from levibot.learning.blending import LearnedOpinion
from levibot.learning.learned_members import LearnedMembers
from levibot.learning.past import columns_of
from levibot.learning.training import window_bars
from levibot.market.bars import FloatArray
from levibot.serving.fit import check_fits
from levibot.settings import Settings
from levibot.stores.connect import open_registry
from levibot.telemetry.logging import configure_logging

TRAIN = "ray job submit --working-dir . -- python -m tune.train"
# A question waits for a version that is being loaded a little less than its caller waits for the answer.
LOADING_S = 1.5
log = structlog.get_logger()


def check_fits_run(version: str, metadata: Mapping[str, Any], symbols: Sequence[str]) -> None:
    """Raises RegistryConflict on a version that a run of these symbols cannot ask."""
    check_fits(
        version,
        metadata,
        view_version=CORE.version,
        symbols=symbols,
        online_bars=window_bars(),
        hint=f"Train one for it: {TRAIN}",
    )


class MembersReplica:
    """Holds its kinds of members of the versions asked for last, from the registry and checked there."""

    def __init__(self, kinds: Sequence[str]) -> None:
        keep_to_loopback()
        settings = Settings.load()
        configure_logging(settings.log_level, "model")
        self._kinds = tuple(kinds)
        self._registry = open_registry(settings)
        self._symbols = settings.symbols
        self._config: MembersConfig | None = None
        self._loaded: dict[str, LearnedMembers] = {}
        self._loading: dict[str, asyncio.Task[LearnedMembers]] = {}

    def reconfigure(self, user_config: object) -> None:
        """Called by Serve with the `user_config` of the deployment, at first and when it changes."""
        self._config = reconfigured(MembersConfig, user_config, self._config)

    async def load(self, version: str) -> None:
        """Return when it has the version. Raises RegistryError on a bad one, else StoreUnavailable."""
        if version not in self._loaded:
            await asyncio.shield(self._begin(version))
        else:
            self._touch(version)

    async def say(self, version: str, window: FloatArray) -> dict[str, LearnedOpinion] | None:
        """What its kinds say of the newest row of windows (R, S, F) of the view; None while it loads.

        Raises RegistryError on a bad version.
        """
        if version not in self._loaded:
            begun = self._begin(version)
            await asyncio.wait({begun}, timeout=LOADING_S)
            if not begun.done():
                return None
            try:
                members = begun.result()
            except StoreUnavailable:
                return None
        else:
            members = self._touch(version)
        return members.say_newest(columns_of(window, CORE.names, members.blending.feature_names))

    def _touch(self, version: str) -> LearnedMembers:
        """What is loaded; the one asked for last is let go last."""
        members = self._loaded[version] = self._loaded.pop(version)
        return members

    def _begin(self, version: str) -> asyncio.Task[LearnedMembers]:
        """The loading of a version: one, however many ask for it, and it ends with none of them."""
        if version not in self._loading:
            # In a context of its own: whose deadline the first caller has is not the others'.
            self._loading[version] = asyncio.create_task(self._keep(version), context=Context())
        return self._loading[version]

    async def _keep(self, version: str) -> LearnedMembers:
        try:
            members = await asyncio.to_thread(self._load, version)
        except LeviBotError as exc:
            log.warning("a version was not loaded", version=version, kinds=self._kinds, reason=str(exc))
            raise
        finally:
            del self._loading[version]
        kept = (self._config or MembersConfig()).kept_versions
        self._loaded = dict([*self._loaded.items(), (version, members)][-kept:])
        return members

    def _load(self, version: str) -> LearnedMembers:
        stored = self._registry.load(version)
        check_fits_run(version, stored.metadata, self._symbols)
        return LearnedMembers.from_files(stored.metadata, stored.files, self._kinds)
