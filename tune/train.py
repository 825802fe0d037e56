"""Train, register and activate a model: `ray job submit --working-dir . -- python -m tune.train`."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import ray
import structlog
import typer

from levibot.clock import SystemClock
from levibot.errors import DataError, LeviBotError, UsageError
from levibot.features.side_data import attach_stored
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.features.views import view as view_named
from levibot.launch.commit import current_commit
from levibot.learning.evidence.book import TrialBook
from levibot.learning.onnx_export import export_signal
from levibot.learning.past import Knowledge
from levibot.learning.promotion import Decision, PromotionRule, decide
from levibot.learning.search.parameters_file import FoundParameters
from levibot.learning.search.space import Candidate
from levibot.learning.selection.selection import Selection
from levibot.learning.signal import SignalModel
from levibot.learning.training import SIGNAL, TRAINING, train
from levibot.market.bars import Panel, to_datetime, to_datetime64
from levibot.monitoring.references import TrainingReference, publish_reference
from levibot.settings import Settings
from levibot.stores.connect import open_references, open_registry, open_ticks, open_trial_journal
from levibot.stores.embedded import endpoints
from levibot.telemetry.logging import configure_logging
from levibot.trading.costs import Costs
from tune.registration import Made, Mode, register, rival_of
from tune.training_data import TrainingData, ask_for_export, of_bars, read_export

log = structlog.get_logger()


async def read_panel(settings: Settings, until: datetime, view: FeatureView = CORE) -> Panel:
    """All stored bars of the market that are finished at `until`, and what the view reads beside them.

    Raises DataError when there are none.
    """
    ticks = await open_ticks(settings)
    try:
        bars = {}
        for symbol in settings.symbols:
            stored = await ticks.read_bars(settings.market_id, symbol, settings.interval, allows_lag=True)
            bars[symbol] = stored.closed_by(until)
        if not any(len(b) for b in bars.values()):
            raise DataError(
                f"No bars of {settings.market_id} are stored.",
                hint="Load them with `python -m levibot ingest`.",
            )
        panel = Panel.align(bars)
        return await attach_stored(panel, ticks, settings.market_id, view, allows_lag=True)
    finally:
        await ticks.close()


# Half a core: on a machine of one core it must fit beside the replicas, or it would wait for ever.
@ray.remote(num_cpus=0.5, max_retries=2)
def fit(known: Knowledge, train_start: datetime, candidate: Candidate, seed: int, level: str) -> SignalModel:
    """Train on a worker of the cluster, where what is known is read from shared memory.

    The models come in the form in which they are served: ONNX where that is the same.
    """
    configure_logging(level, "train")
    model = train(
        known,
        seed=seed,
        train_start=train_start,
        signal=candidate.signal,
        training=candidate.training,
        progress=lambda done, total, what: log.info("training", done=done, total=total, step=what),
    )
    first = int(np.searchsorted(known.panel.ts, to_datetime64(train_start)))
    return export_signal(model, known.features[first:], rng=np.random.default_rng(seed))


@ray.remote(num_cpus=0.5, max_retries=2)
def learn_reference(
    known: Knowledge, train_start: datetime, model: SignalModel, level: str
) -> TrainingReference:
    """What the rows that the model was trained on look like."""
    configure_logging(level, "train")
    first = int(np.searchsorted(known.panel.ts, to_datetime64(train_start)))
    return TrainingReference.of(model, known.features[first:])


def read_data(
    settings: Settings, until: datetime, export: Path | None, view: FeatureView = CORE
) -> TrainingData:
    """The export, or the one that the feature history gives, or the bars where there is none.

    The feature history holds the view that is served: what another one needs is computed from the bars.
    """
    folder = export or (ask_for_export(until) if view == CORE else None)
    if folder is None:
        return of_bars(asyncio.run(read_panel(settings, until, view)), view)
    return read_export(folder, view, settings.market_id, until)


def read_parameters(path: Path) -> FoundParameters:
    """What `tune.search` found. Raises DataError where it is no such file, or of another feature view."""
    parameters = FoundParameters.read(path)
    view = (parameters.found_on.get("view"), parameters.found_on.get("view_version"))
    if view != (CORE.name, CORE.version):
        raise DataError(
            f"The parameters {path} were found on the features {view[0]} {view[1]}; there are only "
            f"{CORE.name} {CORE.version} now.",
            hint="Search again.",
        )
    return parameters


def run(
    settings: Settings,
    until: datetime,
    mode: Mode,
    export: Path | None = None,
    parameters: FoundParameters | None = None,
    selection: Selection | None = None,
) -> str:
    """Train on what is known, publish the version, make it live as `mode` says; then learn its reference.

    parameters: of a search; the defaults where there are none. selection: the model reads the features that
    were selected by `until`, and the view they are of. A rehearsal of an earlier instant reads those that
    were selected by then.
    Returns the version.
    """
    view = CORE if selection is None else view_named(selection.view)
    if mode != "publish" and view != CORE:
        raise UsageError(
            f"A model of view {view.name} cannot serve: this run has view {CORE.name} online.",
            hint="Publish it with --no-activate.",
        )
    if export is None:
        # Said before a cluster is looked for: without stores there is nothing to learn from.
        endpoints(settings)
    ray.init(address="auto", logging_level="WARNING")
    data = read_data(settings, until, export, view)
    panel = data.known.panel
    train_start = max(settings.train_start or to_datetime(panel.ts[0]), to_datetime(panel.ts[0]))
    log.info(
        "bars are read",
        rows=len(panel),
        symbols=len(panel.symbols),
        until=data.known.as_of.isoformat(),
        **data.metadata,
    )
    seed, level = settings.seed, settings.log_level
    selected = data.known if selection is None else selection.of(data.known)
    known = ray.put(selected)
    candidate = parameters.candidate if parameters else Candidate(SIGNAL, TRAINING)
    model = ray.get(fit.remote(known, train_start, candidate, seed, level))
    registry = open_registry(settings)
    chosen = {} if selection is None else {"selection": selection.metadata(data.known.as_of)}
    made = Made(
        {
            **model.metadata(),
            "market_id": settings.market_id,
            "source": settings.source,
            "git_commit": current_commit(),
            **data.metadata,
            **(parameters.metadata() if parameters else {}),
            **chosen,
        },
        model.to_files(),
    )

    def refit(cut: Knowledge) -> SignalModel:
        seen = cut if selection is None else selection.of(cut)
        remade: SignalModel = ray.get(fit.remote(ray.put(seen), train_start, candidate, seed, level))
        return remade

    def decided() -> Decision:
        trials = TrialBook(
            open_trial_journal(settings),
            settings.market_id,
            SystemClock(),
            git_commit=made.metadata["git_commit"],
        )
        return decide(
            data.known,
            refit,
            rival_of(registry),
            trials=trials,
            seed=seed,
            costs=Costs(),
            rule=PromotionRule(),
        )

    version = asyncio.run(register(settings, made, mode, decided))
    log.info("model is registered", version=version, mode=mode)
    # Nobody waits for it: the model serves meanwhile, and its watch begins when this is there.
    reference = ray.get(learn_reference.remote(known, train_start, model, level))
    publish_reference(open_references(settings), version, reference)
    log.info("the reference of the model is kept", version=version)
    return version


def main(
    until: Annotated[
        datetime | None, typer.Option(help="Train on bars finished by then, UTC (default: the market's now).")
    ] = None,
    activate: Annotated[bool, typer.Option(help="Make the new version live.")] = True,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it live only where it beats the one that is.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option(help="Learn from this export (default: a new one of the history).")
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option(help="What `tune.search` found (default: the parameters of the code).")
    ] = None,
    selection: Annotated[
        Path | None, typer.Option(help="Read the features of this file of `tune.select_features` alone.")
    ] = None,
) -> None:
    """Train a model on an export of the feature history, register it and make it live."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "train")
        found = None if parameters is None else read_parameters(parameters)
        # The store may hold bars of a recorded market that lie in its future.
        known = until.replace(tzinfo=until.tzinfo or UTC) if until else settings.clock().now()
        mode: Mode = "promote" if promote else "activate" if activate else "publish"
        chosen = None if selection is None else Selection.read(selection)
        run(settings, known, mode, export, found, chosen)
    except LeviBotError as exc:
        sys.stderr.write(f"train: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
