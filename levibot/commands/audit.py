"""`audit`: does a backtest know what it cannot know."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from levibot.commands.shared import (
    EdgeOption,
    JsonFlag,
    PathOption,
    SeedOption,
    SourceOption,
    SymbolsOption,
    as_utc,
    console,
    load_settings,
)

if TYPE_CHECKING:
    from levibot.trading.audit import Audit

EXIT_FAULTY = 1


def audit(
    train_start: Annotated[datetime, typer.Option(help="first bar that training sees, UTC")],
    test_start: Annotated[datetime, typer.Option(help="first bar of the test period, UTC")],
    test_end: Annotated[datetime, typer.Option(help="last day of the test period, UTC")],
    source: SourceOption = None,
    path: PathOption = None,
    symbols: SymbolsOption = None,
    edge: EdgeOption = None,
    seed: SeedOption = None,
    is_full: Annotated[
        bool, typer.Option("--full", help="the controls too: many trainings over the whole period")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Look for leaks: bars to come, warm-up, costs; and with --full labels and markets without an edge."""
    from levibot.clock import SystemClock
    from levibot.launch.commit import current_commit
    from levibot.launch.steps import ConsoleSteps
    from levibot.learning.evidence.book import TrialBook
    from levibot.learning.walk_forward import end_of_day
    from levibot.market.sources import open_source
    from levibot.stores.connect import open_trial_journal
    from levibot.trading.audited import run_audit

    settings = load_settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
    clock = SystemClock()
    trials = TrialBook(open_trial_journal(settings), settings.market_id, clock, git_commit=current_commit())
    with ConsoleSteps(Console(stderr=True, soft_wrap=True)).step("Audit") as at:
        found = run_audit(
            open_source(settings),
            settings.symbols,
            train_start=as_utc(train_start),
            test_start=as_utc(test_start),
            test_end=end_of_day(as_utc(test_end)),
            seed=settings.seed,
            trials=trials,
            clock=clock,
            is_full=is_full,
            say=at,
        )
    if as_json:
        console.out(json.dumps(found.to_json(), allow_nan=False), highlight=False)
    else:
        _show(found)
    if not found.holds:
        raise typer.Exit(EXIT_FAULTY)


def _show(found: Audit) -> None:
    from rich.table import Table

    from levibot.trading.report_file import PIPE_WIDTH

    rows = Table(
        title="Audit: " + ("every limit is kept" if found.holds else "a limit is broken"),
        caption=None if found.is_full else "The controls were not run; --full runs them.",
        width=None if console.is_terminal else PIPE_WIDTH,
    )
    for column in ("check", "what was done", "measured", "limit", "", "seconds"):
        rows.add_column(column, justify="right" if column in {"limit", "seconds"} else "left")
    verdicts = {True: "holds", False: "FAILS", None: "shown"}
    for check in found.checks:
        rows.add_row(
            check.name,
            check.done,
            "\n".join(f"{name}: {value:.3g}" for name, value in check.measured.items()),
            "–" if check.limit is None else f"{check.limit:g}",
            verdicts[check.holds],
            f"{check.took_s:.1f}",
        )
    console.print(rows, crop=False)
