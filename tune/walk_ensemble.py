"""Let a model's members trade its past: `ray job submit --working-dir . -- python -m tune.walk_ensemble`.

Its router learns from that. Where the market has no live days yet the weights begin there too, otherwise they
go on from where they are.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import ray
import structlog
import typer

from levibot.errors import LeviBotError, NotReady, UsageError
from levibot.features.views import CORE
from levibot.learning.ensemble_seed import EnsembleSeed, publish_seed, read_seed
from levibot.learning.past import ComputedPast, Knowledge
from levibot.learning.signal import SignalParameters
from levibot.learning.training import TrainingParameters
from levibot.learning.walk_forward import Split, walk_forward
from levibot.settings import Settings
from levibot.stores.connect import open_ensembles, open_registry
from levibot.telemetry.logging import configure_logging
from levibot.trading.costs import Costs
from levibot.trading.ensemble_walk import walk_ensemble
from tune.train import read_data

log = structlog.get_logger()


@ray.remote(num_cpus=0.5, max_retries=2)
def walk(known: Knowledge, splits: tuple[Split, ...], metadata: dict[str, Any], level: str) -> EnsembleSeed:
    """The walk on a worker of the cluster, with the model's own parameters and seed."""
    configure_logging(level, "walk")
    signal = SignalParameters.from_json(metadata["parameters"])
    return walk_ensemble(
        ComputedPast(known.panel, CORE, signal.horizons_bars, known.features),
        splits,
        seed=int(metadata["seed"]),
        costs=Costs(),
        signal=signal,
        training=TrainingParameters.from_json(metadata["training"]),
        progress=lambda done, total, what: log.info("walking", done=done, total=total, step=what),
    )


def run(settings: Settings, days: int, version: str | None = None, export: Path | None = None) -> str:
    """Walk through the last `days` before a version's training ended; returns the version.

    version: the one that serves where none is named. One that has a beginning already keeps it.
    """
    registry, ensembles = open_registry(settings), open_ensembles(settings)
    chosen = version or registry.active()
    if chosen is None:
        raise NotReady("There is no model whose members could walk.", hint="Train one with tune.train.")
    if read_seed(ensembles, chosen) is not None:
        log.info("this model's ensemble has its beginning already", version=chosen)
        return chosen
    metadata = dict(registry.metadata(chosen))
    if metadata["view_version"] != CORE.version or metadata.get("selection"):
        raise UsageError(
            f"Version {chosen} reads view {metadata['view_version']}, or a selection of it: only the whole "
            f"of {CORE.version} is walked."
        )
    train_start, end = (datetime.fromisoformat(metadata[name]) for name in ("train_start", "train_end"))
    splits = walk_forward(train_start, end - timedelta(days=days), end)
    ray.init(address="auto", logging_level="WARNING")
    known = read_data(settings, end, export).known
    seed: EnsembleSeed = ray.get(walk.remote(known, splits, metadata, settings.log_level))
    publish_seed(ensembles, chosen, seed)
    log.info(
        "the walk is published",
        version=chosen,
        as_of=str(seed.weights.as_of),
        router_abstains=seed.router.abstains,
    )
    return chosen


def main(
    days: Annotated[int, typer.Option(min=30, help="How far back the walk begins.")] = 365,
    version: Annotated[str | None, typer.Option(help="Whose members (default: those that serve).")] = None,
    export: Annotated[Path | None, typer.Option(help="Walk on this export of the feature history.")] = None,
) -> None:
    """Let the members of a model trade its past, a quarter at a time, and keep the weights that follow."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "walk")
        run(settings, days, version, export)
    except LeviBotError as exc:
        sys.stderr.write(f"walk_ensemble: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
