"""Law 3 for what a policy sees: nothing that happens after a close changes what was seen at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import numpy as np
import pytest

from levibot.market.bars import Bars, to_datetime64
from levibot.market.screening import Screened
from levibot.market.side_series import SideSeries
from levibot.market.simulator import SimulatedSource
from levibot.settings import SourceName
from rl.game import Episode, Game
from rl.scaling import Scaling
from rl.traded_market import TradedMarket, as_instant
from rl.vector_env import TradingVectorEnv

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
START, CUT, END = "2020-06-01", as_instant("2020-06-08"), "2020-06-12"
FEATURES = ("return_1", "return_24", "trend_168", "rsi_14", "vol_24", "market_return_24", "signed_volume_24")

Load = Callable[["SimulatedSource | ChangedAfter", Scaling], TradedMarket]


class ChangedAfter:
    """A market whose bars from an instant on are others: dearer, wilder and busier."""

    def __init__(self, market: SimulatedSource, instant: datetime) -> None:
        self._market = market
        self._instant = instant
        self.interval = market.interval
        self.symbols = market.symbols
        self.extent = market.extent

    @property
    def name(self) -> SourceName:
        return self._market.name

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        bars = self._market.bars(symbol, start, end)
        later = bars.ts >= to_datetime64(self._instant)
        wild = 1.2 + 0.1 * np.sin(np.arange(len(bars)) ** 2.0)
        times = np.where(later, wild, 1.0)
        return replace(
            bars,
            open=bars.open * times,
            high=bars.high * times,
            low=bars.low * times,
            close=bars.close * times,
            volume=bars.volume * np.where(later, 3.0, 1.0),
        )

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        return Screened.passed(symbol, self.bars(symbol, start, end))

    def side_series(self, names: Sequence[str], start: datetime, end: datetime) -> list[SideSeries]:
        return self._market.side_series(names, start, end)


def load(source: SimulatedSource | ChangedAfter, scaling: Scaling) -> TradedMarket:
    return TradedMarket.load(source, SYMBOLS, START, END, scaling=scaling)


def one_row_early(source: SimulatedSource | ChangedAfter, scaling: Scaling) -> TradedMarket:
    """The planted leak: each row shows what is known one bar later."""
    market = load(source, scaling)
    return replace(market, known=np.roll(market.known, -1, axis=0))


def scaled_by_its_own_rows(source: SimulatedSource | ChangedAfter, _: Scaling) -> TradedMarket:
    """The planted leak of a careless evaluation: the window that is judged teaches the scaling."""
    return TradedMarket.load(source, SYMBOLS, START, END, features=FEATURES)


def rows_that_know_the_future(load: Load) -> int:
    """How many observations at or before the cut differ when only what comes after it does."""
    market = SimulatedSource(SYMBOLS, HOUR, 5, 0.0)
    scaling = TradedMarket.load(market, SYMBOLS, "2020-05-20", "2020-05-31", features=FEATURES).scaling
    worlds = [load(source, scaling) for source in (market, ChangedAfter(market, CUT))]
    games = [
        TradingVectorEnv.over(world, 2, Game("continuous", episode=Episode(ruin_share=1e-6)))
        for world in worlds
    ]
    seen = [envs.reset(seed=0)[0] for envs in games]
    differing, rng = 0, np.random.default_rng(0)
    closes_at = worlds[0].closes_at[: worlds[0].begins[1]]
    for row in range(int((closes_at <= to_datetime64(CUT)).sum()) - 1):
        differing += int((seen[0] != seen[1]).any())
        said = rng.uniform(-1.0, 1.0, (2, 1)).astype(np.float32)
        seen = [envs.step(said)[0] for envs in games]
        assert closes_at[row + 1] <= to_datetime64(CUT)
    differing += int((seen[0] != seen[1]).any())
    # And the change is seen as soon as it has happened: this test looks at something.
    seen = [envs.step(said)[0] for envs in games]
    assert (seen[0] != seen[1]).any()
    return differing


def test_an_observation_holds_nothing_that_came_after_it() -> None:
    assert rows_that_know_the_future(load) == 0


@pytest.mark.parametrize("leak", [one_row_early, scaled_by_its_own_rows])
def test_a_leak_into_observations_would_be_seen(leak: Load) -> None:
    assert rows_that_know_the_future(partial(leak)) > 0
