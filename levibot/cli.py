"""`python -m levibot …`: starts processes and talks HTTP. Exit code 0 done, 1 failed, 2 a wrong call."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from levibot import __version__
from levibot.errors import LeviBotError, NotReady, ProcessError, UsageError
from levibot.settings import YEARS, Settings
from levibot.telemetry.logging import configure_logging

app = typer.Typer(
    name="levibot",
    help="Trading signals with honest time. Settings are LEVIBOT_… variables; options win over them.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
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
DOWN_TIMEOUT_S = 75.0


@app.command()
def up(
    source: SourceOption = None,
    path: PathOption = None,
    symbols: SymbolsOption = None,
    edge: EdgeOption = None,
    seed: SeedOption = None,
    replay_speed: Annotated[
        float | None, typer.Option("--replay-speed", help="bars a second in a replay (default: 1)")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start everything, serve signals and keep running until Ctrl-C."""
    from levibot.launch.steps import ConsoleSteps, JsonSteps
    from levibot.launch.up import Run

    settings = _settings(
        source=source, market=path, symbols=symbols, edge=edge, seed=seed, replay_speed=replay_speed
    )
    steps = JsonSteps(console) if as_json else ConsoleSteps(console)
    _end_in_order()
    started = time.monotonic()
    run = Run(settings, steps)
    try:
        answer = run.start()
        curl = (
            f"curl -s {run.http_url}/ai/predict -H 'content-type: application/json' "
            f"-d '{json.dumps({'symbol': settings.symbols[0]})}'"
        )
        seconds = time.monotonic() - started
        text = (
            f"\nLeviBot is up after {seconds:.1f} s, source: [bold]{settings.source}[/bold]\n"
            f"  API docs       {run.http_url}/docs\n"
            f"  Ray dashboard  {run.dashboard_url}\n\n"
            f"$ {curl}\n{json.dumps(answer, indent=2)}\n\nCtrl-C stops it."
        )
        fields = {"ready": True, "seconds": seconds, "answer": answer}
        steps.say(text, fields | {"http_url": run.http_url, "dashboard_url": run.dashboard_url})
        run.watch()
    except KeyboardInterrupt:
        steps.say("\nStopping.", {"stopping": True})
    finally:
        # Once is enough: a second Ctrl-C must not leave half of it running.
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        run.stop()


@app.command()
def down(as_json: JsonFlag = False) -> None:
    """Stop what `up` started from this state folder, and nothing else."""
    from levibot.launch.run_record import (
        ask_to_end,
        end_processes,
        forget_record,
        processes_of,
        read_record,
    )
    from levibot.stores.embedded import EmbeddedServers

    settings = _settings()
    record = read_record(settings.home)
    if record is None:
        # A command that was killed before it had a run to note may have left its stores.
        left = EmbeddedServers(settings).end_leftovers()
        if not left:
            raise ProcessError(f"Nothing runs from {settings.home}.", hint=START)
        text = f"No run was noted; stopped what was left of the stores: {', '.join(left)}."
        _print(as_json, {"stopped": None, "stores": left}, text)
        return
    launcher = record.launcher
    if launcher is not None:
        ask_to_end(launcher)
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        while record.launcher is not None:
            if time.monotonic() > deadline:
                raise ProcessError(f"Process {record.pid} has not ended within {DOWN_TIMEOUT_S:.0f} s.")
            time.sleep(0.1)
    else:
        # Its launcher was killed: what it left is told by the run's identity.
        end_processes(processes_of(record.run_id))
        EmbeddedServers(settings).end_leftovers()
        forget_record(settings.home)
    _print(as_json, {"stopped": record.pid}, f"Stopped the run of process {record.pid}.")


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """Say whether a run is up, what it serves and how fresh it is. Exit code 1 when it is not ready."""
    from levibot.launch.run_record import read_record
    from levibot.serving import client

    settings = _settings()
    record = read_record(settings.home)
    if record is None or record.launcher is None:
        raise NotReady(f"Nothing runs from {settings.home}.", hint=START)
    state = {
        "pid": record.pid,
        "http_url": record.http_url,
        "dashboard_url": record.dashboard_url,
        "source": record.source,
        **client.readiness(record.http_url),
    }
    lines = [f"{name:15} {value}" for name, value in state.items()]
    _print(as_json, state, "\n".join(lines))
    if not state["ready"]:
        raise typer.Exit(1)


@app.command()
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

    settings = _settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    market = open_source(settings)
    as_of = _aware(until) or market.extent()[1] or datetime.now(UTC)
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

    _end_in_order()
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
    _print(as_json, result, f"{done.n_new:,} new bars of {settings.market_id}, {reach}.")


