"""The laws of features, as checks that name what breaks them; and how much of the past a value needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from levibot.errors import UsageError
from levibot.features.engine import compute, compute_tail
from levibot.features.inputs import FILL_LIMIT, Inputs
from levibot.features.view import FeatureView
from levibot.market.bars import FIELDS, BoolArray, FloatArray, Panel

# Live and history may differ by this much, relative to the value.
RELATIVE = 1e-6
# Features are of the order of one; a smaller number than this is a zero with rounding.
SMALLEST = 1e-9

Live = Callable[[FeatureView, Panel, int], FloatArray]


@dataclass(frozen=True, slots=True)
class Violation:
    """One law that one feature breaks, and where."""

    law: str
    feature: str
    detail: str

    def __str__(self) -> str:
        return f"{self.feature} breaks the law of {self.law}: {self.detail}."


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. unknown: features that had no value on this market, and so were not tried.

    sensitivity: by feature, see `warmup_sensitivity`.
    """

    violations: tuple[Violation, ...]
    unknown: tuple[str, ...]
    sensitivity: dict[str, float]


def check(view: FeatureView, panel: Panel, seed: int = 0) -> Checked:
    """All the laws on one market, at instants drawn from `seed`.

    Raises UsageError on a panel that is not longer than two warm-ups of the view.
    """
    rng = np.random.default_rng(seed)
    sensitivity = warmup_sensitivity(view, panel)
    cuts = [*rng.integers(view.warmup_bars, len(panel), 4).tolist(), len(panel)]
    violations = [
        *check_one_path(view, panel, cuts, rows=3),
        *check_no_future(view, panel, len(panel) - int(rng.integers(1, 100)), seed=seed),
        *check_own_symbol(view, panel),
        *(
            Violation("finite memory", name, f"a window twice as long moves the last value by {moved:.1e}")
            for name, moved in sensitivity.items()
            if moved > RELATIVE
        ),
    ]
    newest = compute_tail(view, panel, 1)
    unknown = tuple(n for k, n in enumerate(view.names) if not np.isfinite(newest[:, :, k]).any())
    return Checked(tuple(violations), unknown, sensitivity)


def check_one_path(
    view: FeatureView, panel: Panel, cuts: Sequence[int], *, rows: int = 1, live: Live = compute_tail
) -> list[Violation]:
    """Law 2. At each cut, the newest `rows` rows of `live` are those of history, to 1e-6 relative."""
    history = compute(view, panel)
    found: dict[str, Violation] = {}
    for cut in cuts:
        n = min(rows, cut)
        expected, actual = history[cut - n : cut], live(view, panel.rows(slice(0, cut)), n)
        same = np.isclose(actual, expected, rtol=RELATIVE, atol=SMALLEST, equal_nan=True)
        for name, position, where in _broken(view, same):
            detail = (
                f"live gives {actual[where][position]:.9g} and history {expected[where][position]:.9g} "
                f"for {panel.symbols[where[1]]}, {len(panel) - cut} rows before the end"
            )
            found.setdefault(name, Violation("one feature path", name, detail))
    return list(found.values())


def check_no_future(view: FeatureView, panel: Panel, cut: int, *, seed: int = 0) -> list[Violation]:
    """Law 3. The rows before `cut` are bit for bit the same without a future and with another."""
    before = compute(view, panel)[:cut]
    found: dict[str, Violation] = {}
    futures = {
        "no future": panel.rows(slice(0, cut)),
        "another future": another_future(panel, cut, seed, view.side_series),
    }
    for kind, other in futures.items():
        after = compute(view, other)[:cut]
        same = (after == before) | (np.isnan(after) & np.isnan(before))
        for name, _, where in _broken(view, same):
            detail = (
                f"{kind} after row {cut} changes the value of {panel.symbols[where[1]]} "
                f"{cut - where[0]} rows earlier"
            )
            found.setdefault(name, Violation("no future", name, detail))
    return list(found.values())


