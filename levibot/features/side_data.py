"""Where side series come to a panel: of one view, from the store or from a source, as they were known.

A view whose features read none pays nothing: nothing is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np

from levibot.features.feature import Feature
from levibot.features.view import FeatureView
from levibot.market.bars import Panel, to_datetime
from levibot.market.side_series import COMES_EVERY, LONGEST_AGE, SideSeries, with_side_series
from levibot.market.sources import Source
from levibot.stores.packed import ValueTime
from levibot.stores.ticks import TickStore

# Before the first row of a panel, as far as its oldest observation may lie back.
REACH = max(LONGEST_AGE.values())
_ONE_US = timedelta(microseconds=1)


async def read_side_series(
    ticks: TickStore, market_id: str, view: FeatureView, panel: Panel, *, allows_lag: bool = False
) -> list[SideSeries]:
    """The side series that the view reads, as far as the panel's rows can show them.

    Raises StoreUnavailable and StoreError. allows_lag: a replica may answer.
    """
    if not view.side_series or not len(panel):
        return []
    first, last = to_datetime(panel.closes_at[0]), to_datetime(panel.closes_at[-1])
    return await ticks.observations.read(
        market_id,
        view.side_series,
        panel.symbols,
        first - REACH,
        last,
        every=panel.interval,
        allows_lag=allows_lag,
    )


async def attach_stored(
    panel: Panel, ticks: TickStore, market_id: str, view: FeatureView, *, allows_lag: bool = False
) -> Panel:
    """The panel with the side series that the view reads, as the store knew them at each row's close."""
    return attach(panel, await read_side_series(ticks, market_id, view, panel, allows_lag=allows_lag))


def attach_told(panel: Panel, source: Source, view: FeatureView) -> Panel:
    """As `attach_stored`, of what the market itself tells: for a backtest or a check without a store.

    Raises as `Source.side_series` does.
    """
    if not view.side_series or not len(panel):
        return panel
    first, last = to_datetime(panel.closes_at[0]), to_datetime(panel.closes_at[-1])
    return attach(panel, source.side_series(view.side_series, first - REACH, last + _ONE_US))


def attach(panel: Panel, series: Sequence[SideSeries]) -> Panel:
    """The panel with these series; the panel itself where there are none."""
    return with_side_series(panel, series) if series else panel


def own_times(
    view: FeatureView, panel: Panel, series: Sequence[SideSeries]
) -> dict[str, dict[str, ValueTime]]:
    """By symbol and feature: how old the outside part of the newest row's values is, and how long it lives.

    The oldest observation that goes into a value counts, the shortest life, and of the gaps between two
    observations the shortest. A value that needs what is not known is missing anyway, and has no entry.
    """
    if not series:
        return {}
    close = panel.closes_at[-1:]
    # By series, then by symbol: what is known at the close, and not too old to be used.
    true_at: dict[str, dict[str, np.datetime64]] = {}
    for one in series:
        instant = one.true_at_of(close[0])
        if instant is not None and np.isfinite(one.at(close, LONGEST_AGE[one.name])).all():
            of = true_at.setdefault(one.name, {})
            of |= {symbol: instant for symbol in panel.symbols if one.symbol in (None, symbol)}
    return {
        symbol: {
            feature.name: time
            for feature in view.features
            if (time := _own_time(feature, symbol, true_at)) is not None
        }
        for symbol in panel.symbols
    }


def _own_time(
    feature: Feature, symbol: str, true_at: Mapping[str, Mapping[str, np.datetime64]]
) -> ValueTime | None:
    times = []
    for name in feature.inputs:
        known = true_at.get(name, {})
        if feature.reads_others and known:
            times.append((min(known.values()), LONGEST_AGE[name], COMES_EVERY[name]))
        elif symbol in known:
            times.append((known[symbol], LONGEST_AGE[name], COMES_EVERY[name]))
    if not times:
        return None
    oldest, shortest_life, most_often = map(min, zip(*times, strict=True))
    return ValueTime(to_datetime(oldest), shortest_life, most_often)
