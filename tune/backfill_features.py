"""Compute the history's rows of many bars beside each other: `python -m tune.backfill_features FOLDER`.

The panel is cut into steps along time; `levibot.learning.history.step_rows` is the function of each, as it
is of the hourly load. On one node the steps are computed here, one after the other; `--cluster` hands them to
Ray Data. Each step is one Arrow file, with the same bytes either way. Then the history's actor takes the
files, a write each: what it has already when it is killed, a repeat does not add again.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import ray
import ray.data
import structlog
import typer

from levibot.errors import LeviBotError, UsageError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.history import step_rows
from levibot.learning.signal import SignalParameters
from levibot.market.bars import Panel
from levibot.settings import Settings
from levibot.stores.history_parts import encode
from levibot.stores.segments import write_whole
from levibot.telemetry.logging import configure_logging
from tune.train import read_panel
from tune.training_data import HISTORY, NAMESPACE

STEP_ROWS = 4096
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backfill:
    """What is computed: the rows of a view, and the labels of each horizon, in steps of so many bars."""

    view: FeatureView
    horizons_bars: tuple[int, ...]
    step_rows: int = STEP_ROWS

    def steps(self, panel: Panel) -> list[int]:
        """The first row of each step."""
        return list(range(0, len(panel), self.step_rows))

    def compute(self, panel: Panel, begin: int, folder: Path) -> str:
        """Write the file of one step; returns its SHA-256."""
        end = min(len(panel), begin + self.step_rows)
        data = encode(step_rows(self.view, panel, begin, end, self.horizons_bars))
        write_whole(folder / f"step-{begin:09d}.arrow", data)
        return hashlib.sha256(data).hexdigest()


def run_here(job: Backfill, panel: Panel, folder: Path) -> dict[int, str]:
    """Every step, one after the other; returns the SHA-256 of each file by its first row."""
    return {begin: job.compute(panel, begin, folder) for begin in job.steps(panel)}


def run_on_cluster(job: Backfill, panel: Panel, folder: Path) -> dict[int, str]:
    """Every step as a row of a Ray Data set; the panel is in shared memory once a node.

    folder: one that every node sees. Returns what `run_here` returns.
    """
    shared = ray.put(panel)

    def compute(row: dict[str, Any]) -> dict[str, Any]:
        begin = int(row["begin"])
        return {"begin": begin, "sha256": job.compute(ray.get(shared), begin, folder)}

    steps = ray.data.from_items([{"begin": begin} for begin in job.steps(panel)])
    done = steps.repartition(max(1, len(job.steps(panel)))).map(compute).take_all()
    return {row["begin"]: row["sha256"] for row in sorted(done, key=lambda row: row["begin"])}


def main(
    folder: Annotated[Path, typer.Argument(help="where the files of the steps go; seen by every node")],
    until: Annotated[datetime | None, typer.Option(help="bars finished by then, UTC (default: now)")] = None,
    cluster: Annotated[bool, typer.Option(help="compute on the cluster, not in this process")] = False,
    hand_over: Annotated[bool, typer.Option(help="have the running history take the files")] = True,
    assume_available_at_close: Annotated[
        bool, typer.Option(help="declare each row to have been known when its bar was finished")
    ] = False,
) -> None:
    """Compute the rows of the tick store's whole history, and have the feature history take them."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "backfill")
        as_of = until.replace(tzinfo=until.tzinfo or UTC) if until else settings.clock().now()
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty.", hint="Give a new folder.")
        panel = asyncio.run(read_panel(settings, as_of))
        job = Backfill(CORE, SignalParameters().horizons_bars)
        if cluster or hand_over:
            ray.init(address="auto", logging_level="WARNING")
        done = (run_on_cluster if cluster else run_here)(job, panel, folder)
        log.info("the backfill is computed", steps=len(done), rows=len(panel), folder=str(folder))
        if hand_over:
            actor = ray.get_actor(HISTORY, namespace=NAMESPACE)
            n_rows = ray.get(actor.load_parts.remote(str(folder), assume_available_at_close))
            log.info("the history has the backfill", new_rows=n_rows)
    except LeviBotError as exc:
        sys.stderr.write(f"backfill: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
