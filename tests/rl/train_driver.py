"""A training in a process of its own, which a test kills."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import ray

from levibot.clock import SystemClock
from levibot.learning.evidence.book import TrialBook
from levibot.stores.trial_journal import TrialJournal
from rl.array_ppo import Learning
from rl.exam import Exam
from rl.game import Episode, Game
from rl.planted_market import planted_market
from rl.scaling import Scaling
from rl.traded_market import TradedMarket
from rl.training import Task, train

DRIFT = 0.002


def later_market(scaling: Scaling) -> TradedMarket:
    return planted_market(400, DRIFT, 9)


TASK = Task(
    make=partial(planted_market, 2_000, DRIFT, 1),
    judge=later_market,
    game=Game(episode=Episode(48, random_start=True)),
    learning=Learning(n_accounts=16, n_steps=16, minibatch_size=128, n_epochs=2),
    description={"market": "planted"},
)


def book(folder: Path) -> TrialBook:
    return TrialBook(TrialJournal(folder / "trials.sqlite"), "planted", SystemClock(), kind="rl", run_id="t")


def go_on(folder: Path, n_turns: int, *, n_runners: int = 0, resume: bool = False) -> dict[int, Exam]:
    training = folder / "training"
    return train(
        TASK, training, book(folder), seed=3, n_turns=n_turns, every=1, n_runners=n_runners, resume=resume
    )


if __name__ == "__main__":
    ray.init(address=sys.argv[1], logging_level="WARNING")
    go_on(Path(sys.argv[2]), 100_000)
