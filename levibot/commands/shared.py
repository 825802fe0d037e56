"""What the commands share: options, settings, instants, and how they answer."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from levibot.errors import UsageError
from levibot.settings import YEARS, Settings
from levibot.telemetry.logging import configure_logging

console = Console(soft_wrap=True)

SourceOption = Annotated[
    str | None, typer.Option("--source", help="simulated, parquet or exchange (default: simulated)")
]
PathOption = Annotated[Path | None, typer.Option("--path", help="folder of a recorded market (parquet)")]
SymbolsOption = Annotated[str | None, typer.Option("--symbols", help="like BTCUSDT,ETHUSDT")]
EdgeOption = Annotated[
    float | None, typer.Option("--edge", help="planted edge of the simulated market, 0 to 0.1; 0 has none")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="of the simulated market and of training")]
JsonFlag = Annotated[bool, typer.Option("--json", help="answer in JSON")]
START = "Start it with `python -m levibot up`."


def load_settings(**options: Any) -> Settings:
    settings = Settings.load(**{name: value for name, value in options.items() if value is not None})
    if options.get("market") is not None and "source" not in settings.model_fields_set:
        raise UsageError(
            f"--path names the recorded market {settings.market}, but the source is {settings.source}.",
            hint="Say which one is meant: --source parquet or --source simulated.",
        )
    # The command's own words are its output; the logs are those of the processes it starts.
    configure_logging("ERROR", "cli")
    return settings


def as_utc(instant: datetime) -> datetime:
    if instant.year not in YEARS:
        raise UsageError(f"{instant.isoformat()} lies outside the years {YEARS[0]} to {YEARS[-1]}.")
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def as_utc_or_none(instant: datetime | None) -> datetime | None:
    return None if instant is None else as_utc(instant)


def say(as_json: bool, record: dict[str, Any], text: str) -> None:
    if as_json:
        console.out(json.dumps(record), highlight=False)
    else:
        # Not `print`: a path may hold what reads as markup.
        console.out(text, highlight=False)


def counted(n: int, noun: str) -> str:
    """`1 bar`, `2,000 bars`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def end_in_order() -> None:
    """Let the signals that end a process end it like Ctrl-C: with what it started."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
