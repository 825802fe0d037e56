"""A stand-in for Reservoir: collections, version 7, in its wire shape."""

from __future__ import annotations

import json

from tests.fakes.loopback_server import Asked, LoopbackServer

KEY = "nft-key-that-nobody-may-see"
APES = "0xbc4ca0eda7647a8ab7c2061c2e118a18a936f13d"


class FakeReservoir(LoopbackServer):
    """Knows one collection. floor: its cheapest listing in `currency`, None when nothing is listed."""

    def __init__(self) -> None:
        super().__init__()
        self.floor: float | None = 11.85
        self.currency = "ETH"

    async def respond(self, asked: Asked) -> tuple[int, str]:
        if asked.path != "/collections/v7":
            return 404, json.dumps({"statusCode": 404, "error": "Not Found", "message": "Not Found"})
        if asked.headers.get("x-api-key") != KEY:
            return 401, json.dumps({"statusCode": 401, "error": "Unauthorized", "message": "Invalid API key"})
        if asked.query.get("id", "").lower() != APES:
            return 200, json.dumps({"collections": [], "continuation": None})
        return 200, json.dumps(
            {"collections": [_collection(self.floor, self.currency)], "continuation": None}
        )


def _collection(floor: float | None, currency: str) -> dict[str, object]:
    price = floor and {
        "currency": {
            "contract": "0x0000000000000000000000000000000000000000",
            "name": "Ether",
            "symbol": currency,
            "decimals": 18,
        },
        "amount": {
            "raw": str(int(floor * 1e18)),
            "decimal": floor,
            "usd": floor * 2500,
            "native": floor,
        },
    }
    return {
        "chainId": 1,
        "id": APES,
        "slug": "boredapeyachtclub",
        "name": "Bored Ape Yacht Club",
        "tokenCount": "10000",
        "onSaleCount": "323" if floor else "0",
        "primaryContract": APES,
        "tokenSetId": f"contract:{APES}",
        "rank": {"1day": 3, "7day": 2, "30day": 2, "allTime": 2},
        "volume": {"1day": 182.3, "7day": 1500.1, "30day": 6021.7, "allTime": 1401322.0},
        "floorAsk": {"id": "0x2f", "sourceDomain": "opensea.io", "price": price, "maker": "0x4c"},
    }
