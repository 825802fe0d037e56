"""A stand-in for 0x: the indicative price of Swap API v2, in its wire shape."""

from __future__ import annotations

import json
from fractions import Fraction

from tests.fakes.loopback_server import Asked, LoopbackServer

KEY = "dex-key-that-nobody-may-see"
USDC = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"
USDT = "0xdac17f958d2ee523a2206206994597c13d831ec7"


class FakeDex(LoopbackServer):
    """Pays `rate` smallest units for each. With `has_liquidity` false it finds no route."""

    def __init__(self) -> None:
        super().__init__()
        self.has_liquidity = True
        self.rate = Fraction(100032748, 100000000)

    async def respond(self, asked: Asked) -> tuple[int, str]:
        if asked.path != "/swap/allowance-holder/price" or asked.headers.get("0x-version") != "v2":
            return 404, json.dumps({"message": "no Route matched with those values"})
        if asked.headers.get("0x-api-key") != KEY:
            return 403, json.dumps({"message": f"Invalid key {asked.headers.get('0x-api-key')}"})
        missing = [n for n in ("chainId", "sellToken", "buyToken", "sellAmount") if n not in asked.query]
        if missing:
            return 400, json.dumps({"name": "INPUT_INVALID", "message": "The input is invalid"})
        if not self.has_liquidity:
            return 200, json.dumps({"liquidityAvailable": False, "zid": "0x111111111111111111111111"})
        sell, buy, amount = (asked.query[name] for name in ("sellToken", "buyToken", "sellAmount"))
        return 200, json.dumps(_price(sell, buy, int(amount), self.rate))


def _price(sell: str, buy: str, amount: int, rate: Fraction) -> dict[str, object]:
    return {
        "blockNumber": "20114676",
        "buyAmount": str(int(amount * rate)),
        "buyToken": buy,
        "fees": {
            "integratorFee": None,
            "zeroExFee": {"amount": "0", "token": buy, "type": "volume"},
            "gasFee": None,
        },
        "gas": "288095",
        "gasPrice": "7062490000",
        "issues": {
            "allowance": {"actual": "0", "spender": "0x0000000000001ff3684f28c67538d4d072c22734"},
            "balance": {"token": sell, "actual": "0", "expected": str(amount)},
            "simulationIncomplete": False,
            "invalidSourcesPassed": [],
        },
        "liquidityAvailable": True,
        "minBuyAmount": str(amount * 99 // 100),
        "route": {
            "fills": [
                {"from": sell, "to": buy, "source": "SolidlyV3", "proportionBps": "7500"},
                {"from": sell, "to": buy, "source": "Uniswap_V3", "proportionBps": "2500"},
            ],
            "tokens": [{"address": sell, "symbol": "USDC"}, {"address": buy, "symbol": "USDT"}],
        },
        "sellAmount": str(amount),
        "sellToken": sell,
        "tokenMetadata": {
            "buyToken": {"buyTaxBps": "0", "sellTaxBps": "0"},
            "sellToken": {"buyTaxBps": "0", "sellTaxBps": "0"},
        },
        "totalNetworkFee": "2034668056550000",
        "zid": "0x111111111111111111111111",
    }
