"""What the face says of the weights, on real servers: from now, or from before with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from deployments.ensemble import Ensemble
from levibot.errors import NotReady
from levibot.learning.members import prior_weights
from levibot.learning.weights import WeightState
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.live_weights import HeldWeights
from levibot.stores.ticks import TickStore
from levibot.stores.weight_history import Known

pytestmark = pytest.mark.stores

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MEMBERS = ("trend", "strength")


def known(day: date) -> Known:
    state = WeightState.beginning(MEMBERS, prior_weights(MEMBERS))
    weights = tuple(state.weights.tolist())
    held = HeldWeights(day, MEMBERS, weights, weights, "None.", {"bull": 1.0}, "prior", "v1.0.0")
    return Known(held, state)


@pytest.fixture
async def ensemble(
    tmp_path: Path, postgres_dsn: str, tick_store: TickStore
) -> AsyncIterator[tuple[Ensemble, EmbeddedServers]]:
    """Over a Redis of this test alone, which it may stop."""
    async with tick_store._client.connection("which_database") as (db, _):
        name = await db.fetchval("SELECT current_database()")
    dsn = f"{postgres_dsn.rsplit('/', 1)[0]}/{name}"
    settings = Settings(
        home=tmp_path,
        postgres_dsn=dsn,
        replay_start=NOON,
        replay_wall_start=datetime.now(UTC),
        replay_speed=1e-12,
    )
    servers = EmbeddedServers(settings)
    servers.start()
    face = Ensemble(settings)
    yield face, servers
    await face.close()
    servers.stop()


async def test_without_redis_the_last_weights_are_told_with_the_reason(
    ensemble: tuple[Ensemble, EmbeddedServers], tick_store: TickStore
) -> None:
    face, servers = ensemble
    with pytest.raises(NotReady, match="no weights of this market"):
        await face.weights(0)
    market_id = face._settings.market_id
    days = [known(NOON.date() - timedelta(days=n)) for n in (3, 2, 1)]
    for day in days:
        await tick_store.weights.append(market_id, day)
    await face._weights.write(market_id, [days[2].held, days[1].held])
    state = await face.weights(2)
    assert (state.held, state.read_from, state.problem) == (days[2].held, "redis", "")
    assert state.history == [days[2].held, days[1].held]
    assert (await face.weights(0)).history == []
    servers.stop()
    state = await face.weights(2)
    assert (state.held, state.read_from) == (days[2].held, "memory")
    assert "Redis did not answer" in state.problem