def check_own_symbol(view: FeatureView, panel: Panel) -> list[Violation]:
    """What does not state `reads_others` has the same values when the symbol has no others."""
    together = Inputs(panel.by_symbol())
    found = []
    for position, feature in enumerate(view.features):
        if feature.reads_others:
            continue
        with_others, history = feature.compute(together), compute(FeatureView("one", (feature,)), panel)
        same = np.isclose(with_others, history[:, :, 0], rtol=RELATIVE, atol=SMALLEST, equal_nan=True)
        if not (same | ~together.has_bar).all():
            detail = f"feature {position + 1} of the view has another value among other symbols than alone"
            found.append(Violation("own symbol", feature.name, detail))
    return found


def warmup_sensitivity(view: FeatureView, panel: Panel) -> dict[str, float]:
    """By feature, how far the newest value moves when its window doubles: the largest relative move.

    The window is the feature's warm-up and FILL_LIMIT. Zero where the feature has no value in either,
    infinity where it has one in only one of them. Raises UsageError on a panel that is not twice as long.
    """
    longest = max(feature.warmup_bars for feature in view.features) + FILL_LIMIT
    if len(panel) < 2 * longest:
        raise UsageError(
            f"Checking view {view.name!r} needs {2 * longest:,} rows of bars; there are {len(panel):,}.",
            hint="Give a longer market.",
        )

    @cache
    def inputs(rows: int) -> Inputs:
        return Inputs(panel.tail(rows).by_symbol())

    moves = {}
    for feature in view.features:
        rows = feature.warmup_bars + FILL_LIMIT
        short, long = (feature.compute(inputs(n))[-1] for n in (rows, 2 * rows))
        has_bar = inputs(rows).has_bar[-1]
        known = np.isfinite(short) & np.isfinite(long) & has_bar
        move = np.abs(short - long)[known] / np.maximum(np.abs(long[known]), SMALLEST)
        # A move within SMALLEST is rounding, however small the value.
        move[np.abs(short - long)[known] <= SMALLEST] = 0.0
        differ = ((np.isfinite(short) != np.isfinite(long)) & has_bar).any()
        moves[feature.name] = float("inf") if differ else float(move.max(initial=0.0))
    return moves


def another_future(panel: Panel, cut: int, seed: int, side_series: Sequence[str] = ()) -> Panel:
    """The same bars before `cut`; later ones multiplied by random factors, and some of them missing.

    The side series of the panel and those named here likewise, and where nothing was known something is: a
    source that was off, or a rate that was zero, tells as much about the future as any other.
    """
    rng = np.random.default_rng(seed)
    later = panel.close[cut:].shape
    price, volume = np.exp(rng.normal(0.0, 1.0, later)), np.exp(rng.normal(0.0, 2.0, later))
    missing = rng.random(later) < 0.1

    def changed(series: FloatArray, factor: FloatArray) -> FloatArray:
        out = series.copy()
        out[cut:] = np.where(missing, np.nan, out[cut:] * factor)
        return out

    def told_otherwise(name: str) -> FloatArray:
        out = panel.extra.get(name, np.full(panel.close.shape, np.nan)).copy()
        said = np.isfinite(out[cut:]) & (out[cut:] != 0.0)
        # Above zero, as a floor price must be, and small enough to be a rate or a tone.
        out[cut:] = np.where(missing, np.nan, np.where(said, out[cut:] * price, 1e-3 * volume))
        return out

    fields = {name: changed(getattr(panel, name), volume if name == "volume" else price) for name in FIELDS}
    return replace(
        panel,
        open=fields["open"],
        high=fields["high"],
        low=fields["low"],
        close=fields["close"],
        volume=fields["volume"],
        extra={name: told_otherwise(name) for name in {**panel.extra, **dict.fromkeys(side_series)}},
    )


def _broken(view: FeatureView, same: BoolArray) -> list[tuple[str, int, tuple[int, int]]]:
    """Name and position of each feature that is not the same everywhere, and its first (row, column)."""
    broken = np.flatnonzero(~same.all(axis=(0, 1)))
    first = [np.argwhere(~same[:, :, position])[0] for position in broken]
    return [
        (view.names[position], int(position), (int(row), int(column)))
        for position, (row, column) in zip(broken, first, strict=True)
    ]
