"""The market of an environment: what is seen and what is paid, row by row, shared by all who play it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError, UnknownSymbol
from levibot.features.engine import compute
from levibot.features.view import FeatureView
from levibot.features.views import view as view_named
from levibot.learning.training import hash_panel
from levibot.learning.walk_forward import end_of_day
from levibot.market.bars import FloatArray, Panel, TimeArray, to_datetime, to_datetime64
from levibot.market.side_series import FUNDING_RATE
from levibot.market.sources import Source, open_source
from levibot.settings import Settings
from levibot.trading.backtest_market import load_panel
from levibot.trading.funding import payments_on_bars
from levibot.trading.liquidity import Liquidity, trailing_liquidity
from levibot.trading.market_step import check_prices
from rl.game import Game
from rl.scaling import Float32Array, Scaling


@dataclass(frozen=True, slots=True, eq=False)
class TradedMarket:
    """Rows of one or more symbols, one symbol after the other, oldest first. All arrays are read-only.

    Rows of symbol s lie at [begins[s], begins[s + 1]); each is a bar of its own, an outage is no row.
    closes_at: (R,) when a row is known, and decided on. known: (R, F + 1) float32, see `Scaling.apply`: what
    was known at that close. fill, mark: (R,) open and close of the row's bar: a decision at the close of row
    r fills at fill[r + 1]. funding_rate: (R,) paid on the row's bar. liquidity: (R,), known before the bar.
    funded: the symbols whose funding rates the source told; the others pay none.
    data_hash: of the bars that it was made of. unscaled: (R, F) the features before they were scaled, where
    `keeps_unscaled` asked for them: an export is judged on these; players do not pay for them.
    """

    symbols: tuple[str, ...]
    interval: timedelta
    begins: npt.NDArray[np.int64]
    closes_at: TimeArray
    known: Float32Array
    fill: FloatArray
    mark: FloatArray
    funding_rate: FloatArray
    liquidity: Liquidity
    funded: tuple[str, ...]
    scaling: Scaling
    data_hash: str
    unscaled: FloatArray | None = None

    @classmethod
    def load(
        cls,
        source: Source | Settings,
        symbols: Sequence[str],
        start: str | datetime,
        end: str | datetime,
        *,
        view: str = "core",
        features: Sequence[str] | None = None,
        scaling: Scaling | None = None,
        keeps_unscaled: bool = False,
    ) -> Self:
        """The bars of a source that open in [start, end), with features warmed up on those before.

        start, end: as in `as_instant`; an end that is given as a day is that day's end. source: settings name
            the market and it is opened here, where it is not the caller's own to share.
        features: names of the view's, in the order of the observation; None takes all of them, or those of
            the scaling. scaling: that of the training window; None learns it from these very rows.
        Features of several symbols are computed over all symbols of the source, as they are when served.
        Raises UsageError on an unknown view or feature, UnknownSymbol, DataError on too few bars, features
        without values, or a scaling of other features or of a time that overlaps; and what the source raises.
        """
        opened = open_source(source) if isinstance(source, Settings) else source
        since, until = as_instant(start), end_of_day(as_instant(end))
        unknown = [symbol for symbol in symbols if symbol not in opened.symbols]
        if unknown or not symbols:
            raise UnknownSymbol(
                f"The market has no symbol {unknown[0]!r}." if unknown else "No symbol is named.",
                hint=f"It has: {', '.join(opened.symbols)}.",
            )
        if not since < until:
            raise DataError(f"A market from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} has no bars.")
        whole = view_named(view)
        if features is None:
            features = whole.names if scaling is None else scaling.names
        chosen = FeatureView(whole.name, tuple(whole.features[whole.index(name)] for name in features))
        if scaling is not None:
            _check_scaling(scaling, whole, chosen, since, until)
        panel = load_panel(opened, opened.symbols, chosen, since, until)
        return cls.of_panel(
            panel,
            compute(chosen, panel),
            symbols,
            since,
            until,
            view=whole,
            names=chosen.names,
            scaling=scaling,
            funding=_funding(opened, panel, symbols),
            keeps_unscaled=keeps_unscaled,
        )

    @classmethod
    def of_panel(
        cls,
        panel: Panel,
        features: FloatArray,
        symbols: Sequence[str],
        since: datetime,
        until: datetime,
        *,
        view: FeatureView,
        names: tuple[str, ...],
        scaling: Scaling | None,
        funding: dict[str, FloatArray],
        keeps_unscaled: bool = False,
    ) -> Self:
        """The rows of some of a panel's symbols that open in [since, until).

        features: (T, S, F) named `names`, those of `view`. funding: (T,) by symbol, paid on each bar.
        Raises DataError as `load` does.
        """
        parts = [_Rows.of(panel, features, symbol, since, until, funding) for symbol in symbols]
        unscaled = np.concatenate([part.features for part in parts])
        if scaling is None:
            scaling = Scaling.fit(
                unscaled,
                np.concatenate([np.diff(np.log(part.mark)) for part in parts]),
                view=view.name,
                view_version=view.version,
                names=names,
                since=since,
                until=until,
            )
        market = cls(
            symbols=tuple(symbols),
            interval=panel.interval,
            begins=np.cumsum([0, *(len(part.mark) for part in parts)], dtype=np.int64),
            closes_at=np.concatenate([part.closes_at for part in parts]),
            known=scaling.apply(unscaled),
            fill=np.concatenate([part.fill for part in parts]),
            mark=np.concatenate([part.mark for part in parts]),
            funding_rate=np.concatenate([part.funding_rate for part in parts]),
            liquidity=Liquidity(
                np.concatenate([part.liquidity.volume[:, 0] for part in parts]),
                np.concatenate([part.liquidity.volatility[:, 0] for part in parts]),
            ),
            funded=tuple(symbol for symbol in symbols if symbol in funding),
            scaling=scaling,
            data_hash=hash_panel(panel),
            unscaled=unscaled if keeps_unscaled else None,
        )
        check_prices("fill", market.fill)
        check_prices("mark", market.mark)
        prices = (market.fill, market.mark, market.funding_rate)
        liquidity = (market.liquidity.volume, market.liquidity.volatility)
        for array in (market.begins, market.closes_at, market.known, *prices, *liquidity):
            array.flags.writeable = False
        return market

    def column(self, symbol: str) -> int:
        """Which of the symbols this is. Raises UnknownSymbol."""
        if symbol not in self.symbols:
            raise UnknownSymbol(
                f"This market has no symbol {symbol!r}.", hint=f"It has: {', '.join(self.symbols)}."
            )
        return self.symbols.index(symbol)

    def columns(self, game: Game) -> Columns:
        """What the kernel reads, with the rates of this game."""
        impact, funding_rate = game.impact(self.liquidity), game.funding(self.funding_rate)
        quotes = np.empty(len(self.mark), dtype=QUOTE)
        quotes["fill"], quotes["mark"] = self.fill, self.mark
        quotes["impact"], quotes["funding_rate"] = impact, funding_rate
        quotes.flags.writeable = False
        return Columns(self.begins, self.known, quotes)

    def check_length(self, length_bars: int | None) -> None:
        """Refuse an episode that a symbol has too few rows for. Raises DataError."""
        rows = np.diff(self.begins)
        shortest = int(rows.argmin())
        needed = (length_bars or 1) + 1
        if rows[shortest] < needed:
            raise DataError(
                f"{self.symbols[shortest]} has {rows[shortest]} bars in this window; an episode of "
                f"{length_bars or 1} decisions needs {needed}."
            )


# What a row's bar fills, marks and charges at: together in memory, because a step reads all four at once.
QUOTE = np.dtype([(name, np.float64) for name in ("fill", "mark", "impact", "funding_rate")])

Quotes = npt.NDArray[np.void]


class Columns(NamedTuple):
    """A `TradedMarket` as the compiled kernel reads it. quotes: (R,) of QUOTE, see `step_alone`."""

    begins: npt.NDArray[np.int64]
    known: Float32Array
    quotes: Quotes


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of one symbol. liquidity: (R, 1); the others as in `TradedMarket`."""

    closes_at: TimeArray
    features: FloatArray
    fill: FloatArray
    mark: FloatArray
    funding_rate: FloatArray
    liquidity: Liquidity

    @classmethod
    def of(
        cls,
        panel: Panel,
        features: FloatArray,
        symbol: str,
        since: datetime,
        until: datetime,
        funding: dict[str, FloatArray],
    ) -> Self:
        column = panel.symbols.index(symbol)
        there = np.flatnonzero(~np.isnan(panel.close[:, column]))
        ts = panel.ts[there]
        first, stop = np.searchsorted(ts, [to_datetime64(since), to_datetime64(until)])
        if stop - first < 2:
            raise DataError(
                f"{symbol} has {stop - first} bars from {since:%Y-%m-%d} to {until:%Y-%m-%d}; one decision "
                "and its outcome need 2."
            )
        alone = Panel(
            (symbol,),
            panel.interval,
            ts,
            *(
                getattr(panel, name)[there][:, [column]]
                for name in ("open", "high", "low", "close", "volume")
            ),
        )
        rows = there[first:stop]
        return cls(
            closes_at=panel.closes_at[rows],
            features=features[rows, column],
            fill=panel.open[rows, column],
            mark=panel.close[rows, column],
            funding_rate=funding[symbol][rows] if symbol in funding else np.zeros(len(rows)),
            # From the bars before the window too: its first row has a past.
            liquidity=trailing_liquidity(alone).rows(slice(first, stop)),
        )


