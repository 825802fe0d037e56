"""`backtest`: a strategy over years that it never sees early."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

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
    html_file: Annotated[
        Path | None, typer.Option("--html", help="write the report here as one page with its plots")
    ] = None,
) -> None:
    """Walk a strategy forward over a test period that it never sees early, net of costs."""
    from levibot.clock import SystemClock
    from levibot.errors import DataError
    from levibot.launch.commit import current_commit
    from levibot.launch.steps import ConsoleSteps
    from levibot.learning.evidence.book import TrialBook
    from levibot.learning.walk_forward import end_of_day
    from levibot.market.sources import open_source
    from levibot.stores.connect import open_trial_journal
    from levibot.stores.frozen_history import FrozenHistories
    from levibot.trading import report_file
    from levibot.trading.audit import is_suspicious
    from levibot.trading.audited import run_audit
    from levibot.trading.costs import Costs
    from levibot.trading.report import run_backtest
    from levibot.trading.report_page import page

    settings = load_settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        report_file.check_place(json_file)
    if html_file is not None:
        report_file.check_place(html_file)
    clock = SystemClock()
    trials = TrialBook(open_trial_journal(settings), settings.market_id, clock, git_commit=current_commit())
    to_people = Console(stderr=True, soft_wrap=True)
    source_of_bars, steps = open_source(settings), ConsoleSteps(to_people)
    what: dict[str, Any] = {
        "train_start": as_utc(train_start),
        "test_start": as_utc(test_start),
        "test_end": end_of_day(as_utc(test_end)),
        "seed": settings.seed,
        "trials": trials,
        "costs": Costs().with_total(cost_bps),
    }
    with steps.step("Backtest") as at:
        report = run_backtest(
            source_of_bars,
            settings.symbols,
            **what,
            histories=FrozenHistories(settings.home / HISTORIES, say=to_people.print),
            progress=lambda done, total, said: at(f"{done}/{total} {said}"),
        )
    record = report.to_json()
    record["audit"] = None
    ratios = {name: of.sharpe_net for name, of in report.strategies.items()}
    if is_suspicious(ratios, len(report.ensemble.daily_returns)):
        # A figure that good is a leak until shown otherwise.
        with steps.step("Audit") as at:
            try:
                record["audit"] = run_audit(
                    source_of_bars, settings.symbols, **what, clock=clock, say=at
                ).to_json()
            except DataError as exc:
                # The report is made, and is not lost for an audit that has too little to go on.
                record["audit"] = {"problem": str(exc)}
    if html_file is not None:
        report_file.write_report(html_file, page(record, report.curves()))
    text = json.dumps(record, indent=2, allow_nan=False)
    if to_stdout:
        sys.stdout.write(text + "\n")
        return
    if json_file is not None:
        report_file.write_report(json_file, text + "\n")
    console.print(report_file.table(record, is_terminal=console.is_terminal), crop=False)
