"""The shadow models' actor without Ray: real Redis, a registry on disk, processes as in a run."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest

from actors.shadow_models import ShadowModels
from levibot.clock import ManualClock
from levibot.features.views import CORE
from levibot.settings import Settings
from levibot.stores.events import Event
from levibot.stores.online import FeatureWindow, OnlineStore

pytestmark = pytest.mark.stores

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class FakeLog:
    """Stands in for the client of the event log."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.came = asyncio.Event()

    def tell(self, events: Sequence[Event]) -> None:
        self.events += events
        self.came.set()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The actor sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_a_version_that_the_registry_does_not_have_is_told_with_the_reason(
    redis_url: str, tmp_path: Path
) -> None:
    symbol = f"S{secrets.token_hex(4).upper()}"
    settings = Settings(
        home=tmp_path,
        redis_url=redis_url,
        postgres_dsn="postgresql://not.used/x",
        symbols=(symbol,),
        shadow_versions=("v9.9.9",),
        replay_start=NOON,
        replay_wall_start=datetime.now(UTC),
        replay_speed=1e-12,
    )
    online = OnlineStore.open(
        redis_url,
        settings.market_id,
        CORE.version,
        CORE.names,
        clock=ManualClock(NOON),
        interval=timedelta(hours=1),
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )
    log = FakeLog()
    models = ShadowModels(settings)
    models._events = log  # type: ignore[assignment]
    try:
        await online.write_features([FeatureWindow(symbol, NOON, CORE.names, np.ones((2, len(CORE.names))))])
        await asyncio.wait_for(log.came.wait(), 90.0)
        (event,) = log.events
        assert event.event_type == "shadow_model_failed"
        assert (event.payload["version"], event.payload["outcome"]) == ("v9.9.9", "refused")
        assert "v9.9.9" in event.payload["reason"]
        status = await models.status()
        assert status["versions"]["v9.9.9"]["outcome"] == "refused"
    finally:
        await models.close()
        await online.close()
    assert [
        p for p in psutil.Process().children(recursive=True) if "shadow_child" in " ".join(p.cmdline())
    ] == []
