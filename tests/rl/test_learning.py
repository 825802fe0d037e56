"""Training finds an edge that is there, and none where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from rl.array_ppo import Learning, ppo_config
from rl.exam import Exam, decisions_of, sit
from rl.game import Episode, Game
from rl.planted_market import planted_market
from rl.reward import Reward
from tests.ray_cluster import own_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]
N_BARS, N_LATER = 20_000, 4_000


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with own_cluster(num_cpus=1, object_store_mb=80):
        yield


def learned(drift: float, game: Game, n_turns: int) -> Exam:
    """On a later stretch of other draws."""
    make = partial(planted_market, N_BARS, drift, 1)
    algorithm = ppo_config(make, make(), game, Learning(), seed=1).build_algo()
    try:
        for _ in range(n_turns):
            algorithm.train()
        return sit(decisions_of(algorithm.get_module(), game), planted_market(N_LATER, drift, 99), game)
    finally:
        algorithm.stop()


def test_a_planted_edge_is_found() -> None:
    """Within 80 % of the net Sharpe ratio of the best policy, which holds the regime's sign."""
    drift, game = 0.001, Game(episode=Episode(168, random_start=True))
    best = sit(lambda seen: np.where(seen[:, 0] > 0.0, 2, 0), planted_market(N_LATER, drift, 99), game)
    assert best.net_sharpe > 3.0
    assert learned(drift, game, 20).net_sharpe > 0.8 * best.net_sharpe


def test_on_a_martingale_with_costs_it_stays_flat() -> None:
    game = Game(reward=Reward(drawdown_penalty=0.3), episode=Episode(168, random_start=True))
    assert learned(0.0, game, 20).held_share == 0.0
