"""The floor of one NFT collection, for the poll."""

from __future__ import annotations

from levibot.errors import SourceError
from levibot.market.nft import NAME, NftClient
from levibot.market.observations import Reading
from levibot.market.outside_source import Newest
from levibot.market.side_series import NFT_FLOOR
from levibot.market.source_status import SourceStatus

# The wrapped coin is worth the coin. A floor in anything else is of another unit than the ones before it.
CURRENCIES = ("ETH", "WETH")


class NftFloor:
    """Cheapest listing of `collection_id`, in ether; nothing is known while nothing is listed."""

    def __init__(self, client: NftClient, collection_id: str, *, every_s: float) -> None:
        self._client = client
        self._collection_id = collection_id
        self._every_s = every_s

    @property
    def name(self) -> str:
        return NAME

    @property
    def every_s(self) -> float:
        return self._every_s

    async def status(self) -> SourceStatus:
        return await self._client.status()

    async def look(self, newest: Newest) -> list[Reading]:  # noqa: ARG002 - a floor has no past
        floor = await self._client.fetch_floor(self._collection_id)
        if floor.currency is not None and floor.currency not in CURRENCIES:
            raise SourceError(
                f"The floor of {self._collection_id} is in {floor.currency}, not in {CURRENCIES[0]}."
            )
        return [Reading(NFT_FLOOR, None, floor.as_of, floor.floor_price)]

    async def close(self) -> None:
        await self._client.close()
