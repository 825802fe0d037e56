"""What a feature is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType

import numpy as np

from levibot.errors import UsageError
from levibot.features.inputs import HALF_LIVES, SLOW_HALF_LIFE_BARS, Inputs
from levibot.market.bars import FloatArray

# Rows behind a value of `sigma_slow`: its window of returns, and the close before the first of them.
SIGMA_ROWS = HALF_LIVES * SLOW_HALF_LIFE_BARS + 1


@dataclass(frozen=True)
class Feature:
    """One number per symbol and bar, defined once for history and for live.

    unit: what one unit of the value is. source: where the formula comes from. inputs: the bar fields read.
    window_bars: rows, with its own, that the formula reads itself. scaled: it also reads `Inputs.sigma_slow`.
    reads_others: a symbol's value depends on other symbols; any other formula may get one symbol alone.
    formula: called as formula(inputs, **parameters); returns (T, S). NaN where the value is not known: before
    the symbol has enough bars, after a hole longer than FILL_LIMIT, and where a denominator is zero.
    """

    name: str
    family: str
    unit: str
    source: str
    inputs: tuple[str, ...]
    window_bars: int
    formula: Callable[..., FloatArray]
    parameters: tuple[tuple[str, float], ...] = ()
    scaled: bool = False
    reads_others: bool = False

    @property
    def warmup_bars(self) -> int:
        """Rows, with its own, that a value can depend on when no bar is missing.

        A window of that many rows, plus FILL_LIMIT for holes, gives the value that all of history gives. A
        younger symbol has a value as soon as the formula allows: what is scaled, after SLOW_MIN_BARS returns.
        """
        return max(self.window_bars, SIGMA_ROWS) if self.scaled else self.window_bars

    def compute(self, inputs: Inputs) -> FloatArray:
        """The feature over the whole panel, (T, S)."""
        return self.formula(inputs, **dict(self.parameters))

    @property
    def definition(self) -> str:
        """All that decides the value, as text: the fields, the source of the formula and of what it calls."""
        head = repr(
            (
                self.name,
                self.family,
                self.unit,
                self.inputs,
                self.window_bars,
                self.scaled,
                self.reads_others,
                self.parameters,
            )
        )
        return "\n".join([head, *_sources(self.formula, set())])


def _sources(function: object, seen: set[str]) -> Iterator[str]:
    """Source of a function, then of what it names: constants, and functions of ours or of its own package."""
    function = plain(function)
    if not isinstance(function, FunctionType):
        raise UsageError(f"A formula must be a plain function, not {function!r}.")
    key = f"{function.__module__}.{function.__qualname__}"
    if key in seen:
        return
    seen.add(key)
    yield _source(function)
    ours = {"levibot", _package(function)}
    names = _global_names(function.__code__)
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType) and _package(value) in ours:
            for inner in sorted(names & vars(value).keys()):
                yield from _named(f"{name}.{inner}", vars(value)[inner], ours, seen)
        else:
            yield from _named(name, value, ours, seen)


def _named(name: str, value: object, ours: set[str], seen: set[str]) -> Iterator[str]:
    """What a global of that name adds to a definition."""
    function = plain(value)
    if isinstance(function, FunctionType):
        if _package(function) in ours:
            yield from _sources(function, seen)
    elif isinstance(value, int | float | str | np.generic):
        yield f"{name} = {value!r}"
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from _named(f"{name}[{key!r}]", value[key], ours, seen)
    elif isinstance(value, tuple | list):
        for position, item in enumerate(value):
            yield from _named(f"{name}[{position}]", item, ours, seen)


@cache
def _source(function: FunctionType) -> str:
    return inspect.getsource(function)


def plain(function: object) -> object:
    """The Python function that a compiled one was made of; anything else as it is."""
    return getattr(function, "py_func", function)


def _package(thing: FunctionType | ModuleType) -> str:
    name = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    return name.partition(".")[0]


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names
