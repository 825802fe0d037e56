"""What tuning and selection are worth: `python -m benchmarks.ablation --test-start … --parameters FILE`.

The same backtest with one thing changed at a time, on the market that the settings name, each beside the one
without it over the same days. Every run is counted in the ledger of the state folder, and a look at the
hold-out as such. The exit code says nothing: what comes out is a figure, not a promise.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from benchmarks.comparison import versions
from levibot.clock import SystemClock
from levibot.errors import LeviBotError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.features.views import view as view_named
from levibot.launch.commit import current_commit
from levibot.learning.evidence.book import TrialBook
from levibot.learning.evidence.paired import sharpe_difference
from levibot.learning.models.model import Kind
from levibot.learning.search.parameters_file import FoundParameters
from levibot.learning.search.space import Candidate
from levibot.learning.selection.selection import Selection
from levibot.learning.training import TRAINING
from levibot.learning.walk_forward import Refit, end_of_day
from levibot.market.sources import open_source
from levibot.settings import Settings
from levibot.stores.connect import open_trial_journal
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.report import Report, run_backtest

# In the state folder, beside those of the command.
HISTORIES = "backtests"
_TOLD = ("sharpe_net", "sharpe_gross", "sharpe_ci95", "max_drawdown", "turnover_per_day")


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the backtest. against: the arms before it that it is compared with."""

    name: str
    candidate: Candidate
    view: FeatureView = CORE
    selection: Selection | None = None
    against: tuple[str, ...] = ()


def arms_of(kinds: tuple[Kind, ...], parameters: list[Path], selections: list[Path]) -> list[Arm]:
    """The default, and what is changed of it; a selection also stands beside its whole view."""
    default = Candidate(training=replace(TRAINING, kinds=kinds))
    arms = [Arm("default", default)]
    for path in parameters:
        tuned = FoundParameters.read(path).candidate
        own = replace(tuned, training=replace(tuned.training, kinds=kinds))
        arms.append(Arm(f"parameters {path.stem}", own, against=("default",)))
    for path in selections:
        selection = Selection.read(path)
        whole = f"view {selection.view}"
        if whole not in {arm.name for arm in arms}:
            arms.append(Arm(whole, default, view_named(selection.view), against=("default",)))
        name = f"selection {path.stem}"
        arms.append(Arm(name, default, view_named(selection.view), selection, ("default", whole)))
    return arms


def compared(reports: Mapping[str, Report], arm: Arm, seed: int) -> dict[str, Any]:
    """By strategy: what the arm earned, and its Sharpe ratio less that of each arm it stands beside."""
    said: dict[str, Any] = {}
    for name, own in reports[arm.name].strategies.items():
        told = own.to_json()
        said[name] = {key: told[key] for key in _TOLD} | {
            f"gain_over_{other}": asdict(
                sharpe_difference(own.daily_returns, reports[other].strategies[name].daily_returns, seed=seed)
            )
            for other in arm.against
        }
    return said


def main(
    train_start: Annotated[datetime, typer.Option(help="first bar that training sees, UTC")],
    test_start: Annotated[datetime, typer.Option(help="first bar of the test period, UTC")],
    test_end: Annotated[datetime, typer.Option(help="last day of the test period, UTC")],
    parameters: Annotated[list[Path] | None, typer.Option(help="a file of tune.search")] = None,
    selection: Annotated[list[Path] | None, typer.Option(help="a file of tune.select_features")] = None,
    kinds: Annotated[str, typer.Option(help="of models, with commas between")] = "lightgbm",
    refit: Annotated[str, typer.Option(help="monthly, quarterly, yearly or never")] = "quarterly",
) -> None:
    """Run each arm after the other, and print all as one JSON object."""
    try:
        settings = Settings.load()
        arms = arms_of(
            cast("tuple[Kind, ...]", tuple(kinds.split(","))), list(parameters or ()), list(selection or ())
        )
        trials = TrialBook(
            open_trial_journal(settings), settings.market_id, SystemClock(), git_commit=current_commit()
        )
        reports: dict[str, Report] = {}
        record: dict[str, Any] = {"name": "ablation", "load_average": os.getloadavg()[0], "arms": {}}
        for arm in arms:
            _say(arm.name)
            reports[arm.name] = run_backtest(
                open_source(settings),
                settings.symbols,
                train_start=_utc(train_start),
                test_start=_utc(test_start),
                test_end=end_of_day(_utc(test_end)),
                seed=settings.seed,
                trials=trials,
                histories=FrozenHistories(settings.home / HISTORIES, say=_say),
                refit=cast("Refit", refit),
                view=arm.view,
                signal=arm.candidate.signal,
                training=arm.candidate.training,
                selection=arm.selection,
                progress=lambda done, total, what: _say(f"  {done}/{total} {what}"),
            )
            record["arms"][arm.name] = compared(reports, arm, settings.seed)
            _say(json.dumps({arm.name: record["arms"][arm.name]}))
        record |= {"run": reports["default"].run, "versions": versions(("lightgbm",))}
        sys.stdout.write(json.dumps(record) + "\n")
    except LeviBotError as exc:
        sys.stderr.write(f"ablation: {exc}\n")
        raise SystemExit(1) from exc


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=instant.tzinfo or UTC)


if __name__ == "__main__":
    typer.run(main)
