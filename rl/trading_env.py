"""The market as a gymnasium environment: one account, one symbol."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

import gymnasium
import numpy as np

from levibot.errors import UsageError
from levibot.market.sources import Source
from levibot.settings import Settings
from rl.account_kernel import advance_all, before_their_first_episode, begin_all
from rl.game import Game
from rl.scaling import Float32Array, Scaling
from rl.spaces import action_space, observation_names, observation_space, read_actions
from rl.traded_market import TradedMarket

DEFAULT_GAME = Game()


class TradingEnv(gymnasium.Env[Float32Array, Any]):
    """One account that trades one symbol, bar by bar, at what an order really costs.

    ## Description

    At every close of a bar a policy sees what was known then and says which position it wants, as a fraction
    of equity. The order fills at the next bar's open and equity is marked at that bar's close: fee, slippage,
    impact, funding, limits and the no-trade band are those of the backtest, by the same compiled step
    (`levibot/trading/market_step.py`). A policy replayed in `simulate` has the same equity to the last bit.

    ## Action Space

    `Game.actions`, one target a bar:

    | actions | space | meaning |
    |---|---|---|
    | "discrete" | `Discrete(3)` | 0 short (-1), 1 flat (0), 2 long (+1) |
    | "continuous" | `Box(-1, 1, (1,), float32)` | the position itself |

    ## Observation Space

    `Box(-5, 5, (F + 4,), float32)`, with the 54 features of `core` 58 numbers; `observation_names` has them.

    | number | what | in units of |
    |---|---|---|
    | 0 … F-1 | the features, in the order of the view or of `features` | deviations from the mean [1] |
    | F | `missing_share`: how many features are missing; each stands at 0 | their number |
    | F+1 | `position`: its value at the close | equity |
    | F+2 | `unrealised_return`: of equity, since the open position was opened [2] | deviations [3] |
    | F+3 | `idle`: n / (n + 24), n bars since the last order or the episode's start | |

    [1] over the training window. [2] against equity before the order that opened it; 0 where no position is
    larger than twice the no-trade band. [3] of the market's return over 24 bars of the training window.

    The scaling is a value (`env.market.scaling`): an environment of a later window is given that of the
    training window. Without one it is learned from the environment's own window, which is right for training
    and for nothing else.

    ## Rewards

    `Game.reward`: net log return, or differential Sharpe ratio, either with a penalty on deeper drawdowns.
    See `rl.reward.Reward`. An account that never trades is rewarded with exactly zero.

    ## Starting State

    A flat account with `Game.start_equity`, at the close of the window's first bar or, with
    `Episode.random_start`, of one drawn from the seed.

    ## Episode End

    Terminated when equity is at or below `Episode.ruin_share` of its start. Truncated after
    `Episode.length_bars` decisions, or at the window's last bar.

    ## Information

    `equity` in quote currency, and `row`, the row of `env.market` that was seen.

    ## Arguments

    ```python
    import rl  # enters the name
    env = gymnasium.make("LeviBot/Trading-v0", symbol="BTCUSDT", start="2023-01-01", end="2023-12-31",
                         source=Settings.load(), game=Game(actions="continuous"))
    ```

    symbol: what is traded; features that compare symbols see all of the source. start, end: the bars that
    open from one day to the other, both included. source: an open `Source`, or `Settings` that name one:
    these can be copied and sent, as gymnasium and Ray do with an environment's arguments.
    view, features, scaling: see `TradedMarket.load`. game: the rules. `TradingEnv.over` plays a market that
    is loaded already.
    Raises what `TradedMarket.load` raises, DataError on an episode longer than the window, and UsageError on
    an action outside its space or after the episode's end.

    ## Version History

    * v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it so

    def __init__(
        self,
        symbol: str,
        start: str | datetime,
        end: str | datetime,
        *,
        source: Source | Settings,
        view: str = "core",
        features: Sequence[str] | None = None,
        scaling: Scaling | None = None,
        game: Game = DEFAULT_GAME,
        render_mode: str | None = None,
    ) -> None:
        market = TradedMarket.load(
            source, (symbol,), start, end, view=view, features=features, scaling=scaling
        )
        self.render_mode = render_mode
        self._open(market, symbol, game)

    @classmethod
    def over(cls, market: TradedMarket, symbol: str, game: Game = DEFAULT_GAME) -> Self:
        """An environment on a market that others play too. Raises UsageError on a symbol that it has not."""
        env = cls.__new__(cls)
        env._open(market, symbol, game)
        return env

    def _open(self, market: TradedMarket, symbol: str, game: Game) -> None:
        market.check_length(game.episode.length_bars)
        self.market = market
        self.game = game
        self.symbol = symbol
        self.observation_names = observation_names(market)
        self.observation_space = observation_space(market)
        self.action_space = action_space(game.actions)
        self._columns = market.columns(game)
        self._play = game.play(market.scaling.bar_volatility)
        self._accounts = before_their_first_episode(np.array([market.column(symbol)]))
        self._seen = np.zeros((1, len(self.observation_names)), dtype=np.float32)
        self._target = np.zeros(1)
        self._reward = np.zeros(1)
        self._bankrupt = np.zeros(1, dtype=np.bool_)
        self._at_end = np.zeros(1, dtype=np.bool_)
        self._is_seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode. Without a seed the next one of the same sequence; `options` are not read."""
        super().reset(seed=seed, options=options)
        if seed is not None or not self._is_seeded:
            self._accounts["random_state"] = self.np_random.integers(0, 2**64, dtype=np.uint64)
            self._is_seeded = True
        begin_all(self._columns, self._accounts, self._play, self._seen)
        return self._seen[0].copy(), self._info()

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """One decision, and the bar that follows it."""
        if self._accounts["is_over"][0]:
            raise UsageError("This episode is over, or none has begun.", hint="Call reset first.")
        read_actions(self.game.actions, action, self._target)
        advance_all(
            self._target,
            self._columns,
            self._accounts,
            self._play,
            self._seen,
            self._reward,
            self._bankrupt,
            self._at_end,
        )
        ends = bool(self._bankrupt[0]), bool(self._at_end[0])
        return self._seen[0].copy(), float(self._reward[0]), *ends, self._info()

    def _info(self) -> dict[str, Any]:
        return {"equity": float(self._accounts["equity"][0]), "row": int(self._accounts["row"][0])}
