"""What every client of the outside keeps under every fault: the right error, the right number of attempts, a
bound on the time, a circuit that opens and closes, and silence about its key."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry

from levibot.clock import SystemClock
from levibot.errors import LeviBotError, SourceError, SourceUnavailable
from levibot.market.budget import MemorySpending
from levibot.market.dex import DexClient, Token
from levibot.market.exchange_client import ExchangeClient
from levibot.market.news import NewsClient
from levibot.market.nft import NftClient
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.telemetry.metrics import Metrics
from tests.fakes import dex_server, news_server, nft_server
from tests.fakes.exchange_server import FakeExchange
from tests.fakes.loopback_server import Fault, LoopbackServer

ATTEMPTS = 3
FAILURES_TO_OPEN = 5
TIMEOUT_S = 0.25
RESET_S = 0.3
# Three attempts and the pauses between them, on a busy machine.
LONGEST_S = 10.0
# A busy place, a lost connection and a silence are worth a repeat; an answer that is none is not.
TRANSIENT: dict[str, frozenset[Fault]] = {
    "0x": frozenset({"429", "500", "503", "truncated", "slow", "drip", "reset", "hang"}),
    # Binance bans with 418, and a redirect leads ccxt to a port where nobody is.
    "exchange binance": frozenset(
        {"429", "418", "500", "503", "truncated", "slow", "drip", "reset", "hang", "redirect"}
    ),
}
TRANSIENT["Reservoir"] = TRANSIENT["OpenAI"] = TRANSIENT["0x"]


@dataclass
class Case:
    """A client, the server behind it, and one call."""

    name: str
    server: LoopbackServer
    client: Any
    call: Callable[[], Awaitable[object]]
    key: str
    metrics: Metrics

    def circuit(self) -> float | None:
        return self.metrics.registry.get_sample_value("levibot_circuit_state", {"name": self.name})


def exchange() -> FakeExchange:
    source = SimulatedSource(("BTCUSDT",), timedelta(hours=1), 5, 0.0)
    bars = source.bars("BTCUSDT", MARKET_START, MARKET_START + timedelta(hours=5))
    return FakeExchange({"BTCUSDT": bars})


SERVERS: dict[str, Callable[[], LoopbackServer]] = {
    "exchange binance": exchange,
    "0x": dex_server.FakeDex,
    "Reservoir": nft_server.FakeReservoir,
    "OpenAI": news_server.FakeOpenAI,
}


@pytest.fixture(params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(name: str) -> Iterator[LoopbackServer]:
    with SERVERS[name]() as running:
        yield running


@pytest.fixture
async def case(name: str, server: LoopbackServer) -> AsyncIterator[Case]:
    clock, metrics = SystemClock(), Metrics(CollectorRegistry())
    options: dict[str, Any] = {"timeout_s": TIMEOUT_S, "reset_s": RESET_S, "metrics": metrics}
    call: Callable[[], Awaitable[object]]
    if name == "exchange binance":
        exchange_client = ExchangeClient(
            "binance", clock, base_url=server.url, **(options | {"timeout_s": 5.0})
        )
        # The markets are known before: each call below is one request.
        await exchange_client.pairs()
        await exchange_client.close()
        client: Any = ExchangeClient("binance", clock, base_url=server.url, **options)
        client._pairs = await exchange_client.pairs()
        client._wire.set_markets_from_exchange(exchange_client._wire)
        call, key = lambda: client.order_book("BTCUSDT"), ""
    elif name == "0x":
        client, key = DexClient(server.url, dex_server.KEY, clock, **options), dex_server.KEY
        sell, buy = Token("USDC", dex_server.USDC, 6), Token("USDT", dex_server.USDT, 6)
        call = lambda: client.fetch_quote(1, sell, buy, 5.0)  # noqa: E731
    elif name == "Reservoir":
        client, key = NftClient(server.url, nft_server.KEY, clock, **options), nft_server.KEY
        call = lambda: client.fetch_floor(nft_server.APES)  # noqa: E731
    else:
        client = NewsClient(
            server.url, news_server.KEY, "gpt-4o-mini", 1.0, ("BTCUSDT",), MemorySpending(), clock, **options
        )
        key = news_server.KEY
        call = lambda: client.fetch_sentiment(["Bitcoin rises"])  # noqa: E731
    server.asked.clear()
    yield Case(name, server, client, call, key, metrics)
    await client.close()


async def error_of(case: Case) -> LeviBotError:
    try:
        answer = await case.call()
    except LeviBotError as exc:
        return exc
    raise AssertionError(f"{case.name} answered {answer}")


async def test_without_a_fault_one_request_is_one_answer(case: Case) -> None:
    assert await case.call() is not None
    assert len(case.server.asked) == 1


@pytest.mark.parametrize("fault", get_args(Fault))
async def test_a_fault_is_the_right_error_after_the_right_number_of_attempts(
    case: Case, fault: Fault, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    await case.call()
    case.server.asked.clear()
    case.server.fault = fault
    begun = time.monotonic()
    error = await error_of(case)
    took_s = time.monotonic() - begun

    is_transient = fault in TRANSIENT[case.name]
    assert type(error) is (SourceUnavailable if is_transient else SourceError)
    assert error.is_transient is is_transient
    n_asked = len(case.server.asked)
    if fault == "reset" and case.name == "exchange binance":
        # aiohttp by itself repeats a GET once when its connection is lost.
        assert ATTEMPTS <= n_asked <= 2 * ATTEMPTS
    else:
        assert n_asked == (ATTEMPTS if is_transient else 1)
    assert took_s < LONGEST_S
    assert case.name in error.message
    assert len(str(error)) < 600

    if case.key:
        # What an operator may ever see of it: the error with all that led to it, the logs, the output.
        output = capsys.readouterr()
        told = (
            "".join(traceback.format_exception(error)) + repr(error) + caplog.text + output.out + output.err
        )
        assert case.key not in told

    case.server.fault = None
    assert await case.call() is not None


async def test_a_circuit_opens_refuses_at_once_and_closes_again(case: Case) -> None:
    case.server.fault = "500"
    for _ in range(2):
        assert isinstance(await error_of(case), SourceUnavailable)
    # The second call's last attempt was not made: the circuit had opened.
    assert len(case.server.asked) == FAILURES_TO_OPEN
    assert case.circuit() == 2
    refusal = await error_of(case)
    assert isinstance(refusal, SourceUnavailable)
    assert "circuit" in refusal.message
    assert len(case.server.asked) == FAILURES_TO_OPEN

    case.server.fault = None
    answer: object = None
    deadline = time.monotonic() + LONGEST_S
    while answer is None and time.monotonic() < deadline:
        with contextlib.suppress(SourceUnavailable):
            answer = await case.call()
    assert answer is not None
    assert case.circuit() == 0
