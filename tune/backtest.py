"""Backtest on a cluster: `ray job submit --working-dir . -- python -m tune.backtest …`, or with `python -m`.

The options and the report are those of `levibot backtest`. Stretches and kinds of models are fitted beside
each other wherever the cluster has room; the numbers are the same to the bit, on any number of nodes whose
processors are alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import ray
import typer
from ray.exceptions import RayTaskError

from levibot.commands.backtest import backtest_by
from levibot.errors import LeviBotError, UsageError
from levibot.learning.members import Opinions
from levibot.learning.past import KnownPast, Past
from levibot.learning.walk_forward_opinions import Piece, Recipe, Walk, opinions_of
from levibot.market.bars import to_datetime


@ray.remote(num_cpus=1, max_retries=2)
def say(past: KnownPast, piece: Piece, recipe: Recipe) -> Opinions:
    """One piece on a worker, where the past is read from shared memory."""
    return opinions_of(past, piece, recipe)


def walk_on_cluster(past: Past, pieces: Sequence[Piece], recipe: Recipe) -> Iterator[Opinions]:
    """What `walk_here` gives: every piece on its own, beside the others.

    The history goes to the cluster once. In one that is frozen for a backtest nothing comes late, so what is
    known at its end says what was known before.
    """
    # Ray gives a worker one thread for its products of matrices. By how many threads share one, its last bit
    # may differ: workers take as many as this process would.
    threads = {"env_vars": {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}}
    shared = ray.put(KnownPast(past.at(to_datetime(past.panel.closes_at[-1]))))
    waiting = [say.options(runtime_env=threads).remote(shared, piece, recipe) for piece in pieces]
    try:
        for piece in waiting:
            yield ray.get(piece)
    except RayTaskError as exc:
        # What the pipeline has to say of its data is said as if it were here.
        if isinstance(exc.cause, LeviBotError):
            raise exc.cause from exc
        raise
    finally:
        for piece in waiting:
            ray.cancel(piece)


def main() -> None:
    """Run the command; an error is one line and an exit code, as `levibot` has them."""

    def cluster() -> Walk:
        ray.init(address="auto", logging_level="WARNING")
        return walk_on_cluster

    try:
        typer.run(backtest_by(cluster))
    except LeviBotError as exc:
        sys.stderr.write(f"backtest: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    main()
