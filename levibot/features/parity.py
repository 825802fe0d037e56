"""Parity: what was served, held against what history gives for the same bars."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from levibot.features.engine import compute
from levibot.features.served import ServedVector
from levibot.features.side_data import attach_stored
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray, Panel, to_datetime64
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import DEFAULT, Metrics

TOLERANCE = 1e-6
# What is nothing but rounding of a zero is no difference.
SMALLEST = 1e-12
# So many rows are rebuilt at once.
STEP_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that history gives differently. None: the value is missing on that side."""

    symbol: str
    event_time: datetime
    feature: str
    served: float | None
    rebuilt: float | None


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared. not_comparable: served vectors by the reason why they were left out."""

    n_vectors: int
    n_values: int
    differences: tuple[Difference, ...]
    not_comparable: Mapping[str, int]


async def check_parity(
    ticks: TickStore,
    served: Sequence[ServedVector],
    *,
    market_id: str,
    symbols: Sequence[str],
    interval: timedelta,
    view: FeatureView,
    metrics: Metrics = DEFAULT,
) -> Parity:
    """Rebuild each vector from the stored bars with the batch engine, and report every difference.

    symbols: of the market, in the order in which it is served: features across symbols read all of them.
    A vector of another market, or of another version of the view, cannot be rebuilt and is counted as such.
    """
    left_out: Counter[str] = Counter()
    comparable = []
    for vector in served:
        if vector.market_id != market_id:
            left_out["of another market"] += 1
        elif (vector.view, vector.view_version) != (view.name, view.version):
            left_out["of another version of the view"] += 1
        else:
            comparable.append(vector)
    n_values = 0
    differences: list[Difference] = []
    for some in _steps(comparable, interval):
        panel = await _read(ticks, market_id, symbols, interval, view, some)
        for vector, row in zip(some, rebuild(view, panel, some), strict=True):
            n_values += len(view.names)
            differences += compare(view, vector, row)
    metrics.feature_parity_checked.inc(n_values)
    metrics.feature_parity_differences.inc(len(differences))
    return Parity(len(comparable), n_values, tuple(differences), dict(left_out))


def rebuild(
    view: FeatureView, panel: Panel | None, served: Sequence[ServedVector]
) -> list[FloatArray | None]:
    """The row of each vector, (F,); None where its bar is not stored. panel: None without any bars."""
    if panel is None:
        return [None] * len(served)
    features = compute(view, panel)
    closes_at = panel.closes_at
    rows: list[FloatArray | None] = []
    for vector in served:
        at = to_datetime64(vector.event_time)
        place = int(np.searchsorted(closes_at, at))
        has_row = place < len(panel) and closes_at[place] == at and vector.symbol in panel.symbols
        row = features[place, panel.symbols.index(vector.symbol)] if has_row else None
        rows.append(row)
    return rows


def compare(view: FeatureView, vector: ServedVector, row: FloatArray | None) -> Iterator[Difference]:
    """What differs by more than TOLERANCE, relative to the larger of both; also what only one side has."""
    values = dict.fromkeys(view.names, math.nan) if row is None else dict(zip(view.names, row, strict=True))
    for name in {**values, **vector.values}:
        served, rebuilt = vector.values.get(name, math.nan), float(values.get(name, math.nan))
        if math.isnan(served) and math.isnan(rebuilt):
            continue
        if not math.isclose(served, rebuilt, rel_tol=TOLERANCE, abs_tol=SMALLEST):
            yield Difference(vector.symbol, vector.event_time, name, _or_none(served), _or_none(rebuilt))


def _steps(served: Sequence[ServedVector], interval: timedelta) -> Iterator[list[ServedVector]]:
    """The vectors by time, as many together as lie within STEP_ROWS."""
    step: list[ServedVector] = []
    for vector in sorted(served, key=lambda v: (v.event_time, v.symbol, v.served_at)):
        if step and vector.event_time - step[0].event_time > STEP_ROWS * interval:
            yield step
            step = []
        step.append(vector)
    if step:
        yield step


async def _read(
    ticks: TickStore,
    market_id: str,
    symbols: Sequence[str],
    interval: timedelta,
    view: FeatureView,
    served: Sequence[ServedVector],
) -> Panel | None:
    """The bars of the vectors, and the warm-up before the first of them, with what was known outside."""
    first, last = served[0].event_time, served[-1].event_time
    before = await ticks.read_tail(market_id, symbols, interval, view.warmup_bars, first)
    bars = {
        symbol: before[symbol].then(await ticks.read_bars(market_id, symbol, interval, first, last))
        for symbol in symbols
    }
    present = {symbol: of for symbol, of in bars.items() if len(of)}
    return await attach_stored(Panel.align(present), ticks, market_id, view) if present else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
