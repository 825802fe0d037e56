"""An exchange on loopback, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from levibot.clock import SystemClock
from levibot.market.exchange_client import ExchangeClient
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.telemetry.metrics import Metrics
from tests.fakes.exchange_server import FakeExchange

HOUR = timedelta(hours=1)
OpenClient = Callable[..., ExchangeClient]


@pytest.fixture
def exchange() -> Iterator[FakeExchange]:
    """BTCUSDT and ETHUSDT, with 48 bars each and no trade yet."""
    source = SimulatedSource(("BTCUSDT", "ETHUSDT"), HOUR, 5, 0.0)
    bars = {s: source.bars(s, MARKET_START, MARKET_START + 48 * HOUR) for s in source.symbols}
    with FakeExchange(bars) as running:
        yield running


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
async def open_client(exchange: FakeExchange, metrics: Metrics) -> AsyncIterator[OpenClient]:
    """Makes clients of the exchange and closes them."""
    opened: list[ExchangeClient] = []

    def open_one(**options: object) -> ExchangeClient:
        defaults: dict[str, object] = {"base_url": exchange.url, "timeout_s": 2.0, "metrics": metrics}
        opened.append(ExchangeClient("binance", SystemClock(), **(defaults | options)))  # type: ignore[arg-type]
        # The exchange on loopback has no limit, and the tests no time to keep one.
        opened[-1]._wire.enableRateLimit = False
        return opened[-1]

    yield open_one
    for client in opened:
        await client.close()


@pytest.fixture
def client(open_client: OpenClient) -> ExchangeClient:
    return open_client()
