"""`backtest`: a strategy over years that it never sees early."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from levibot.learning.selection.selection import Selection
    from levibot.learning.walk_forward_opinions import Walk
    from levibot.settings import Settings

# In the state folder: the features and labels of the markets that were backtested last.
HISTORIES = "backtests"
NO_SELECTION = "none"


def backtest_by(walk_of: Callable[[], Walk | None]) -> Callable[..., None]:
    """The command, with the fits done by what `walk_of` gives; in this process where that is None."""

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
        impact_bps: Annotated[
            float,
            typer.Option(
                min=0.0, max=1000.0, help="of an order of 1 % of a bar's volume at 1 % volatility a bar"
            ),
        ] = 0.0,
        latency_bars: Annotated[int, typer.Option(min=0, help="bars later than the next one that fills")] = 0,
        funding: Annotated[
            str, typer.Option(help="who pays and gets the contracts' funding: none, shorts or all")
        ] = "none",
        capital: Annotated[
            float, typer.Option(help="at the start, in quote currency; matters to impact and --max-notional")
        ] = 1_000_000.0,
        max_leverage: Annotated[
            float | None, typer.Option(help="positions over equity that orders may reach")
        ] = None,
        max_notional: Annotated[float | None, typer.Option(help="of one position, in quote currency")] = None,
        sides: Annotated[
            str, typer.Option(help="long-short, long-flat (no shorts) or long-only (always in the market)")
        ] = "long-short",
        refit: Annotated[str, typer.Option(help="monthly, quarterly, yearly or never")] = "quarterly",
        rolling_days: Annotated[
            int | None, typer.Option(min=1, help="learn from so many days at most (default: from all)")
        ] = None,
        target: Annotated[
            str, typer.Option(help="what is learned: forward_return or triple_barrier")
        ] = "forward_return",
        weighting: Annotated[
            str, typer.Option(help="of the rows that teach: equal, or uniqueness of their labels")
        ] = "equal",
        selection: Annotated[
            str,
            typer.Option(help="a file of `tune.select_features`; reported beside the same without it"),
        ] = NO_SELECTION,
        json_file: Annotated[
            Path | None, typer.Option("--json", help="write the report here ('-' for standard output)")
        ] = None,
        html_file: Annotated[
            Path | None, typer.Option("--html", help="write the report here as one page with its plots")
        ] = None,
    ) -> None:
        """Walk a strategy forward over a test period that it never sees early, net of costs."""
        from dataclasses import replace

        from levibot.clock import SystemClock
        from levibot.errors import DataError
        from levibot.features.views import CORE, view
        from levibot.launch.commit import current_commit
        from levibot.launch.steps import ConsoleSteps
        from levibot.learning.evidence.book import TrialBook
        from levibot.learning.training import SIGNAL, TRAINING
        from levibot.learning.walk_forward import end_of_day
        from levibot.market.sources import open_source
        from levibot.stores.connect import open_trial_journal
        from levibot.stores.frozen_history import FrozenHistories
        from levibot.trading import report_file
        from levibot.trading.audit import is_suspicious
        from levibot.trading.audited import run_audit
        from levibot.trading.conditions import Conditions
        from levibot.trading.costs import Costs
        from levibot.trading.report import run_backtest
        from levibot.trading.report_page import page
        from levibot.trading.terms import Terms

        settings = load_settings(source=source, market=path, symbols=symbols, edge=edge, seed=seed)
        to_stdout = json_file is not None and str(json_file) == "-"
        if json_file is not None and not to_stdout:
            report_file.check_place(json_file)
        if html_file is not None:
            report_file.check_place(html_file)
        clock = SystemClock()
        trials = TrialBook(
            open_trial_journal(settings), settings.market_id, clock, git_commit=current_commit()
        )
        to_people = Console(stderr=True, soft_wrap=True)
        source_of_bars, steps = open_source(settings), ConsoleSteps(to_people)
        chosen = _selection(selection, settings)
        what: dict[str, Any] = {
            "train_start": as_utc(train_start),
            "test_start": as_utc(test_start),
            "test_end": end_of_day(as_utc(test_end)),
            "seed": settings.seed,
            "trials": trials,
            "conditions": Conditions(
                replace(Costs().with_total(cost_bps), impact_bps=impact_bps),
                _given(Terms(funded=funding), max_leverage=max_leverage, max_notional=max_notional),  # type: ignore[arg-type]
                latency_bars,
                capital,
            ),
            "refit": refit,
            "rolling": None if rolling_days is None else timedelta(days=rolling_days),
            "view": CORE if chosen is None else view(chosen.view),
            "signal": replace(SIGNAL, sides=sides),  # type: ignore[arg-type]
            "training": replace(TRAINING, target=target, weighting=weighting),  # type: ignore[arg-type]
            "selection": chosen,
        }
        walk = walk_of()
        with steps.step("Backtest") as at:
            report = run_backtest(
                source_of_bars,
                settings.symbols,
                **what,
                histories=FrozenHistories(settings.home / HISTORIES, say=to_people.print),
                progress=lambda done, total, said: at(f"{done}/{total} {said}"),
                walk=walk,
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

    return backtest


backtest = backtest_by(lambda: None)


def _selection(named: str, settings: Settings) -> Selection | None:
    """What the option names. Raises DataError where it is no selection, or of another market."""
    from levibot.errors import DataError
    from levibot.learning.selection.selection import Selection

    if named == NO_SELECTION:
        return None
    chosen = Selection.read(Path(named))
    if chosen.market_id != settings.market_id:
        raise DataError(
            f"The selection {named} is of the market {chosen.market_id}, not of {settings.market_id}.",
            hint="Select again, or name the market it is of.",
        )
    return chosen


def _given(terms: Any, **limits: float | None) -> Any:
    """The terms with the limits that were named."""
    from dataclasses import replace

    return replace(terms, **{name: limit for name, limit in limits.items() if limit is not None})
