"""`levibot sources`, against an exchange on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from tests.fakes.exchange_server import FUNDING_MS, FakeExchange, funding_rate
from tests.levibot.conftest import Command

HOUR = timedelta(hours=1)


@pytest.fixture
def exchange(levibot: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExchange]:
    source = SimulatedSource(("BTCUSDT", "ETHUSDT"), HOUR, 5, 0.0)
    bars = {s: source.bars(s, MARKET_START, MARKET_START + 5 * HOUR) for s in source.symbols}
    with FakeExchange(bars) as running:
        monkeypatch.setenv("LEVIBOT_EXCHANGE_URL", running.url)
        yield running


def test_it_shows_what_each_market_costs(levibot: Command, exchange: FakeExchange) -> None:
    exchange.follows_clock = True
    exchange.trade("BTCUSDT", 1)
    shown = levibot("sources", "--symbols", "BTCUSDT,ETHUSDT", "--json").json()
    assert (shown["exchange"], shown["problem"]) == ("binance", "")
    assert abs(shown["clock_skew_s"]) < 1.0
    bitcoin, ether = shown["markets"]
    assert (bitcoin["symbol"], bitcoin["fee_bps"]) == ("BTCUSDT", 10.0)
    assert bitcoin["funding_bps"] == pytest.approx(1e4 * funding_rate(exchange.now_ms() // FUNDING_MS))
    assert bitcoin["spread_bps"] == pytest.approx(1.0, rel=1e-3)
    # Ten levels of each side lie within 10 bps of the mid price.
    assert bitcoin["depth"] == pytest.approx(sum(range(1, 11)) + sum(range(2, 12)))
    assert bitcoin["trade_age_s"] > 0.0
    assert ether["trade_age_s"] is None
    assert shown["others"] == {
        "0x": "LEVIBOT_DEX_KEY is not set.",
        "Reservoir": "LEVIBOT_NFT_KEY is not set.",
        "OpenAI": "LEVIBOT_NEWS_KEY is not set.",
    }


def test_maintenance_and_a_wrong_clock_are_said(levibot: Command, exchange: FakeExchange) -> None:
    shown = levibot("sources", "--symbols", "BTCUSDT")
    assert "This machine's clock is" in shown.out
    assert "ahead of that of binance" in shown.out
    exchange.system_status = 1
    shown = levibot("sources", "--symbols", "BTCUSDT")
    assert "binance: The exchange binance says of itself: maintenance." in shown.out


def test_an_exchange_that_does_not_answer_is_one_line(levibot: Command, exchange: FakeExchange) -> None:
    exchange.fault = "503"
    shown = levibot("sources", "--symbols", "BTCUSDT")
    assert shown.code == 1
    assert "The exchange binance does not answer (HTTP 503" in shown.error()
