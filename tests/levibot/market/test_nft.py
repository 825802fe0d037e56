"""Floors of NFT collections, against a server that speaks Reservoir's wire shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from levibot.clock import ManualClock
from levibot.errors import NotReady, SourceDisabled, SourceError, UsageError
from levibot.market.nft import CollectionFloor, NftClient
from levibot.settings import Settings
from levibot.telemetry.metrics import Metrics
from tests.fakes.nft_server import APES, KEY, FakeReservoir

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[FakeReservoir]:
    with FakeReservoir() as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def nft(server: FakeReservoir, clock: ManualClock, metrics: Metrics) -> AsyncIterator[NftClient]:
    client = NftClient(server.url, KEY, clock, metrics=metrics)
    yield client
    await client.close()


async def test_a_floor_has_its_currency_and_its_listings(nft: NftClient) -> None:
    assert await nft.fetch_floor(APES) == CollectionFloor(
        APES, "Bored Ape Yacht Club", 11.85, "ETH", 29625.0, 323, NOW
    )


async def test_a_collection_without_a_listing_has_no_floor(nft: NftClient, server: FakeReservoir) -> None:
    server.floor = None
    floor = await nft.fetch_floor(APES)
    assert (floor.floor_price, floor.currency, floor.floor_price_usd, floor.on_sale_count) == (
        None,
        None,
        None,
        0,
    )


async def test_without_a_key_it_is_disabled_and_asks_nobody(
    server: FakeReservoir, clock: ManualClock
) -> None:
    nft = NftClient.open(Settings.load(nft_url=server.url), clock)
    assert (await nft.status()).reason == "LEVIBOT_NFT_KEY is not set."
    for call in (nft.floor, nft.fetch_floor):
        with pytest.raises(SourceDisabled, match="Reservoir is disabled"):
            await call(APES)
    assert server.asked == []
    await nft.close()


async def test_an_unknown_collection_is_said(nft: NftClient) -> None:
    with pytest.raises(SourceError, match="no collection '0x00'"):
        await nft.fetch_floor("0x00")


@pytest.mark.parametrize("name", ["", "x" * 121, "äffchen"])
async def test_an_id_that_is_none_is_refused(nft: NftClient, server: FakeReservoir, name: str) -> None:
    with pytest.raises(UsageError, match="no id of a collection"):
        await nft.floor(name)
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": "0x11"}, "another collection"),
        ({"onSaleCount": "-1"}, "not asked for"),
        ({"floorAsk": {"price": {"amount": {"decimal": 0}, "currency": {"symbol": "ETH"}}}}, "not asked for"),
        ({"floorAsk": {"price": {"amount": {"decimal": 1}, "currency": {}}}}, "not asked for"),
        ({"floorAsk": []}, "not asked for"),
    ],
)
async def test_an_answer_that_does_not_fit_the_question_is_refused(
    nft: NftClient, server: FakeReservoir, change: dict[str, object], sentence: str
) -> None:
    right = server.respond

    async def respond(asked: object) -> tuple[int, str]:
        body = json.loads((await right(asked))[1])  # type: ignore[arg-type]
        body["collections"][0] |= change
        return 200, json.dumps(body)

    server.respond = respond  # type: ignore[method-assign, assignment]
    with pytest.raises(SourceError, match=sentence):
        await nft.fetch_floor(APES)


async def test_the_last_floor_stands_in_for_an_hour(
    nft: NftClient, server: FakeReservoir, clock: ManualClock
) -> None:
    live = await nft.floor(APES)
    server.fault = "404"
    clock.advance(3600.0)
    old = await nft.floor(APES)
    assert (live.link, old.link, old.age_s, old.value) == ("live", "last known", 3600.0, live.value)
    clock.advance(1.0)
    with pytest.raises(NotReady, match="3601 s old, more than 3600 s"):
        await nft.floor(APES)
