"""Quotes of 0x, against a server that speaks its wire shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from levibot.clock import ManualClock
from levibot.errors import NotReady, SourceDisabled, SourceError, UsageError
from levibot.market.dex import DexClient, DexFill, Token
from levibot.settings import Settings
from levibot.telemetry.metrics import Metrics
from tests.fakes.dex_server import KEY, USDC, USDT, FakeDex

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOLLAR = Token("USDC", USDC, 6)
TETHER = Token("USDT", USDT, 6)


@pytest.fixture
def server() -> Iterator[FakeDex]:
    with FakeDex() as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def dex(server: FakeDex, clock: ManualClock, metrics: Metrics) -> AsyncIterator[DexClient]:
    client = DexClient(server.url, KEY, clock, metrics=metrics)
    yield client
    await client.close()


async def test_a_quote_is_in_whole_tokens(dex: DexClient, server: FakeDex) -> None:
    quote = await dex.fetch_quote(1, DOLLAR, TETHER, 250.5)
    assert (quote.sell_amount, quote.buy_amount) == (250.5, 250.582033)
    assert quote.price == pytest.approx(1.00032748, rel=1e-8)
    assert (quote.gas, quote.network_fee_wei, quote.as_of) == (288095, 2034668056550000, NOW)
    assert quote.fills == (DexFill("SolidlyV3", 0.75), DexFill("Uniswap_V3", 0.25))
    assert server.asked[0].query == {
        "chainId": "1",
        "sellToken": USDC,
        "buyToken": USDT,
        "sellAmount": "250500000",
    }


async def test_an_amount_of_eighteen_decimals_is_exact(dex: DexClient, server: FakeDex) -> None:
    await dex.fetch_quote(1, Token("WETH", USDC, 18), TETHER, 0.1)
    assert server.asked[0].query["sellAmount"] == "100000000000000000"


async def test_without_a_key_it_is_disabled_and_asks_nobody(server: FakeDex, clock: ManualClock) -> None:
    dex = DexClient.open(Settings.load(dex_url=server.url), clock)
    status = await dex.status()
    assert (status.is_disabled, status.reason) == (True, "LEVIBOT_DEX_KEY is not set.")
    for call in (dex.quote, dex.fetch_quote):
        with pytest.raises(SourceDisabled, match="0x is disabled: LEVIBOT_DEX_KEY"):
            await call(1, DOLLAR, TETHER, 1.0)
    assert server.asked == []
    await dex.close()


async def test_no_liquidity_is_said(dex: DexClient, server: FakeDex) -> None:
    server.has_liquidity = False
    with pytest.raises(SourceError, match="no liquidity for 5 USDC in USDT"):
        await dex.fetch_quote(1, DOLLAR, TETHER, 5.0)


@pytest.mark.parametrize("amount", [0.0, -1.0, 1e-9, float("nan"), float("inf")])
async def test_an_amount_that_is_none_is_refused(dex: DexClient, server: FakeDex, amount: float) -> None:
    with pytest.raises(UsageError, match="no amount to sell"):
        await dex.quote(1, DOLLAR, TETHER, amount)
    assert server.asked == []


@pytest.mark.parametrize("address", ["", "0x12", "a" * 42, "0x" + "g" * 40, USDC + "0"])
def test_a_token_without_an_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="40 hex digits"):
        Token("USDC", address, 6)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("buyToken", "0x" + "1" * 40, "another pair"),
        ("sellAmount", "7", "another pair or amount"),
        ("buyAmount", "0", "pays nothing"),
        ("buyAmount", "-5", "not asked for"),
        ("buyAmount", 12.5, "not asked for"),
        ("gas", "much", "not asked for"),
        ("route", {"fills": [{"source": "", "proportionBps": "1"}]}, "not asked for"),
    ],
)
async def test_an_answer_that_does_not_fit_the_question_is_refused(
    dex: DexClient, server: FakeDex, field: str, value: object, sentence: str
) -> None:
    right = server.respond

    async def respond(asked: object) -> tuple[int, str]:
        status, body = await right(asked)  # type: ignore[arg-type]
        return status, json.dumps(json.loads(body) | {field: value})

    server.respond = respond  # type: ignore[method-assign, assignment]
    with pytest.raises(SourceError, match=sentence):
        await dex.fetch_quote(1, DOLLAR, TETHER, 5.0)


async def test_the_last_quote_stands_in_for_five_minutes(
    dex: DexClient, server: FakeDex, clock: ManualClock
) -> None:
    live = await dex.quote(1, DOLLAR, TETHER, 5.0)
    assert (live.link, live.age_s, live.is_fallback) == ("live", 0.0, False)
    server.fault = "404"
    clock.advance(300.0)
    old = await dex.quote(1, DOLLAR, TETHER, 5.0)
    assert (old.link, old.age_s, old.value) == ("last known", 300.0, live.value)
    assert "refuses the call" in old.problems[0]
    with pytest.raises(NotReady, match="nothing is there"):
        await dex.quote(1, DOLLAR, TETHER, 6.0)
    clock.advance(1.0)
    with pytest.raises(NotReady, match="301 s old, more than 300 s"):
        await dex.quote(1, DOLLAR, TETHER, 5.0)
