"""What a training can go on from: whole checkpoints or none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModule

from levibot.errors import UsageError

# A checkpoint is whole once it has its name; what a kill left behind still has this one.
DRAFT, NAME = ".draft", "turn-{:06d}"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """One folder a kept turn of a training. It holds pickles of RLlib: read only your own.

    keep: how many of the newest stay; the older ones are deleted once a newer one is whole.
    """

    folder: Path
    keep: int = 3

    def turns(self) -> list[int]:
        """The turns that can be gone on from, the newest last."""
        return sorted(int(path.name.removeprefix("turn-")) for path in self.folder.glob("turn-*"))

    def save(self, turn: int, write: Callable[[Path], Any], best: int | None = None) -> None:
        """Keep a turn, whole or not at all. write: puts it into a folder that is empty. best: stays too."""
        draft = self.folder / DRAFT
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write(draft)
        there = self.place(turn)
        # The same turn again, after a kill between the two: what is there is as good.
        if there.exists():
            shutil.rmtree(draft)
        else:
            draft.rename(there)
        for old in self.turns()[: -self.keep]:
            if old != best:
                shutil.rmtree(self.place(old))

    def place(self, turn: int) -> Path:
        """The folder of a turn."""
        return self.folder / NAME.format(turn)

    def newest(self) -> int:
        """Raises UsageError where there is none."""
        turns = self.turns()
        if not turns:
            raise UsageError(
                f"{self.folder} has no whole checkpoint to go on from.", hint="Begin without `--resume`."
            )
        return turns[-1]


def module_of(checkpoint: Path) -> Any:
    """The policy of a checkpoint of one's own: it holds pickles."""
    there = checkpoint / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / COMPONENT_RL_MODULE
    return RLModule.from_checkpoint(str((there / DEFAULT_MODULE_ID).absolute()))
