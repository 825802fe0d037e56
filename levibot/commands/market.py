"""`ingest`, `predict`: a market in, its signals out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from levibot.commands.shared import (
    EdgeOption,
    JsonFlag,
    PathOption,
    SeedOption,
    SourceOption,
    SymbolsOption,
    as_utc_or_none,
    counted,
    end_in_order,
    load_settings,
    say,
)
from levibot.errors import UsageError
from levibot.settings import Settings

if TYPE_CHECKING:
    from levibot.market.intake import Account, Intake

# What a pass does with an open store: the answer for machines, and for people.
Work = Callable[["Intake"], Awaitable[tuple[dict[str, Any], str]]]


def ingest(
    source: SourceOption = None,
    path: PathOption = None,
    symbols: SymbolsOption = None,
    edge: EdgeOption = None,
    seed: SeedOption = None,
    until: Annotated[
        datetime | None, typer.Option(help="only bars finished by then, UTC (default: all there are)")
    ] = None,
    trades: Annotated[
        bool, typer.Option("--trades", help="the trades of a recorded market, in place of its bars")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Load bars (or trades) of a market into the tick store. Starts the embedded stores if nothing runs.

    Rows that are no bars or trades go to quarantine with the reason. Holes between stored bars are filled.
    """
    from levibot.launch.run_record import read_record
    from levibot.market.intake import Intake
    from levibot.stores.connect import open_ticks
    from levibot.stores.embedded import EmbeddedServers

    settings = load_settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    work = _trades_of(settings) if trades else _bars_of(settings, as_utc_or_none(until))
    record = read_record(settings.home)
    servers = EmbeddedServers(settings) if record is None or record.launcher is None else None

    async def load() -> tuple[dict[str, Any], str]:
        ticks = await open_ticks(settings)
        try:
            await ticks.migrate()
            return await work(Intake(ticks, settings.market_id))
        finally:
            await ticks.close()

    end_in_order()
    try:
        if servers is not None:
            servers.start()
        result, text = asyncio.run(load())
    finally:
        if servers is not None:
            servers.stop()
    say(as_json, {"market": settings.market_id, **result}, text)


def _bars_of(settings: Settings, until: datetime | None) -> Work:
    """Opens the source at once: a market that cannot be read starts no store."""
    from levibot.market.backfill import Backfill
    from levibot.market.ingest import Ingest
    from levibot.market.side_ingest import ingest_side_series
    from levibot.market.sources import open_source

    market = open_source(settings)
    first, last = market.extent()
    as_of = until or last or datetime.now(UTC)

    async def load(intake: Intake) -> tuple[dict[str, Any], str]:
        counts: dict[str, int] = {}
        backfill = Backfill(market, settings.symbols)
        holes = await backfill.fill(intake, as_of)
        done = await Ingest(market, intake, settings.symbols).up_to(
            as_of, settings.train_start or first, counts.__setitem__
        )
        # What was read just now has no hole that the source could fill.
        lacking = [
            (hole.end - hole.start) // market.interval for hole in await backfill.search(intake, as_of)
        ]
        gaps = {
            "found": holes.n_found + len(lacking),
            "bars_filled": holes.n_filled,
            "bars_lacking": holes.n_lacking + sum(lacking),
        }
        account = holes.account + done.account
        beside = await ingest_side_series(market, intake, settings.train_start or first, as_of)
        newest = done.newest_close.isoformat() if done.newest_close else None
        reach = f"up to {newest}" if newest else "which has none by then"
        text = f"{account.n_new:,} new bars of {settings.market_id}, {reach}.{_rejected(account)}"
        if beside.n_new:
            text += f"\n{counted(beside.n_new, 'observation')} beside the bars."
        if gaps["found"]:
            filled, lacking_bars = counted(holes.n_filled, "bar"), gaps["bars_lacking"]
            text += f"\n{counted(gaps['found'], 'hole')} between bars: {filled} filled in, "
            text += f"{lacking_bars:,} not in the source."
        return {
            "read": counts,
            **_numbers(account),
            "gaps": gaps,
            "newest_close": newest,
            "observations": beside.n_new,
        }, text

    return load


def _trades_of(settings: Settings) -> Work:
    from levibot.market.intake import Account
    from levibot.market.trade_ingest import load_trades
    from levibot.market.trades_parquet import ParquetTrades

    if settings.source != "parquet" or settings.market is None:
        raise UsageError(
            f"There are no trades to load of source {settings.source}.",
            hint="--trades loads those of a recorded market (--source parquet --path FOLDER). "
            "Those of a live one come with the feed.",
        )
    recorded = ParquetTrades(settings.market, settings.symbols)

    async def load(intake: Intake) -> tuple[dict[str, Any], str]:
        counts: dict[str, int] = {}
        account = Account()
        gaps: dict[str, dict[str, int | bool]] = {}
        lines: list[str] = []
        for symbol in recorded.symbols:
            account += await load_trades(recorded, symbol, intake, counts.__setitem__)
            # The file was read in whole: what is missing now is not in it.
            walk = await intake.store.holes.trades(intake.market_id, symbol)
            gaps[symbol] = {
                "found": walk.n_holes,
                "trades_lacking": walk.n_missing,
                "ids_are_dense": walk.is_dense,
            }
            if walk.n_holes and walk.is_dense:
                holes, missing = counted(walk.n_holes, "hole"), counted(walk.n_missing, "trade")
                lines.append(f"{symbol} has {holes} in its trade ids: {missing} not in the source.")
        await intake.store.rollup.roll_up()
        text = f"{account.n_new:,} new trades of {settings.market_id}.{_rejected(account)}"
        return {"read": counts, **_numbers(account), "gaps": gaps}, "\n".join([text, *lines])

    return load


def _numbers(account: Account) -> dict[str, Any]:
    return {
        "new": account.n_new,
        "there": account.n_there,
        "rejected": dict(account.reasons),
        "rejected_and_not_kept": account.n_unkept,
    }


def _rejected(account: Account) -> str:
    if not account.n_rejected:
        return ""
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(account.reasons.items()))
    kept = f"; {account.n_unkept:,} of them are not kept" if account.n_unkept else ""
    return f"\n{counted(account.n_rejected, 'row')} went to quarantine ({reasons}){kept}."


def predict(
    symbol: Annotated[str, typer.Argument(help="like BTCUSDT")],
    url: Annotated[str | None, typer.Option(help="the API (default: the run of this state folder)")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the running system for the signal of a symbol."""
    from levibot.access.run_key import key_of
    from levibot.launch.run_record import read_record
    from levibot.serving import client

    settings = load_settings()
    record = read_record(settings.home)
    base = url or (record.http_url if record else f"http://{settings.http_host}:{settings.http_port}")
    # The run's own key is for the run: it is not told to whoever answers elsewhere.
    body = client.predict(base, symbol.upper(), key_of(settings) if url is None else settings.api_key)
    say(as_json, body, "\n".join(f"{name:16} {value}" for name, value in body.items()))
