"""What one runner saw in one turn: whole arrays, steps by accounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from levibot.market.bars import FloatArray
from rl.scaling import Float32Array

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """T steps of N accounts, under one set of weights.

    observations: (T + 1, N, D); row t is what was seen before step t, the last row what was seen in the end.
    actions: (T, N) or (T, N, 1), as they were drawn: a position is not yet clipped to its space.
    logits: (T, N, L) the parameters of the distribution that drew them; log_probabilities: (T, N).
    rewards: (T, N). terminated, truncated: (T, N), what step t ended.
    is_decision: (T, N), False where step t only began the next episode: its action was not used.
    episode_returns, episode_lengths: (E,) of the episodes that ended here; their earlier steps are counted.
    """

    observations: Float32Array
    actions: npt.NDArray[Any]
    logits: Float32Array
    log_probabilities: Float32Array
    rewards: Float32Array
    terminated: BoolArray
    truncated: BoolArray
    is_decision: BoolArray
    episode_returns: FloatArray
    episode_lengths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int(np.count_nonzero(self.is_decision))

    def env_steps(self) -> int:
        """Decisions, as RLlib asks for them."""
        return len(self)


@njit(cache=True)
def advantages_of(
    rewards: Float32Array,
    values: Float32Array,
    terminated: BoolArray,
    truncated: BoolArray,
    gamma: float,
    gae_lambda: float,
) -> Float32Array:
    """Generalised advantages (Schulman et al. 2016, eq. 16) of a fragment, step for step.

    rewards, terminated, truncated: (T, N). values: (T + 1, N) of what was seen, the end too.
    Returns (T, N). After a termination nothing follows; after a truncation, and after the fragment's last
    step, the value of what is seen next stands for all that would have followed. What a step that is no
    decision is given means nothing, and nothing flows from it into another: the step before it is an end.
    """
    n_steps, n_accounts = rewards.shape
    advantages = np.empty((n_steps, n_accounts), dtype=np.float32)
    following = np.zeros(n_accounts, dtype=np.float64)
    for t in range(n_steps - 1, -1, -1):
        for i in range(n_accounts):
            # In NEXT_STEP mode the row after an end is still of the episode that ended.
            worth = 0.0 if terminated[t, i] else gamma * values[t + 1, i]
            if terminated[t, i] or truncated[t, i]:
                following[i] = 0.0
            following[i] = rewards[t, i] + worth - values[t, i] + gamma * gae_lambda * following[i]
            advantages[t, i] = following[i]
    return advantages
