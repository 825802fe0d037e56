"""`features parity`: the vectors that were served, against the history of the same bars."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from levibot.commands.shared import JsonFlag, SymbolsOption, load_settings, say

if TYPE_CHECKING:
    from levibot.features.parity import Difference, Parity
    from levibot.features.served import ServedVector
    from levibot.settings import Settings

MAX_SHOWN = 20


def parity(
    hours: Annotated[
        float, typer.Option(min=0.0, max=8760.0, help="how far back from the newest served vector")
    ] = 24.0,
    symbols: SymbolsOption = None,
    url: Annotated[str | None, typer.Option(help="the API (default: the run of this state folder)")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rebuild the vectors that were really served, and report what differs. Exit code 1 if something does."""
    from levibot.access.run_key import key_of
    from levibot.launch.run_record import read_record

    settings = load_settings(symbols=symbols)
    record = read_record(settings.home)
    base = url or (record.http_url if record else f"http://{settings.http_host}:{settings.http_port}")
    market_id = record.market_id if record else settings.market_id
    served = _served(base, hours, key_of(settings) if url is None else settings.api_key)
    found = asyncio.run(_check(settings, market_id, served))
    say(as_json, _record(found), _text(found))
    if found.differences:
        raise typer.Exit(1)


def _served(base: str, hours: float, key: str | None) -> list[ServedVector]:
    """The vectors of so many hours before the newest one, of the market's time."""
    from levibot.features.served import EVENT_TYPE, ServedVector
    from levibot.serving import client

    newest = client.events(base, EVENT_TYPE, limit=1, key=key)
    if not newest:
        return []
    since = newest[0].ts - timedelta(hours=hours)
    served = client.events(base, EVENT_TYPE, since=since, key=key)
    return [ServedVector.from_event(event) for event in served]


async def _check(settings: Settings, market_id: str, served: list[ServedVector]) -> Parity:
    from levibot.features.parity import check_parity
    from levibot.features.views import view
    from levibot.stores.connect import open_ticks

    ticks = await open_ticks(settings)
    try:
        return await check_parity(
            ticks,
            served,
            market_id=market_id,
            symbols=settings.symbols,
            interval=settings.interval,
            view=view(served[0].view if served else "core"),
        )
    finally:
        await ticks.close()


def _record(found: Parity) -> dict[str, Any]:
    differences = [
        {**asdict(difference), "event_time": difference.event_time.isoformat()}
        for difference in found.differences
    ]
    return {
        "vectors": found.n_vectors,
        "values": found.n_values,
        "not_comparable": dict(found.not_comparable),
        "differences": differences,
    }


def _text(found: Parity) -> str:
    lines = [
        f"{found.n_vectors:,} served vectors with {found.n_values:,} values were rebuilt: "
        f"{len(found.differences):,} differ."
    ]
    lines += [f"{n:,} were left out: {reason}." for reason, n in found.not_comparable.items()]
    lines += map(_line, found.differences[:MAX_SHOWN])
    if len(found.differences) > MAX_SHOWN:
        lines.append(f"… and {len(found.differences) - MAX_SHOWN:,} more; --json shows all.")
    return "\n".join(lines)


def _line(difference: Difference) -> str:
    def shown(value: float | None) -> str:
        return "missing" if value is None else repr(value)

    at: datetime = difference.event_time
    return (
        f"  {difference.symbol} {at.isoformat()} {difference.feature}: "
        f"served {shown(difference.served)}, rebuilt {shown(difference.rebuilt)}"
    )