def as_instant(at: str | datetime) -> datetime:
    """An aware instant of an ISO date or instant, in UTC where it has no zone. DataError on another text."""
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError as exc:
            raise DataError(f"{at!r} is no date.", hint="Write it like 2023-01-31.") from exc
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _check_scaling(
    scaling: Scaling, whole: FeatureView, chosen: FeatureView, since: datetime, until: datetime
) -> None:
    learned = (scaling.view, scaling.view_version)
    if learned != (whole.name, whole.version):
        raise DataError(
            f"The scaling is of the features {learned[0]} {learned[1]}; these are {whole.name} "
            f"{whole.version}."
        )
    if scaling.names != chosen.names:
        raise DataError(
            f"The scaling is of {len(scaling.names)} features, and not of these {len(chosen.names)} in their "
            "order."
        )
    scaling.check_window(since, until)


def _funding(source: Source, panel: Panel, symbols: Sequence[str]) -> dict[str, FloatArray]:
    """(T,) by symbol: what its bars pay, of the symbols whose rates the source tells."""
    told = source.side_series(
        [FUNDING_RATE],
        to_datetime(panel.ts[0]),
        to_datetime(panel.closes_at[-1]) + timedelta(microseconds=1),
    )
    return {
        series.symbol: payments_on_bars(series, panel.closes_at, panel.interval)
        for series in told
        if series.symbol is not None and series.symbol in symbols and len(series.value)
    }
