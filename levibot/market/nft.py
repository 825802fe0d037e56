"""The lowest asking price of an NFT collection: Reservoir's collections, version 7."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from levibot.clock import Clock
from levibot.errors import SourceError, UsageError
from levibot.market.http_client import HttpClient
from levibot.market.last_known import LastKnown
from levibot.market.source_status import SourceStatus, keyed
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.fallback import Answered, Found
from levibot.settings import Settings
from levibot.telemetry.metrics import DEFAULT, Metrics

NAME = "Reservoir"
PATH = "/collections/v7"
# Floors move slowly; an hour-old one still ranks collections.
LONGEST_AGE = timedelta(hours=1)
MAX_ID_CHARS = 120


@dataclass(frozen=True, slots=True)
class CollectionFloor:
    """The cheapest listing of a collection. floor_price: > 0 in `currency`; both None when nothing is listed.

    floor_price_usd: None where the service has no rate. on_sale_count: listed tokens, None if not said.
    """

    collection_id: str
    name: str
    floor_price: float | None
    currency: str | None
    floor_price_usd: float | None
    on_sale_count: int | None
    as_of: datetime


class NftClient:
    """Asks Reservoir, for one event loop. Without a key it is disabled: its calls raise SourceDisabled.

    Each other fault of a call is SourceUnavailable or SourceError.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        clock: Clock,
        *,
        timeout_s: float = 5.0,
        longest_age: timedelta = LONGEST_AGE,
        metrics: Metrics = DEFAULT,
        reset_s: float = 30.0,
        shared: CircuitBoard | None = None,
    ) -> None:
        self._status = keyed(NAME, key, "LEVIBOT_NFT_KEY")
        self._clock = clock
        self._http = HttpClient(
            NAME,
            url,
            clock,
            headers={"x-api-key": key or ""},
            key=key,
            timeout_s=timeout_s,
            reset_s=reset_s,
            shared=shared,
            metrics=metrics,
        )
        self._known: LastKnown[str, CollectionFloor] = LastKnown(clock, longest_age)

    @classmethod
    def open(cls, settings: Settings, clock: Clock, shared: CircuitBoard | None = None) -> Self:
        """The client that the settings describe."""
        return cls(settings.nft_url, settings.nft_key, clock, shared=shared)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def status(self) -> SourceStatus:
        """Whether it can be asked."""
        return self._status

    async def floor(self, collection_id: str) -> Answered[CollectionFloor]:
        """The live floor, or while Reservoir fails the last one up to an hour old; the answer says which.

        collection_id: the contract's address, or what Reservoir calls the collection.
        Raises SourceDisabled, UsageError on an id that is none, and NotReady without either.
        """
        _check_id(collection_id)
        self._status.check()

        async def live() -> Found[CollectionFloor]:
            floor = await self.fetch_floor(collection_id)
            return Found(floor, floor.as_of)

        return await self._known.get(collection_id, live)

    async def fetch_floor(self, collection_id: str) -> CollectionFloor:
        """The live floor. Raises SourceError when there is no such collection."""
        _check_id(collection_id)
        self._status.check()
        answer = await self._http.get(PATH, {"id": collection_id}, _Answer.model_validate)
        if not answer.collections:
            raise SourceError(f"{NAME} has no collection {collection_id!r}.")
        (collection,) = answer.collections
        if collection.id.lower() != collection_id.lower():
            raise SourceError(f"{NAME} answers for another collection than {collection_id!r}.")
        price = collection.floorAsk.price if collection.floorAsk else None
        return CollectionFloor(
            collection_id,
            collection.name or "",
            floor_price=price.amount.decimal if price else None,
            currency=price.currency.symbol if price else None,
            floor_price_usd=price.amount.usd if price else None,
            on_sale_count=collection.onSaleCount,
            as_of=self._clock.now(),
        )


def _check_id(collection_id: str) -> None:
    if not collection_id or len(collection_id) > MAX_ID_CHARS or not collection_id.isascii():
        raise UsageError(
            f"{collection_id[:MAX_ID_CHARS]!r} is no id of a collection.",
            hint="Give the contract's address: 0x and 40 hex digits.",
        )


_Price = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class _Amount(BaseModel):
    model_config = ConfigDict(extra="ignore")
    decimal: _Price
    usd: _Price | None = None


class _Currency(BaseModel):
    model_config = ConfigDict(extra="ignore")
    symbol: str = Field(min_length=1, max_length=20)


class _Asked(BaseModel):
    model_config = ConfigDict(extra="ignore")
    amount: _Amount
    currency: _Currency


class _FloorAsk(BaseModel):
    model_config = ConfigDict(extra="ignore")
    price: _Asked | None = None


class _Collection(BaseModel):
    """The fields that are used, by their names on the wire. Counts come as text."""

    model_config = ConfigDict(extra="ignore")
    id: str
    name: str | None = None
    floorAsk: _FloorAsk | None = None
    onSaleCount: Annotated[int, Field(ge=0)] | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")
    collections: tuple[_Collection, ...] = Field(max_length=1)
