"""A base model behind Ray Serve: takes feature windows, gives opinions."""

from __future__ import annotations

import asyncio

from deployments.loopback import keep_to_loopback
from levibot.features.views import CORE
from levibot.learning.past import columns_of
from levibot.learning.signal import SignalModel, Signals
from levibot.learning.training import window_bars
from levibot.market.bars import FloatArray
from levibot.serving.fit import check_fits
from levibot.settings import Settings
from levibot.stores.connect import open_registry
from levibot.telemetry.logging import configure_logging

KEPT_VERSIONS = 2
TRAIN = "ray job submit --working-dir . -- python -m tune.train"


class ModelReplica:
    """Holds the versions asked for last, loaded from the registry and checked there."""

    def __init__(self) -> None:
        keep_to_loopback()
        settings = Settings.load()
        configure_logging(settings.log_level, "model")
        self._registry = open_registry(settings)
        self._symbols = settings.symbols
        self._loaded: dict[str, SignalModel] = {}
        self._loading: dict[str, asyncio.Task[SignalModel]] = {}

    async def signals(self, version: str, window: FloatArray) -> Signals:
        """The opinions of one model version on windows (R, S, F) of the view.

        Raises RegistryError on a bad version.
        """
        model = self._loaded.get(version)
        if model is None:
            if version not in self._loading:
                self._loading[version] = asyncio.create_task(self._keep(version))
            # A model from far away may take longer than its first caller waits.
            model = await asyncio.shield(self._loading[version])
        return model.signals(columns_of(window, CORE.names, model.feature_names))

    async def _keep(self, version: str) -> SignalModel:
        try:
            model = await asyncio.to_thread(self._load, version)
        finally:
            del self._loading[version]
        self._loaded = dict([*self._loaded.items(), (version, model)][-KEPT_VERSIONS:])
        return model

    def _load(self, version: str) -> SignalModel:
        stored = self._registry.load(version)
        check_fits(
            version,
            stored.metadata,
            view_version=CORE.version,
            symbols=self._symbols,
            online_bars=window_bars(),
            hint=f"Train one for it: {TRAIN}",
        )
        return SignalModel.from_files(stored.metadata, stored.files)
