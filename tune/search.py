"""Search for parameters: `ray job submit --working-dir . -- python -m tune.search --trials 100 --resume`.

Two objectives, net Sharpe ratio and maximum drawdown over folds of the training window, by Ray Tune. Whatever
kills it, the same command with `--resume` goes on: the study has every fact, Tune has the checkpoints.
"""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import ray
import structlog
import typer

from levibot.clock import SystemClock
from levibot.errors import LeviBotError, UsageError
from levibot.features.views import CORE
from levibot.launch.commit import current_commit
from levibot.learning.evidence.book import TrialBook
from levibot.learning.evidence.hold_out import FINAL
from levibot.learning.past import ComputedPast
from levibot.learning.search.kept_models import KeptModels
from levibot.learning.search.rungs import Ladder
from levibot.learning.search.space import SPACES, SpaceName
from levibot.market.bars import to_datetime
from levibot.settings import Settings
from levibot.stores.connect import open_trial_journal
from levibot.stores.embedded import endpoints
from levibot.telemetry.logging import configure_logging
from levibot.trading.costs import Costs
from levibot.trading.rung_score import Exam
from tune import found
from tune.rung_trial import MarketExaminer
from tune.study import Study
from tune.study_run import Running, run_trials
from tune.train import read_data
from tune.training_data import HORIZONS_BARS

# In the state folder. One file for all studies, so that the dashboard shows them side by side.
SEARCHES, STUDIES = "searches", "studies.sqlite"
# In a search's own folder, until it is done.
MODELS = "models"
log = structlog.get_logger()


def study_of(settings: Settings, name: str) -> Study:
    """The study of that name, in the state folder."""
    return Study(settings.home / SEARCHES / STUDIES, name)


def search(
    settings: Settings,
    *,
    name: str,
    space: SpaceName,
    n_trials: int,
    n_folds: int,
    judged_share: float,
    until: datetime,
    deepest_drawdown: float,
    at_once: int,
    resume: bool,
    export: Path | None,
) -> found.Found:
    """Search until the study has `n_trials`, and write what it found into the state folder."""
    study = study_of(settings, name)
    if study.exists() and not resume:
        raise UsageError(
            f"The study {name} is there already.", hint="Go on with `--resume`, or take another name."
        )
    if export is None:
        endpoints(settings)
    ray.init(address="auto", logging_level="WARNING")
    book = TrialBook(
        open_trial_journal(settings),
        settings.market_id,
        SystemClock(),
        kind="search",
        run_id=f"search-{name}",
        git_commit=current_commit(),
    )
    begin = settings.train_start or datetime.min.replace(tzinfo=UTC)
    data = book.read(begin, until, lambda: read_data(settings, until, export), f"search {name}")
    known = data.known
    past = ComputedPast(known.panel, CORE, HORIZONS_BARS, known.features)
    exam = Exam.of(
        past,
        view=CORE.name,
        view_version=CORE.version,
        costs=Costs(),
        seed=settings.seed,
        n_folds=n_folds,
        judged_share=judged_share,
        training=SPACES[space].candidate(SPACES[space].defaults).training,
        train_start=settings.train_start,
    )
    study.make(exam.to_json() | {"market_id": settings.market_id}, SPACES[space], Ladder(n_folds), n_trials)
    log.info(
        "the search begins",
        study=name,
        rows=len(known.panel),
        first_fold=exam.folds[0].test_start.isoformat(),
        until=to_datetime(known.panel.closes_at[-1]).isoformat(),
        **study.counts(),
        **data.metadata,
    )
    folder = settings.home / SEARCHES / name
    run_trials(
        study,
        MarketExaminer(exam, book, KeptModels(folder / MODELS)),
        folder,
        Running(at_once, seed=settings.seed, level=settings.log_level),
    )
    best = found.find(study, deepest_drawdown)
    found.write(study, best, folder)
    shutil.rmtree(folder / MODELS, ignore_errors=True)
    log.info(
        "the search is done",
        **study.counts(),
        front=len(best.front),
        chosen=best.chosen.number,
        parameters=str(folder / found.PARAMETERS),
        **best.chosen.rungs[n_folds].to_json(),
    )
    return best


def main(
    trials: Annotated[int, typer.Option(min=1, help="in all, counting those that are there")] = 100,
    name: Annotated[str, typer.Option(help="of the study (default: the space's)")] = "",
    space: Annotated[SpaceName, typer.Option(help="what is searched")] = "lightgbm",
    folds: Annotated[int, typer.Option(min=2, max=64, help="of a whole judgement")] = 8,
    judged_share: Annotated[float, typer.Option(help="newest part of the window that the folds cover")] = 0.5,
    until: Annotated[
        datetime | None,
        typer.Option(help="search in bars finished by then, UTC (default: now, but before the hold-out)"),
    ] = None,
    deepest_drawdown: Annotated[float, typer.Option(help="of the parameters that are chosen")] = 0.15,
    at_once: Annotated[int, typer.Option(min=1, help="trials that run beside each other")] = 2,
    resume: Annotated[bool, typer.Option(help="go on with the study where it is there")] = False,
    export: Annotated[
        Path | None, typer.Option(help="search in this export (default: a new one of the history)")
    ] = None,
) -> None:
    """Search for the parameters of a signal, with pruning for two objectives."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "search")
        # Whoever searches in the hold-out has to ask for it, and is counted.
        end = min(settings.clock().now(), FINAL.start) if until is None else until
        search(
            settings,
            name=name or space,
            space=space,
            n_trials=trials,
            n_folds=folds,
            judged_share=judged_share,
            until=end.replace(tzinfo=end.tzinfo or UTC),
            deepest_drawdown=deepest_drawdown,
            at_once=at_once,
            resume=resume,
            export=export,
        )
    except LeviBotError as exc:
        sys.stderr.write(f"search: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
