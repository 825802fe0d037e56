"""Features that are one formula over several windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from levibot.features.feature import Feature
from levibot.market.bars import FloatArray


def over(
    windows: Iterable[int],
    family: str,
    name: str,
    formula: Callable[..., FloatArray],
    *,
    unit: str,
    source: str,
    inputs: tuple[str, ...] = ("close",),
    more_bars: int = 0,
    scaled: bool = False,
    reads_others: bool = False,
) -> tuple[Feature, ...]:
    """`formula(inputs, bars)` for each window, as NAME_BARS; it reads bars + more_bars rows."""
    return tuple(
        Feature(
            name=f"{name}_{bars}",
            family=family,
            unit=unit,
            source=source,
            inputs=inputs,
            window_bars=bars + more_bars,
            formula=formula,
            parameters=(("bars", bars),),
            scaled=scaled,
            reads_others=reads_others,
        )
        for bars in windows
    )


def over_pairs(
    pairs: Iterable[tuple[int, int]],
    family: str,
    name: str,
    formula: Callable[..., FloatArray],
    *,
    parameters: tuple[str, str],
    rows: Callable[[int, int], int],
    unit: str,
    source: str,
    inputs: tuple[str, ...] = ("close",),
    scaled: bool = False,
    reads_others: bool = False,
) -> tuple[Feature, ...]:
    """A formula of two parameters for each pair, as NAME_FIRST_SECOND.

    parameters: the formula's names for the two. rows: how many rows it reads with them.
    """
    return tuple(
        Feature(
            name=f"{name}_{first}_{second}",
            family=family,
            unit=unit,
            source=source,
            inputs=inputs,
            window_bars=rows(first, second),
            formula=formula,
            parameters=((parameters[0], first), (parameters[1], second)),
            scaled=scaled,
            reads_others=reads_others,
        )
        for first, second in pairs
    )