@app.command()
def predict(
    symbol: Annotated[str, typer.Argument(help="like BTCUSDT")],
    url: Annotated[str | None, typer.Option(help="the API (default: the run of this state folder)")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the running system for the signal of a symbol."""
    from levibot.launch.run_record import read_record
    from levibot.serving import client

    settings = _settings()
    record = read_record(settings.home)
    base = url or (record.http_url if record else f"http://{settings.http_host}:{settings.http_port}")
    body = client.predict(base, symbol.upper())
    _print(as_json, body, "\n".join(f"{name:16} {value}" for name, value in body.items()))


@app.command()
def backtest(
    train_start: Annotated[datetime, typer.Option(help="first bar that training sees, UTC")],
    test_start: Annotated[datetime, typer.Option(help="first bar of the test period, UTC")],
    test_end: Annotated[datetime, typer.Option(help="last day of the test period, UTC")],
    source: SourceOption = None,
    path: PathOption = None,
    symbols: SymbolsOption = None,
    edge: EdgeOption = None,
    seed: SeedOption = None,
    cost_bps: Annotated[
        float,
        typer.Option(min=0.0, max=500.0, help="fee and slippage together, a side"),
    ] = 10.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the report here ('-' for standard output)")
    ] = None,
) -> None:
    """Walk a strategy forward over a test period that it never sees early, net of costs."""
    from levibot.launch.steps import ConsoleSteps
    from levibot.learning.walk_forward import end_of_day
    from levibot.market.sources import open_source
    from levibot.trading import report_file
    from levibot.trading.costs import Costs
    from levibot.trading.report import run_backtest

    settings = _settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        report_file.check_place(json_file)
    with ConsoleSteps(Console(stderr=True)).step("Backtest") as at:
        report = run_backtest(
            open_source(settings),
            settings.symbols,
            train_start=_utc(train_start),
            test_start=_utc(test_start),
            test_end=end_of_day(_utc(test_end)),
            seed=settings.seed,
            costs=Costs().with_total(cost_bps),
            progress=lambda done, total, what: at(f"{done}/{total} {what}"),
        )
    record = report.to_json()
    text = json.dumps(record, indent=2, allow_nan=False)
    if to_stdout:
        sys.stdout.write(text + "\n")
        return
    if json_file is not None:
        report_file.write_report(json_file, text + "\n")
    console.print(report_file.table(record, is_terminal=console.is_terminal), crop=False)


def _settings(**options: Any) -> Settings:
    settings = Settings.load(**{name: value for name, value in options.items() if value is not None})
    if options.get("market") is not None and "source" not in settings.model_fields_set:
        raise UsageError(
            f"--path names the recorded market {settings.market}, but the source is {settings.source}.",
            hint="Say which one is meant: --source parquet or --source simulated.",
        )
    # The command's own words are its output; the logs are those of the processes it starts.
    configure_logging("ERROR", "cli")
    return settings


def _utc(instant: datetime) -> datetime:
    if instant.year not in YEARS:
        raise UsageError(f"{instant.isoformat()} lies outside the years {YEARS[0]} to {YEARS[-1]}.")
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _aware(instant: datetime | None) -> datetime | None:
    return None if instant is None else _utc(instant)


def _print(as_json: bool, record: dict[str, Any], text: str) -> None:
    if as_json:
        console.out(json.dumps(record), highlight=False)
    else:
        # Not `print`: a path may hold what reads as markup.
        console.out(text, highlight=False)


def _end_in_order() -> None:
    """Let the signals that end a process end it like Ctrl-C: with what it started."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _version(show: bool) -> None:
    if show:
        console.print(f"levibot {__version__}", highlight=False)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has answered it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Trading signals with honest time."""
    if context.invoked_subcommand is None:
        console.out(context.get_help(), highlight=False)


def main() -> None:
    """Run the command line; an error is one line and an exit code."""
    try:
        code = app(standalone_mode=False)
    except LeviBotError as exc:
        _fail(exc)
    except TyperException as exc:
        _fail(UsageError(" ".join(exc.format_message().split()).rstrip(".") + ".", hint="See --help."))
    except OSError as exc:
        # A full disk, a state folder that may not be written to.
        hint = "Make room or give leave there, or set LEVIBOT_HOME to another folder."
        _fail(LeviBotError(f"{exc.filename or 'The system'}: {exc.strerror or exc}.", hint=hint))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(exc: LeviBotError) -> NoReturn:
    if any(argument.split("=")[0] == "--json" for argument in sys.argv[1:]):
        error = {"error": {"code": exc.code, "message": exc.message, "hint": exc.hint}}
        console.out(json.dumps(error), highlight=False)
    sys.stderr.write(f"levibot: {exc}\n")
    raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc
