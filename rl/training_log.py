"""What a training says while it goes on: a line, TensorBoard, and Ray's metrics for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.util.metrics import Gauge
from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

log = structlog.get_logger()

# Ray serves them on the node of the driver, with `ray_` before the name.
GAUGES = {
    "turn": ("levibot_training_turn", "Turns of playing and learning that are done."),
    "sampled_steps": (
        "levibot_training_sampled_steps",
        "Decisions that were sampled since the training began.",
    ),
    "steps_per_s": (
        "levibot_training_steps_per_second",
        "Decisions sampled and learned a second, last turn.",
    ),
    "episode_return": ("levibot_training_episode_return", "Mean reward of the episodes that ended last."),
    "entropy": ("levibot_training_entropy", "Of the policy's actions, in nats."),
    "explained_variance": (
        "levibot_training_explained_variance",
        "Share of the returns that the value foresees.",
    ),
}


def told(result: Mapping[str, Any], took_s: float) -> dict[str, float]:
    """What is worth telling of a turn; what was not measured in it is left out."""
    played, learned = result["env_runners"], result["learners"][DEFAULT_MODULE_ID]
    numbers = {
        "turn": result["training_iteration"],
        "sampled_steps": played["num_env_steps_sampled_lifetime"],
        "steps_per_s": played["num_env_steps_sampled"] / took_s,
        "episode_return": played.get("episode_return_mean", math.nan),
        "episode_length": played.get("episode_len_mean", math.nan),
        "entropy": learned["entropy"],
        "policy_loss": learned["policy_loss"],
        "value_loss": learned["vf_loss"],
        "explained_variance": learned["vf_explained_var"],
        "healthy_runners": result.get("fault_tolerance", {}).get("num_healthy_workers", 0),
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(float(value))}


class TrainingLog:
    """Where the turns of one training are told. State: the open event file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._board = SummaryWriter(logdir=str(folder), flush_secs=10)
        self._gauges = {
            key: Gauge(metric, text, tag_keys=("training",)) for key, (metric, text) in GAUGES.items()
        }
        self._tags = {"training": name}

    def turn(self, numbers: Mapping[str, float]) -> None:
        """A turn is done."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, int(numbers["turn"]))
            if name in self._gauges:
                self._gauges[name].set(value, tags=self._tags)
        log.info("turn", **{name: round(value, 5) for name, value in numbers.items()})

    def exam(self, turn: int, numbers: Mapping[str, float]) -> None:
        """A checkpoint was judged."""
        for name, value in numbers.items():
            self._board.add_scalar(f"judged/{name}", value, turn)
        log.info("judged", turn=turn, **{name: round(value, 4) for name, value in numbers.items()})

    def close(self) -> None:
        """Write what is not written yet."""
        self._board.close()
