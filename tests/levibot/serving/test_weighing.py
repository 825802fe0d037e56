"""Which weights a decision is taken under, on a real Redis-protocol server: never ones that know too much."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import RegistryError, StoreUnavailable
from levibot.learning.members import prior_weights
from levibot.serving.weighing import Weighing, chosen, day_of, over_at
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.live_weights import KEY, HeldWeights, LiveWeights
from levibot.stores.redis import open_redis

pytestmark = pytest.mark.stores

MEMBERS = ("trend", "strength", "lightgbm")
MARKET = "m"
DAY = date(2024, 5, 1)
ONE_DAY = timedelta(days=1)


def held(as_of: date | None, first: float = 0.5, members: tuple[str, ...] = MEMBERS) -> HeldWeights:
    weights = (first, *((1.0 - first) / (len(members) - 1),) * (len(members) - 1))
    regime = {"bull": 0.7, "bear": 0.1, "sideways": 0.2}
    return HeldWeights(as_of, members, weights, weights, "It abstains.", regime, "prior", "v1.0.0")


@pytest.fixture
async def live(redis_url: str) -> AsyncIterator[LiveWeights]:
    client = open_redis(redis_url, timeout_s=2.0)
    yield LiveWeights(client)
    await client.delete(KEY)
    await client.aclose()


@given(minutes=st.integers(1, 60 * 24 * 5))
def test_no_decision_is_taken_under_weights_that_know_its_own_day(minutes: int) -> None:
    """A bar that closes at midnight is of the day that ends there, as in a backtest."""
    as_of = over_at(DAY) + timedelta(minutes=minutes)
    known = [held(DAY + n * ONE_DAY, 0.1 * (n + 1)) for n in range(5)]
    route = chosen(known, MEMBERS, as_of, "redis")
    assert route.as_of is not None
    assert route.as_of == day_of(as_of) - ONE_DAY
    assert route.age_s == (as_of - over_at(route.as_of)).total_seconds() > 0.0
    assert route.ensemble[0] == pytest.approx(0.1 * ((route.as_of - DAY).days + 1))


def test_weights_of_the_day_or_of_another_run_s_future_leave_the_prior() -> None:
    midnight = over_at(DAY)
    for known in ([held(DAY)], [held(DAY + 300 * ONE_DAY)], []):
        route = chosen(known, MEMBERS, midnight, "redis")
        assert (route.read_from, route.as_of, route.age_s) == ("prior", None, None)
        np.testing.assert_array_equal(route.ensemble, prior_weights(MEMBERS))
    assert chosen([held(DAY)], MEMBERS, midnight + timedelta(hours=1), "redis").as_of == DAY


def test_weights_of_other_members_are_not_taken() -> None:
    route = chosen([held(DAY)], ("trend", "strength"), over_at(DAY) + ONE_DAY, "redis")
    assert (route.read_from, route.abstained) == (
        "prior",
        "The weights are of other members: trend, strength, lightgbm.",
    )


async def test_weights_come_back_and_those_of_another_market_do_not(live: LiveWeights) -> None:
    written = (held(DAY + ONE_DAY), held(DAY), held(None))
    await live.write(MARKET, written)
    assert await live.read(MARKET) == written
    assert await live.read("other") == ()


@pytest.mark.parametrize(
    "broken", [{"weights": [0.5, 0.6, 0.1]}, {"weights": [1.0]}, {"regime": 3}, {"as_of": "May"}]
)
async def test_a_broken_key_is_one_error_and_no_weights(live: LiveWeights, broken: dict[str, object]) -> None:
    with pytest.raises(RegistryError, match="does not hold weights"):
        HeldWeights.from_json(held(DAY).to_json() | broken)
    await live._client.set(KEY, b'{"market_id": "m", "held": [{"as_of": null}]}')
    route = await Weighing(live, MARKET, timeout_s=2.0).route(MEMBERS, over_at(DAY) + ONE_DAY)
    assert route.read_from == "prior"
    assert "does not hold weights" in route.abstained


async def test_without_redis_the_last_weights_are_used_and_say_so(tmp_path: Path) -> None:
    servers = EmbeddedServers(Settings.load(home=tmp_path, postgres_dsn="postgresql://not.used/x"))
    as_of = over_at(DAY) + ONE_DAY
    try:
        live = LiveWeights(open_redis(servers.start().redis_url, timeout_s=2.0))
        weighing, fresh = (Weighing(live, MARKET, timeout_s=2.0) for _ in range(2))
        await live.write(MARKET, [held(DAY, 0.7)])
        assert (await weighing.route(MEMBERS, as_of)).read_from == "redis"
    finally:
        servers.stop()
    later = await weighing.route(MEMBERS, as_of + ONE_DAY)
    assert (later.read_from, later.as_of, later.ensemble[0]) == ("memory", DAY, 0.7)
    assert later.age_s == 2 * 86_400.0
    assert (await fresh.route(MEMBERS, as_of)).read_from == "prior"
    with pytest.raises(StoreUnavailable):
        await live.write(MARKET, [replace(held(DAY))])
    await live.close()


def test_a_day_is_over_at_its_closing_midnight() -> None:
    assert over_at(DAY) == datetime(2024, 5, 2, tzinfo=UTC)
    assert day_of(over_at(DAY)) == DAY
    assert day_of(over_at(DAY) + timedelta(microseconds=1)) == DAY + ONE_DAY
