"""`sources`: the places outside that data comes from, and how they are."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from levibot.commands.shared import JsonFlag, SymbolsOption, load_settings, say
from levibot.settings import Settings


def sources(symbols: SymbolsOption = None, as_json: JsonFlag = False) -> None:
    """Ask the exchange how it is and what its markets cost, and say which other sources have a key."""
    settings = load_settings(symbols=symbols)
    record = asyncio.run(_look(settings))
    say(as_json, record, _as_text(record))


async def _look(settings: Settings) -> dict[str, Any]:
    from levibot.clock import SystemClock
    from levibot.market.budget import MemorySpending
    from levibot.market.dex import DexClient
    from levibot.market.exchange_check import check_health, look_at_markets
    from levibot.market.exchange_client import ExchangeClient
    from levibot.market.news import NewsClient
    from levibot.market.nft import NftClient

    clock, url = SystemClock(), settings.exchange_url
    spot = ExchangeClient(settings.exchange, clock, base_url=url)
    perpetual = ExchangeClient(settings.exchange, clock, kind="perpetual", base_url=url)
    # Only whether they have a key is asked here: nothing is spent, so no account is read.
    others = (
        DexClient.open(settings, clock),
        NftClient.open(settings, clock),
        NewsClient.open(settings, MemorySpending(), clock),
    )
    try:
        health = await check_health(spot)
        markets = await look_at_markets(
            spot, perpetual if perpetual.has_funding_rates else None, settings.symbols, clock
        )
        statuses = [await other.status() for other in others]
    finally:
        for client in (spot, perpetual, *others):
            await client.close()
    return {
        "exchange": settings.exchange,
        "problem": health.problem,
        "clock_skew_s": round(health.skew.skew_s, 3),
        "markets": [asdict(market) for market in markets],
        "others": {status.name: status.reason or "has a key" for status in statuses},
    }


def _as_text(record: dict[str, Any]) -> str:
    lines = [f"{record['exchange']}: {record['problem'] or 'works'} (clock {record['clock_skew_s']:+.3f} s)"]
    lines += [
        f"  {market['symbol']:10} mid {market['mid']:<12.8g} spread {market['spread_bps']:.2f} bps, "
        f"fee {market['fee_bps']:g} bps, funding {_or_none(market['funding_bps'])} bps, "
        f"last trade {_or_none(market['trade_age_s'])} s ago"
        for market in record["markets"]
    ]
    lines += [f"{name}: {state}" for name, state in record["others"].items()]
    return "\n".join(lines)


def _or_none(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
