"""Trade quarters that no choice has seen: `ray job submit --working-dir . -- python -m rl.walk_ppo`.

A policy is trained on two years, its checkpoint is chosen on the quarter after them, and it trades the next
one. Then all of it moves on by a quarter. Every seed is a walk of its own; none is chosen.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import ray
import typer

from levibot.errors import LeviBotError, UsageError
from levibot.settings import Settings
from levibot.telemetry.logging import configure_logging
from rl.training import TRAININGS, book_of, game_of
from rl.walk import Quarter, quarters, summary, walk


def main(
    first_test: Annotated[str, typer.Option(help="first day of the first test quarter")] = "2021-07-01",
    last_test: Annotated[str, typer.Option(help="last day of the last one")] = "2022-12-31",
    name: Annotated[str, typer.Option(help="of the walk, a folder of the state folder")] = "walk",
    symbols: Annotated[str, typer.Option(help="with commas between (default: all of the market)")] = "",
    actions: Annotated[str, typer.Option(help="discrete or continuous")] = "discrete",
    reward: Annotated[str, typer.Option(help="log_return or differential_sharpe")] = "log_return",
    drawdown_penalty: Annotated[float, typer.Option(min=0.0)] = 0.0,
    seeds: Annotated[int, typer.Option(min=1, help="how many walks, from the market's seed on")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="of playing and learning, for each quarter")] = 100,
    every: Annotated[int, typer.Option(min=1, help="turns from checkpoint to checkpoint")] = 10,
    num_env_runners: Annotated[int, typer.Option(min=0, help="actors that play; 0 plays here")] = 0,
) -> None:
    """Train, choose and trade, a quarter at a time; prints what it earned as JSON."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "walk_ppo")
        game = game_of(actions, reward, drawdown_penalty)
        tests = quarters(first_test, last_test)
        names = tuple(symbols.split(",")) if symbols else settings.symbols
        ray.init(address="auto", logging_level="WARNING")
        book = book_of(settings, f"walk-{name}")
        folder = settings.home / TRAININGS / name

        def walked() -> dict[str, Any]:
            walks: dict[int, list[Quarter]] = {}
            for seed in range(settings.seed, settings.seed + seeds):
                walks[seed] = walk(
                    *(settings, names, tests, game, book, folder),
                    seed=seed,
                    n_turns=turns,
                    every=every,
                    n_runners=num_env_runners,
                )
            return summary(walks, book)

        # Whoever walks through the hold-out is counted.
        found = book.read(tests[0][0].train_start, tests[-1][1].test_end, walked, f"walk {name}")
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    except LeviBotError as exc:
        sys.stderr.write(f"walk_ppo: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
