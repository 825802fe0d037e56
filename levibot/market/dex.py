"""What decentralised exchanges pay for a token: quotes of 0x, Swap API v2."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from levibot.clock import Clock
from levibot.errors import SourceError, UsageError
from levibot.market.http_client import HttpClient
from levibot.market.last_known import LastKnown
from levibot.market.source_status import SourceStatus, keyed
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.fallback import Answered, Found
from levibot.settings import Settings
from levibot.telemetry.metrics import DEFAULT, Metrics

NAME = "0x"
PATH = "/swap/allowance-holder/price"
# A price this old says nothing of the market any more.
LONGEST_AGE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a chain. address: 0x and 40 hex digits; decimals: of its smallest unit."""

    symbol: str
    address: str
    decimals: int

    def __post_init__(self) -> None:
        digits = self.address.removeprefix("0x")
        if len(digits) != 40 or digits == self.address or not set(digits) <= set("0123456789abcdefABCDEF"):
            raise UsageError(f"The address {self.address!r} of {self.symbol} is not 0x and 40 hex digits.")
        if not 0 <= self.decimals <= 36:
            raise UsageError(f"{self.symbol} has {self.decimals} decimals: not one of 0 to 36.")


@dataclass(frozen=True, slots=True)
class DexFill:
    """A part of the route. share: of the amount that its step exchanges, in (0, 1]."""

    venue: str
    share: float


@dataclass(frozen=True, slots=True)
class DexQuote:
    """What selling `sell_amount` of `sell` brings in `buy`, without a commitment. Amounts in whole tokens.

    price: buy tokens for one sell token, > 0, after the venues' fees and without gas. gas: units, and
    network_fee_wei: what they cost in the chain's coin, None where 0x gives no estimate.
    """

    chain_id: int
    sell: Token
    buy: Token
    sell_amount: float
    buy_amount: float
    price: float
    gas: int | None
    network_fee_wei: int | None
    fills: tuple[DexFill, ...]
    as_of: datetime


class DexClient:
    """Asks 0x, for one event loop. Without a key it is disabled: its calls raise SourceDisabled.

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
        self._status = keyed(NAME, key, "LEVIBOT_DEX_KEY")
        self._clock = clock
        self._http = HttpClient(
            NAME,
            url,
            clock,
            headers={"0x-api-key": key or "", "0x-version": "v2"},
            key=key,
            timeout_s=timeout_s,
            reset_s=reset_s,
            shared=shared,
            metrics=metrics,
        )
        self._known: LastKnown[tuple[int, str, str, int], DexQuote] = LastKnown(clock, longest_age)

    @classmethod
    def open(cls, settings: Settings, clock: Clock, shared: CircuitBoard | None = None) -> Self:
        """The client that the settings describe."""
        return cls(settings.dex_url, settings.dex_key, clock, shared=shared)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def status(self) -> SourceStatus:
        """Whether it can be asked."""
        return self._status

    async def quote(self, chain_id: int, sell: Token, buy: Token, sell_amount: float) -> Answered[DexQuote]:
        """The live quote, or while 0x fails the last one up to five minutes old; the answer says which.

        Raises SourceDisabled, UsageError on an amount that is none, and NotReady without either.
        """
        units = _base_units(sell, sell_amount)
        self._status.check()

        async def live() -> Found[DexQuote]:
            quote = await self.fetch_quote(chain_id, sell, buy, sell_amount)
            return Found(quote, quote.as_of)

        return await self._known.get((chain_id, sell.address, buy.address, units), live)

    async def fetch_quote(self, chain_id: int, sell: Token, buy: Token, sell_amount: float) -> DexQuote:
        """The live quote. Raises SourceError where nobody buys such an amount."""
        units = _base_units(sell, sell_amount)
        self._status.check()
        query = {
            "chainId": str(chain_id),
            "sellToken": sell.address,
            "buyToken": buy.address,
            "sellAmount": str(units),
        }
        answer = await self._http.get(PATH, query, _Price.model_validate)
        if not answer.liquidityAvailable:
            raise SourceError(f"{NAME} finds no liquidity for {sell_amount:g} {sell.symbol} in {buy.symbol}.")
        asked = (sell.address.lower(), buy.address.lower(), units)
        if (answer.sellToken.lower(), answer.buyToken.lower(), int(answer.sellAmount)) != asked:
            raise SourceError(
                f"{NAME} answers for another pair or amount than {sell_amount:g} {sell.symbol}."
            )
        sold = Decimal(units).scaleb(-sell.decimals)
        bought = Decimal(answer.buyAmount).scaleb(-buy.decimals)
        if bought <= 0:
            raise SourceError(f"{NAME} pays nothing for {sell_amount:g} {sell.symbol}.")
        return DexQuote(
            chain_id,
            sell,
            buy,
            sell_amount=float(sold),
            buy_amount=float(bought),
            price=float(bought / sold),
            gas=None if answer.gas is None else int(answer.gas),
            network_fee_wei=None if answer.totalNetworkFee is None else int(answer.totalNetworkFee),
            fills=tuple(DexFill(fill.source, int(fill.proportionBps) / 1e4) for fill in answer.route.fills),
            as_of=self._clock.now(),
        )


def _base_units(token: Token, amount: float) -> int:
    exact = Decimal(repr(float(amount)))
    units = int(exact.scaleb(token.decimals)) if exact.is_finite() else 0
    if units <= 0:
        raise UsageError(f"{amount} {token.symbol} is no amount to sell.", hint="Give a number above 0.")
    return units


_Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,78}$")]
_Address = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]


class _Fill(BaseModel):
    model_config = ConfigDict(extra="ignore")
    source: str = Field(min_length=1, max_length=100)
    proportionBps: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}$")]


class _Route(BaseModel):
    model_config = ConfigDict(extra="ignore")
    fills: tuple[_Fill, ...] = Field((), max_length=1000)


class _Price(BaseModel):
    """The fields that are used, by their names on the wire; without liquidity only the first comes."""

    model_config = ConfigDict(extra="ignore")
    liquidityAvailable: bool
    sellToken: _Address = "0x" + "0" * 40
    buyToken: _Address = "0x" + "0" * 40
    sellAmount: _Amount = "0"
    buyAmount: _Amount = "0"
    gas: _Amount | None = None
    totalNetworkFee: _Amount | None = None
    route: _Route = _Route(fills=())
