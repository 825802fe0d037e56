"""`ingest`, `predict`: a market in, its signals out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from levibot.commands.shared import (
    EdgeOption,
    JsonFlag,
    PathOption,
    SeedOption,
    SourceOption,
    SymbolsOption,
    as_utc_or_none,
    end_in_order,
    load_settings,
    say,
)


def ingest(
    source: SourceOption = None,
    path: PathOption = None,
    symbols: SymbolsOption = None,
    edge: EdgeOption = None,
    seed: SeedOption = None,
    until: Annotated[
        datetime | None, typer.Option(help="only bars finished by then, UTC (default: all there are)")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Load bars of a market into the tick store. Starts the embedded stores for it if nothing runs."""
    from levibot.launch.run_record import read_record
    from levibot.market.ingest import Ingest, Ingested
    from levibot.market.sources import open_source
    from levibot.stores.connect import open_ticks
    from levibot.stores.embedded import EmbeddedServers

    settings = load_settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    market = open_source(settings)
    as_of = as_utc_or_none(until) or market.extent()[1] or datetime.now(UTC)
    record = read_record(settings.home)
    servers = EmbeddedServers(settings) if record is None or record.launcher is None else None

    counts: dict[str, int] = {}

    async def load() -> Ingested:
        ticks = await open_ticks(settings)
        try:
            await ticks.migrate()
            path = Ingest(market, ticks, settings.market_id, settings.symbols)
            start = settings.train_start or market.extent()[0]
            return await path.up_to(as_of, start, counts.__setitem__)
        finally:
            await ticks.close()

    end_in_order()
    try:
        if servers is not None:
            servers.start()
        done = asyncio.run(load())
    finally:
        if servers is not None:
            servers.stop()
    newest = done.newest_close.isoformat() if done.newest_close else None
    result = {"market": settings.market_id, "read": counts, "new": done.n_new, "newest_close": newest}
    reach = f"up to {newest}" if newest else "which has none by then"
    say(as_json, result, f"{done.n_new:,} new bars of {settings.market_id}, {reach}.")


def predict(
    symbol: Annotated[str, typer.Argument(help="like BTCUSDT")],
    url: Annotated[str | None, typer.Option(help="the API (default: the run of this state folder)")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the running system for the signal of a symbol."""
    from levibot.launch.run_record import read_record
    from levibot.serving import client

    settings = load_settings()
    record = read_record(settings.home)
    base = url or (record.http_url if record else f"http://{settings.http_host}:{settings.http_port}")
    body = client.predict(base, symbol.upper())
    say(as_json, body, "\n".join(f"{name:16} {value}" for name, value in body.items()))
