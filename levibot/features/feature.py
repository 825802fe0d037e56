"""What a feature is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from types import CodeType, FunctionType, ModuleType

import numpy as np

from levibot.errors import UsageError
from levibot.features.inputs import HALF_LIVES, SLOW_HALF_LIFE_BARS, Inputs
from levibot.market.bars import FloatArray

# Rows behind a value of `sigma_slow`: its window of returns, and the close before the first of them.
SIGMA_ROWS = HALF_LIVES * SLOW_HALF_LIFE_BARS + 1

# Most formulas read a few days, and only the volatility that scales them reads months: in the tail each
# formula runs on the shortest of these windows that holds what it reads.
TAIL_TIERS = (192, 768)


@dataclass(frozen=True)
class Definition:
    """What is said of every feature.

    unit: what one unit of the value is. source: where the formula comes from. inputs: what is read, bar
    fields and side series. window_bars: rows, with its own, that the formula reads itself. formula: a plain
    function; `parameters` are its keyword arguments.
    """

    name: str
    family: str
    unit: str
    source: str
    inputs: tuple[str, ...]
    window_bars: int
    formula: Callable[..., FloatArray]
    parameters: tuple[tuple[str, float], ...] = ()

    @property
    def warmup_bars(self) -> int:
        """Rows, with its own, that a value can depend on when no bar is missing."""
        return self.window_bars

    @property
    def definition(self) -> str:
        """All that decides the value, as text: the fields, the source of the formula and of what it calls."""
        said = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ("source", "formula")]
        return "\n".join([repr(said), *_sources(self.formula)])

    @cached_property
    def arguments(self) -> dict[str, float]:
        """The formula's keyword arguments."""
        return dict(self.parameters)


@dataclass(frozen=True)
class Feature(Definition):
    """One number per symbol and bar, defined once for history and for live.

    formula: called as formula(inputs, **parameters); returns (T, S). NaN where the value is not known: before
    the symbol has enough bars, after a hole longer than FILL_LIMIT, and where a denominator is zero.
    scaled: it also reads `Inputs.sigma_slow`.
    reads_others: a symbol's value depends on other symbols; any other formula may get one symbol alone.
    """

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
        return self.formula(inputs, **self.arguments)

    @cached_property
    def tail_bars(self) -> int | None:
        """The shortest of TAIL_TIERS that holds what the formula reads; None where none does."""
        return next((bars for bars in TAIL_TIERS if self.window_bars <= bars), None)


def _sources(formula: object) -> Iterator[str]:
    """Source of a formula and of all that it calls, each followed by the constants that it names."""
    for function in _functions(formula, set()):
        yield _source(function)
        for name, value in _named(function):
            if isinstance(value, int | float | str | np.generic):
                yield f"{name} = {value!r}"


def _functions(function: object, seen: set[str]) -> Iterator[FunctionType]:
    """A function, then what it names of ours or of its own package, and so on; each once."""
    function = plain(function)
    if not isinstance(function, FunctionType):
        raise UsageError(f"A formula must be a plain function, not {function!r}.")
    key = f"{function.__module__}.{function.__qualname__}"
    if key in seen:
        return
    seen.add(key)
    yield function
    ours = {"levibot", _package(function)}
    for _, value in _named(function):
        called = plain(value)
        if isinstance(called, FunctionType) and _package(called) in ours:
            yield from _functions(called, seen)


def _named(function: FunctionType) -> Iterator[tuple[str, object]]:
    """The globals that a function names, those inside its modules and tables too, in the order of names."""
    names = _global_names(function.__code__)
    ours = {"levibot", _package(function)}
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            if _package(value) in ours:
                yield from ((f"{name}.{n}", vars(value)[n]) for n in sorted(names & vars(value).keys()))
        else:
            yield from _leaves(name, value)


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from _leaves(f"{name}[{key!r}]", value[key])
    elif isinstance(value, tuple | list):
        for position, item in enumerate(value):
            yield from _leaves(f"{name}[{position}]", item)
    else:
        yield name, value


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
