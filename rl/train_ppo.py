"""Train a policy: `ray job submit --working-dir . -- python -m rl.train_ppo`, or with `python -m`.

Whatever kills it, the same command with `--resume` goes on from the newest whole checkpoint.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import ray
import typer

from levibot.errors import LeviBotError, UsageError
from levibot.learning.walk_forward import end_of_day
from levibot.settings import Settings
from levibot.telemetry.logging import configure_logging
from rl.traded_market import as_instant
from rl.training import TRAININGS, book_of, game_of, task_of, train

SMOKE_TURNS = 3


def main(
    name: Annotated[str, typer.Option(help="of the training, a folder of the state folder")] = "ppo",
    symbols: Annotated[str, typer.Option(help="with commas between (default: all of the market)")] = "",
    start: Annotated[str, typer.Option(help="first day of the training window")] = "2020-01-01",
    end: Annotated[str, typer.Option(help="last day of the training window")] = "2021-12-31",
    judge_end: Annotated[str, typer.Option(help="last day that checkpoints are judged on")] = "2022-03-31",
    actions: Annotated[str, typer.Option(help="discrete or continuous")] = "discrete",
    reward: Annotated[str, typer.Option(help="log_return or differential_sharpe")] = "log_return",
    drawdown_penalty: Annotated[float, typer.Option(min=0.0)] = 0.0,
    seeds: Annotated[int, typer.Option(min=1, help="how many trainings, from the market's seed on")] = 1,
    turns: Annotated[int, typer.Option(min=1, help="of playing and learning")] = 100,
    every: Annotated[int, typer.Option(min=1, help="turns from checkpoint to checkpoint")] = 10,
    num_env_runners: Annotated[int, typer.Option(min=0, help="actors that play; 0 plays here")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="a few small turns: does it run at all")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the training where it is there")
    ] = False,
) -> None:
    """Train a policy on the market of the settings, with PPO."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "train_ppo")
        begin, until, judged = as_instant(start), end_of_day(as_instant(end)), as_instant(judge_end)
        if not begin < until < end_of_day(judged):
            raise UsageError(f"Nothing is left to judge on between {end} and {judge_end}.")
        names = tuple(symbols.split(",")) if symbols else settings.symbols
        game = game_of(actions, reward, drawdown_penalty)
        task = task_of(settings, names, (begin, until, end_of_day(judged)), game, smoke=smoke)
        ray.init(address="auto", logging_level="WARNING")
        book = book_of(settings, f"train-{name}")
        run = partial(
            train,
            book=book,
            n_turns=SMOKE_TURNS if smoke else turns,
            every=SMOKE_TURNS if smoke else every,
            n_runners=num_env_runners,
            resume=resume,
        )
        for seed in range(settings.seed, settings.seed + seeds):
            folder = settings.home / TRAININGS / name / f"seed-{seed}"
            # Whoever trains in the hold-out is counted.
            book.read(begin, end_of_day(judged), partial(run, task, folder, seed=seed), f"train {name}")
    except LeviBotError as exc:
        sys.stderr.write(f"train_ppo: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
