"""`backtest`: a strategy over years that it never sees early."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from levibot.commands.shared import (
    EdgeOption,
    PathOption,
    SeedOption,
    SourceOption,
    SymbolsOption,
    as_utc,
    console,
    load_settings,
)

# In the state folder: the features and labels of the markets that were backtested last.
HISTORIES = "backtests"


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
    from levibot.clock import SystemClock
    from levibot.launch.commit import current_commit
    from levibot.launch.steps import ConsoleSteps
    from levibot.learning.evidence.book import TrialBook
    from levibot.learning.walk_forward import end_of_day
    from levibot.market.sources import open_source
    from levibot.stores.connect import open_trial_journal
    from levibot.stores.frozen_history import FrozenHistories
    from levibot.trading import report_file
    from levibot.trading.costs import Costs
    from levibot.trading.report import run_backtest

    settings = load_settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        report_file.check_place(json_file)
    trials = TrialBook(
        open_trial_journal(settings), settings.market_id, SystemClock(), git_commit=current_commit()
    )
    to_people = Console(stderr=True, soft_wrap=True)
    with ConsoleSteps(to_people).step("Backtest") as at:
        report = run_backtest(
            open_source(settings),
            settings.symbols,
            train_start=as_utc(train_start),
            test_start=as_utc(test_start),
            test_end=end_of_day(as_utc(test_end)),
            seed=settings.seed,
            trials=trials,
            histories=FrozenHistories(settings.home / HISTORIES, say=to_people.print),
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
