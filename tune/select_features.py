"""Select features: `ray job submit --working-dir . -- python -m tune.select_features FILE`.

Every training window is elected on by itself, from what was known at its end: the window that ends now, or
with `--test-start` and `--test-end` the windows of a backtest. Folds vote beside each other on the cluster.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import ray
import structlog
import typer

from levibot.clock import SystemClock
from levibot.errors import LeviBotError, UsageError
from levibot.features.side_data import attach_told
from levibot.features.view import FeatureView
from levibot.features.views import view as view_named
from levibot.launch.commit import current_commit
from levibot.learning.evidence.book import TrialBook
from levibot.learning.past import Knowledge
from levibot.learning.selection.election import Ballot, Mode, SelectionParameters, cast_ballot, elect
from levibot.learning.selection.rows import fold_rows
from levibot.learning.selection.selection import Selection, Window, required_features
from levibot.learning.signal import SignalParameters
from levibot.learning.training import SIGNAL, hash_panel
from levibot.learning.walk_forward import Refit, end_of_day, walk_forward
from levibot.market.bars import Panel, to_datetime
from levibot.market.sources import Source, open_source
from levibot.settings import Settings
from levibot.stores.connect import open_trial_journal
from levibot.stores.embedded import endpoints
from levibot.telemetry.logging import configure_logging
from tune.train import read_panel
from tune.training_data import of_bars

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Vote:
    """One fold of one horizon of one window, [train_start, fit_at]."""

    train_start: datetime
    fit_at: datetime
    horizon_bars: int
    fold: int


def votes_of(
    windows: Sequence[tuple[datetime, datetime]], signal: SignalParameters, parameters: SelectionParameters
) -> list[Vote]:
    """Every vote, window by window."""
    return [
        Vote(train_start, fit_at, horizon_bars, fold)
        for train_start, fit_at in windows
        for horizon_bars in signal.horizons_bars
        for fold in range(parameters.n_splits)
    ]


def cast_vote(known: Knowledge, vote: Vote, parameters: SelectionParameters, seed: int) -> Ballot:
    """The ballot of one vote: it sees what was known when its window ended, and nothing later."""
    (rows,) = fold_rows(
        known.until(vote.fit_at),
        vote.train_start,
        (vote.horizon_bars,),
        n_folds=parameters.n_folds,
        every_bars=parameters.every_bars,
        max_rows=parameters.max_rows,
        n_judged=parameters.n_judged,
        only=vote.fold,
    )
    return cast_ballot(rows, parameters, seed)


# Half a core: on a machine of one core it must fit beside the replicas, or it would wait for ever.
@ray.remote(num_cpus=0.5, max_retries=2)
def cast_on_worker(
    known: Knowledge, vote: Vote, parameters: SelectionParameters, seed: int, level: str
) -> Ballot:
    """Cast a vote where what is known is read from shared memory."""
    configure_logging(level, "select")
    return cast_vote(known, vote, parameters, seed)


def cast_here(
    known: Knowledge, votes: Sequence[Vote], parameters: SelectionParameters, seed: int
) -> Iterator[Ballot]:
    """The ballots in the order of the votes, one after the other in this process."""
    return (cast_vote(known, vote, parameters, seed) for vote in votes)


def cast_on_cluster(
    known: Knowledge, votes: Sequence[Vote], parameters: SelectionParameters, seed: int, level: str
) -> Iterator[Ballot]:
    """What `cast_here` gives, beside each other on the cluster."""
    shared = ray.put(known)
    waiting = [cast_on_worker.remote(shared, vote, parameters, seed, level) for vote in votes]
    for done, ballot in enumerate(waiting, start=1):
        yield ray.get(ballot)
        log.info("selecting", done=done, total=len(votes), step=f"{votes[done - 1].fit_at:%Y-%m-%d}")


def selection_of(
    known: Knowledge,
    windows: Sequence[tuple[datetime, datetime]],
    ballots: Iterator[Ballot],
    *,
    market_id: str,
    signal: SignalParameters,
    parameters: SelectionParameters,
    seed: int,
) -> Selection:
    """Count the ballots of `votes_of`, window by window."""
    n_ballots = len(signal.horizons_bars) * parameters.n_splits
    elected = []
    for train_start, fit_at in windows:
        result = elect(
            known.feature_names,
            [next(ballots) for _ in range(n_ballots)],
            required_features(signal),
            parameters,
        )
        elected.append(
            Window(
                train_start,
                fit_at,
                hash_panel(known.until(fit_at).panel),
                result.features,
                result.shares,
                None if math.isnan(result.stability) else result.stability,
                result.n_ballots,
            )
        )
    return Selection(market_id, known.view, known.view_version, seed, asdict(parameters), tuple(elected))


def read_source(
    source: Source, symbols: tuple[str, ...], view: FeatureView, train_start: datetime, end: datetime
) -> Panel:
    """The bars of a source as a backtest reads them: with what its features warm up on."""
    start = max(source.extent()[0], train_start - view.warmup_bars * source.interval)
    bars = {symbol: source.bars(symbol, start, end) for symbol in symbols}
    return attach_told(Panel.align(bars), source, view)


def main(
    file: Annotated[Path, typer.Argument(help="where the selection goes; seen by this process")],
    view: Annotated[str, typer.Option(help="the features to choose from")] = "full",
    mode: Annotated[str, typer.Option(help="vote: two methods of three; union: any")] = "vote",
    features: Annotated[int, typer.Option(min=11, help="at most so many")] = 50,
    until: Annotated[datetime | None, typer.Option(help="bars finished by then, UTC (default: now)")] = None,
    train_start: Annotated[datetime | None, typer.Option(help="first bar of the windows, UTC")] = None,
    test_start: Annotated[
        datetime | None, typer.Option(help="of a backtest: its windows, of the source's bars")
    ] = None,
    test_end: Annotated[datetime | None, typer.Option(help="last day of the backtest")] = None,
    refit: Annotated[str, typer.Option(help="of the backtest: monthly, quarterly, yearly or never")] = (
        "quarterly"
    ),
    folds: Annotated[int, typer.Option(min=2, help="of each training window")] = 4,
    judged: Annotated[
        int, typer.Option(min=1, help="folds that judge at a time; 2 or more: every combination of them")
    ] = 1,
    cluster: Annotated[bool, typer.Option(help="vote on the cluster, not in this process")] = True,
) -> None:
    """Elect the features that models are trained on, inside each training window only."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "select")
        if mode not in ("vote", "union"):
            raise UsageError(f"The mode is {mode!r}: it must be vote or union.")
        if judged >= folds:
            raise UsageError(f"{judged} of {folds} folds cannot judge: one at least must teach.")
        if (test_start is None) != (test_end is None):
            raise UsageError("The windows of a backtest take --test-start and --test-end.")
        parameters = SelectionParameters(
            mode=cast("Mode", mode), n_features=features, n_folds=folds, n_judged=judged
        )
        chosen_from = view_named(view)
        if test_start is not None and test_end is not None:
            panel, windows = _of_backtest(
                settings,
                chosen_from,
                _utc(train_start) or settings.train_start,
                _aware(test_start),
                end_of_day(_aware(test_end)),
                cast("Refit", refit),
            )
        else:
            endpoints(settings)
            as_of = _utc(until) or settings.clock().now()
            panel = asyncio.run(read_panel(settings, as_of, chosen_from))
            first = _utc(train_start) or settings.train_start or to_datetime(panel.ts[0])
            windows = [(first, to_datetime(panel.closes_at[-1]))]
        known = of_bars(panel, chosen_from).known
        votes = votes_of(windows, SIGNAL, parameters)
        if cluster:
            ray.init(address="auto", logging_level="WARNING")
            ballots = cast_on_cluster(known, votes, parameters, settings.seed, settings.log_level)
        else:
            ballots = cast_here(known, votes, parameters, settings.seed)
        selection = selection_of(
            known,
            windows,
            ballots,
            market_id=settings.market_id,
            signal=SIGNAL,
            parameters=parameters,
            seed=settings.seed,
        )
        selection.write(file)
        newest = selection.windows[-1]
        log.info(
            "features are selected",
            file=str(file),
            windows=len(windows),
            features=len(newest.features),
            stability=newest.stability,
            sha256=selection.sha256,
        )
    except LeviBotError as exc:
        sys.stderr.write(f"select: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


def _of_backtest(
    settings: Settings,
    view: FeatureView,
    train_start: datetime | None,
    test_start: datetime,
    test_end: datetime,
    refit: Refit,
) -> tuple[Panel, list[tuple[datetime, datetime]]]:
    """The bars and the training windows of a backtest. A look at the hold-out is counted first."""
    source = open_source(settings)
    start = train_start or source.extent()[0]
    splits = walk_forward(start, test_start, test_end, refit=refit)
    trials = TrialBook(
        open_trial_journal(settings), settings.market_id, SystemClock(), git_commit=current_commit()
    )
    end = splits[-1].fit_at
    panel = trials.read(
        start, end, lambda: read_source(source, settings.symbols, view, start, end), "selection of features"
    )
    return panel, [(max(split.train_start, to_datetime(panel.ts[0])), split.fit_at) for split in splits]


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else _aware(instant)


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=instant.tzinfo or UTC)


if __name__ == "__main__":
    typer.run(main)
