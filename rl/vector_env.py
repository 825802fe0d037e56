"""Many accounts on one market, stepped in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from levibot.errors import UsageError
from levibot.market.bars import FloatArray
from levibot.market.sources import Source
from levibot.settings import Settings
from rl.account_kernel import advance_all, before_their_first_episode, begin_all
from rl.game import Game
from rl.scaling import Float32Array, Scaling
from rl.spaces import action_space, observation_names, observation_space, read_actions
from rl.traded_market import TradedMarket
from rl.trading_env import DEFAULT_GAME

AnyArray = npt.NDArray[Any]


class TradingVectorEnv(VectorEnv[Float32Array, AnyArray, AnyArray]):
    """N accounts of `TradingEnv`, step for step equal to N of them, over shared read-only rows.

    Account i trades symbol i modulo their number, each in episodes of its own. A seed s is s + i for account
    i, as in gymnasium's own vectorisation. An account whose episode is over begins the next one at the next
    step (NEXT_STEP): that step's action is not used, its reward is 0.
    Spaces, rewards and arguments are those of `TradingEnv`; infos are empty, `equity` has the accounts.
    copy: whether observations, rewards and ends are copies. Without it they are the environment's own
        buffers, which the next call overwrites, and a step allocates nothing.
    Raises as `TradingEnv` does, and UsageError without any account.
    """

    # gymnasium declares it so.
    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        symbols: Sequence[str],
        start: str | datetime,
        end: str | datetime,
        *,
        source: Source | Settings,
        view: str = "core",
        features: Sequence[str] | None = None,
        scaling: Scaling | None = None,
        game: Game = DEFAULT_GAME,
        copy: bool = True,
    ) -> None:
        market = TradedMarket.load(source, symbols, start, end, view=view, features=features, scaling=scaling)
        self._open(market, num_envs, game, copy)

    @classmethod
    def over(
        cls, market: TradedMarket, num_envs: int, game: Game = DEFAULT_GAME, *, copy: bool = True
    ) -> Self:
        """Accounts on a market that is loaded already."""
        envs = cls.__new__(cls)
        envs._open(market, num_envs, game, copy)
        return envs

    def _open(self, market: TradedMarket, num_envs: int, game: Game, copy: bool) -> None:
        if num_envs < 1:
            raise UsageError(f"{num_envs} accounts are asked for; there must be at least 1.")
        market.check_length(game.episode.length_bars)
        self.market = market
        self.game = game
        self.num_envs = num_envs
        self.observation_names = observation_names(market)
        self.single_observation_space = observation_space(market)
        self.single_action_space = action_space(game.actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._columns = market.columns(game)
        self._play = game.play(market.scaling.bar_volatility)
        self._accounts = before_their_first_episode(np.arange(num_envs) % len(market.symbols))
        self._copies = copy
        self._is_seeded = False
        self._targets = np.zeros(num_envs)
        self._seen = np.zeros((num_envs, len(self.observation_names)), dtype=np.float32)
        self._rewards = np.zeros(num_envs)
        self._bankrupt = np.zeros(num_envs, dtype=np.bool_)
        self._at_end = np.zeros(num_envs, dtype=np.bool_)

    @property
    def equity(self) -> FloatArray:
        """(N,) each account's equity now, in quote currency: a copy."""
        return self._accounts["equity"].copy()

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode in every account. seed: one, or one an account; `options` are not read."""
        super().reset(seed=seed if isinstance(seed, int) else None, options=options)
        state = self._accounts["random_state"]
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
            if len(seeds) != self.num_envs:
                raise UsageError(f"{len(seeds)} seeds are given for {self.num_envs} accounts.")
            for i, one in enumerate(seeds):
                state[i] = seeding.np_random(one)[0].integers(0, 2**64, dtype=np.uint64)
        elif not self._is_seeded:
            state[:] = self.np_random.integers(0, 2**64, size=self.num_envs, dtype=np.uint64)
        self._is_seeded = True
        begin_all(self._columns, self._accounts, self._play, self._seen)
        return self._given(self._seen), {}

    def step(self, actions: AnyArray) -> tuple[Float32Array, AnyArray, AnyArray, AnyArray, dict[str, Any]]:
        """One decision of every account. Raises UsageError before the first reset."""
        if not self._is_seeded:
            raise UsageError("No episode has begun.", hint="Call reset first.")
        read_actions(self.game.actions, actions, self._targets)
        advance_all(
            self._targets,
            self._columns,
            self._accounts,
            self._play,
            self._seen,
            self._rewards,
            self._bankrupt,
            self._at_end,
        )
        ends = self._given(self._rewards), self._given(self._bankrupt), self._given(self._at_end)
        return self._given(self._seen), *ends, {}

    def _given(self, array: AnyArray) -> AnyArray:
        return array.copy() if self._copies else array
