"""Runs our functions on recorded arrays: the same code, bound to names that record.

What `np` or `rolling_sum` is, a function's module says, not its code. `Recording` makes copies of functions
whose globals are copies too, in which numpy and the kernels note what they do. The modules stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from levibot.errors import UsageError
from levibot.features.compiled import Kernel
from levibot.features.inputs import Inputs
from levibot.features.recorded import Array, Recorded, Tape, plain
from levibot.features.talib_series import talib_series

OURS = "levibot.features."


class Recording:
    """Copies of functions that note on a tape what they do. Each copy is made once."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._numpy = _RecordingNumpy(tape)
        self._globals: dict[str, dict[str, Any]] = {}
        self._copies: dict[int, Any] = {}
        self._sums: dict[tuple[Any, ...], Array] = {}

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The copy of a function, and of what it calls of levibot.features and of its own module.

        Raises UsageError if it is no plain function. The copy raises UsageError on what cannot be recorded.
        """
        if not isinstance(function, FunctionType):
            raise UsageError(f"Only a plain function can be recorded, not {function!r}.")
        return self._function(function)

    def _function(self, function: FunctionType) -> Callable[..., Any]:
        if id(function) not in self._copies:
            cells = function.__closure__
            copy = FunctionType(
                function.__code__,
                self._module(function.__globals__),
                function.__name__,
                function.__defaults__,
                None if cells is None else tuple(CellType(self._value(cell.cell_contents)) for cell in cells),
            )
            copy.__kwdefaults__ = function.__kwdefaults__
            self._copies[id(function)] = copy
        copied: Callable[..., Any] = self._copies[id(function)]
        return copied

    def _module(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a module's globals. It is there before it is complete: functions name one another."""
        module = str(names["__name__"])
        if module not in self._globals:
            mine = self._globals[module] = dict(names)
            for name, value in names.items():
                if not name.startswith("__"):
                    mine[name] = self._value(value)
        return self._globals[module]

    def _value(self, value: Any) -> Any:
        """What stands in a copy for a global, or for what a function closes over."""
        if value is np:
            return self._numpy
        if value is talib_series:
            return self._talib_series
        if value is Inputs:
            return self._inputs
        if isinstance(value, Kernel):
            return lambda *arguments: self._tape.kernel(value, arguments)
        if isinstance(value, FunctionType) and value.__module__.startswith(OURS):
            return self._function(value)
        if isinstance(value, ModuleType) and value.__name__.startswith(OURS):
            return SimpleNamespace(**self._module(vars(value)))
        return value

    @cached_property
    def _inputs(self) -> type[Inputs]:
        """`Inputs` with the copies of its methods."""
        # Its methods name the class: it must be known before they are copied.
        made = self.__dict__["_inputs"] = type("Inputs", (Inputs,), {})
        for name, member in vars(Inputs).items():
            if isinstance(member, cached_property):
                copy = cached_property(self.bound(member.func))
                copy.__set_name__(made, name)
                setattr(made, name, copy)
            elif isinstance(member, FunctionType) and (name == "__post_init__" or not name.startswith("__")):
                setattr(made, name, self._function(member))
        return made

    def _talib_series(
        self,
        function: str,
        fields: Sequence[Any],
        window_bars: int,
        parameters: Mapping[str, int],
        *,
        output: int = 0,
        unknown: Any = None,
    ) -> Recorded:
        """`talib_series` as one operation: which way it goes depends on the holes that its fields have."""
        import talib

        arrays, still = [plain(field) for field in fields], plain(unknown)

        def whole() -> Array:
            return talib_series(function, arrays, window_bars, parameters, output=output, unknown=still)

        out = whole()
        run, first = getattr(talib, function), window_bars - 1
        sums = [self._sum(array) for array in arrays]
        by_symbol = [[array[:, symbol] for array in arrays] for symbol in range(out.shape[1])]

        def again(out: Array, *_: Array) -> None:
            if first >= len(out) or any(np.isnan(one).any() for one in sums):
                np.copyto(out, whole())
                return
            # Without a hole each series is one stretch.
            out[:first] = np.nan
            for symbol, series in enumerate(by_symbol):
                values = run(*series, **parameters)
                out[first:, symbol] = (values[output] if isinstance(values, tuple) else values)[first:]
            if still is not None:
                np.copyto(out, np.nan, where=still)

        self._tape.note(again, out, *arrays, *sums, *([] if still is None else [still]), writes=[out])
        return Recorded(self._tape, out)

    def _sum(self, array: Array) -> Array:
        """The sum of each symbol's series, NaN where one value is; one for all that read the array."""
        key = (array.ctypes.data, array.shape, array.strides)
        if key not in self._sums:
            sums = self._sums[key] = np.add.reduce(array, 0)
            self._tape.note(np.add.reduce, array, 0, None, sums, writes=[sums])
        return self._sums[key]


class _RecordingNumpy:
    """numpy, with records of what does not ask its arguments how they want to be treated."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.ndarray = _array_class(tape)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float, order: Any = "C") -> Recorded:
        return self._tape.empty(np.empty(shape, dtype, order))

    def empty_like(self, prototype: Any) -> Recorded:
        return self._tape.empty(np.empty_like(plain(prototype)))

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> Any:
        return self._laid_out(a, np.ascontiguousarray(plain(a), dtype))

    def asfortranarray(self, a: Any) -> Any:
        return self._laid_out(a, np.asfortranarray(plain(a)))

    def _laid_out(self, a: Any, laid: Array) -> Any:
        return self._tape.laid_out(a.array, laid) if isinstance(a, Recorded) else laid


def _array_class(tape: Tape) -> type:
    """`np.ndarray` as formulas use it: to ask whether something is an array, and to see memory as another."""

    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, np.ndarray | Recorded)

        def __call__(cls, shape: Any, dtype: Any, buffer: Any, *, strides: Any) -> Recorded:
            return Recorded(tape, np.ndarray(shape, dtype, plain(buffer), strides=strides))

    return Meta("ndarray", (), {})
