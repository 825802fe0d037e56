"""What versions say that do not serve, for those who ask for one by its name. It is never the signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial

from levibot.errors import NotReady
from levibot.serving.desk import Served, SignalDesk
from levibot.serving.member_panel import MemberPanel
from levibot.stores.signals import Signal

# So long a caller waits for a version to be loaded, before it hears that it is.
LOADING_S = 1.5


class OtherVersions:
    """Asks the panel, once for each version and bar, however many wait for it.

    State: the versions that were loaded last, and those that are being asked. One is loaded at a time: a
    caller who goes through all versions does not take the processors from the one that serves.
    check: raises UnknownVersion and RegistryConflict on a version that cannot be asked; it blocks.
    desk: of its own; as many answers as it remembers, so many versions stay ready.
    """

    def __init__(
        self, panel: MemberPanel, desk: SignalDesk, check: Callable[[str], None], source: str
    ) -> None:
        self._panel = panel
        self._desk = desk
        self._check = check
        self._source = source
        self._ready: list[str] = []
        self._loading: str | None = None
        self._asking: dict[str, asyncio.Task[dict[str, Signal]]] = {}

    async def signals(self, version: str, serving: str | None) -> dict[str, Signal]:
        """Its signals at the newest bar. serving: the version that stays loaded whatever is loaded beside it.

        Raises UnknownVersion, RegistryConflict on one that does not fit this run, RegistryError on a bad one,
        NotReady while it is being loaded or has no features, StoreUnavailable where a store is away.
        """
        asking = self._asking.get(version)
        if asking is None:
            # In a context of its own: whose deadline the first caller has is not the others'.
            asking = asyncio.create_task(self._ask(version, serving), context=Context())
            self._asking[version] = asking
            asking.add_done_callback(partial(self._asked, version))
        await asyncio.wait({asking}, timeout=LOADING_S)
        if not asking.done():
            raise NotReady(
                f"Version {version} is being loaded by its members.", hint="Ask again in a moment."
            )
        return asking.result()

    async def close(self) -> None:
        """End what is being asked."""
        asking = [*self._asking.values()]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, version: str, serving: str | None) -> dict[str, Signal]:
        if version not in self._ready:
            await self._load(version, serving)
        signals = await self._desk.look(partial(self._panel.signals, version), Served(version, self._source))
        return {signal.symbol: signal for signal in signals}

    async def _load(self, version: str, serving: str | None) -> None:
        await asyncio.to_thread(self._check, version)
        if self._loading is not None:
            raise NotReady(
                f"Version {version} waits until {self._loading} is loaded.", hint="Ask again in a moment."
            )
        self._loading = version
        try:
            # Asked for last, it is the last one that a replica lets go.
            if serving is not None:
                await self._panel.load(serving)
            await self._panel.load(version)
        finally:
            self._loading = None
        self._ready = [*self._ready, version][-self._desk.n_models :]

    def _asked(self, version: str, asking: asyncio.Task[dict[str, Signal]]) -> None:
        del self._asking[version]
        if not asking.cancelled():
            # Its callers may be gone; then nobody else looks at what was raised.
            asking.exception()
