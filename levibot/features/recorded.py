"""Arrays that note what is done to them, so that it can be done again on the same memory.

A `Tape` is filled by running numpy code once on `Recorded` arrays: each operation is carried out, and noted
with the memory that it read and wrote. `Tape.play` carries the notes out again, in order, once the inputs
have new values: the same operations on the same kernels, without the Python around them and without new
memory. What notes cannot repeat (a branch on a value, a number taken out of an array) raises UsageError while
it is noted. Only `any()` may decide a branch, and `play` says when it would decide otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from levibot.errors import UsageError
from levibot.features.compiled import Kernel

Array = npt.NDArray[Any]


class _Note(NamedTuple):
    """An operation. touched, written: the memory that it uses, and that it changes."""

    call: Callable[..., object]
    arguments: tuple[Any, ...]
    touched: frozenset[int]
    written: frozenset[int]


class Tape:
    """Operations in the order in which they were done. State: the memory that they were done on."""

    def __init__(self) -> None:
        self._notes: list[_Note] = []
        self._branches: list[tuple[Array, bool]] = []
        self._inputs: list[Array] = []

    def __len__(self) -> int:
        """Operations of one play."""
        return len(self._calls)

    def input(self, array: Array) -> Recorded:
        """An array whose values are set from outside before each play."""
        self._inputs.append(array)
        return Recorded(self, array)

    def empty(self, array: Array) -> Recorded:
        """Memory that is to be written. It gets a pattern, so that one sees which kernel writes it."""
        (array if array.flags.c_contiguous else array.T).view(np.uint8).fill(0xA5)
        return Recorded(self, array)

    def play(self) -> bool:
        """Do everything again; False when a branch would go another way: then the results are of no use."""
        for call, arguments in self._calls:
            call(*arguments)
        return all(bool(array.any()) is decided for array, decided in self._branches)

    def note(self, call: Callable[..., object], *arguments: Any, writes: Sequence[Array]) -> None:
        """Do `call` at each play. Its arguments hold all memory that it reads, and all that it writes."""
        touched = frozenset(_root(one) for one in arguments if isinstance(one, np.ndarray))
        self._notes.append(_Note(call, arguments, touched, frozenset(map(_root, writes))))

    def branch(self, array: Array) -> bool:
        """Whether any value is true now; each play compares."""
        decided = bool(array.any())
        self._branches.append((array, decided))
        return decided

    def ufunc(
        self, ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Recorded:
        """A ufunc's call, into new memory or in place."""
        into = keywords.pop("out", None)
        if method != "__call__" or keywords or ufunc.nout != 1:
            raise UsageError(f"np.{ufunc.__name__} cannot be recorded as {method} with {sorted(keywords)}.")
        arrays = tuple(_constant(plain(one)) for one in inputs)
        target = None if into is None else into[0]
        out = np.asanyarray(ufunc(*arrays) if target is None else ufunc(*arrays, out=plain(target)))
        self.note(_INTO.get(ufunc, ufunc), *arrays, out, writes=[out])
        return Recorded(self, out) if target is None else target

    def function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of one of the numpy functions that formulas use on arrays, beside ufuncs."""
        if function is np.where and len(args) == 3:
            condition, x, y = (plain(one) for one in args)
            out = np.where(condition, x, y)
            self.note(_where, condition, x, y, out, writes=[out])
            return Recorded(self, out)
        if function is np.ones_like:
            return np.ones_like(plain(args[0]), **kwargs)
        if function is np.broadcast_to:
            return Recorded(self, np.broadcast_to(plain(args[0]), *args[1:], **kwargs))
        if function is np.broadcast_arrays:
            return tuple(Recorded(self, one) for one in np.broadcast_arrays(*map(plain, args)))
        raise UsageError(f"np.{function.__name__} cannot be recorded.", hint="Teach Tape.function to.")

    def laid_out(self, array: Array, laid: Array) -> Recorded:
        """`laid`: the values of `array`, in its memory or in memory of their own."""
        if not np.may_share_memory(array, laid):
            self.note(np.copyto, laid, array, "unsafe", writes=[laid])
        return Recorded(self, laid)

    def kernel(self, kernel: Kernel, arguments: tuple[Any, ...]) -> None:
        """A kernel's call. Raises UsageError when it writes into memory that is not recorded."""
        arrays = tuple(plain(one) for one in arguments)
        before = [one.tobytes() if isinstance(one, np.ndarray) else b"" for one in arrays]
        kernel.dispatcher(*arrays)
        written = [
            (one, array)
            for one, array, was in zip(arguments, arrays, before, strict=True)
            if isinstance(array, np.ndarray) and array.tobytes() != was
        ]
        if not written or not all(isinstance(one, Recorded) for one, _ in written):
            raise UsageError(
                f"{kernel.__name__} writes nothing, or memory that is not recorded.",
                hint="Make that memory with np.empty or np.empty_like.",
            )
        self.note(kernel.dispatcher, *arrays, writes=[array for _, array in written])

    @cached_property
    def _calls(self) -> list[tuple[Callable[..., object], tuple[Any, ...]]]:
        """The notes that write what depends on an input; what the others wrote stays as it is."""
        moving = {_root(array) for array in self._inputs}
        n_before = 0
        while n_before < len(moving):
            n_before = len(moving)
            for note in self._notes:
                if not moving.isdisjoint(note.touched):
                    moving.update(note.written)
        return [(note.call, note.arguments) for note in self._notes if not moving.isdisjoint(note.written)]


class Recorded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on a tape. array: its memory, with the values of the last play."""

    __slots__ = ("array", "tape")

    def __init__(self, tape: Tape, array: Array) -> None:
        self.tape = tape
        self.array = array

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Recorded:
        return self.tape.ufunc(ufunc, method, inputs, keywords)

    def __array_function__(
        self, function: Callable[..., Any], _types: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return self.tape.function(function, args, kwargs)

    def __array__(self, *_: object, **__: object) -> Array:
        raise UsageError("A recorded array was handed to code that does not record.")

    def __bool__(self) -> bool:
        raise UsageError("A branch on the values of a recorded array cannot be repeated; one on `any()` can.")

    def __iter__(self) -> Any:
        raise UsageError("A recorded array cannot be walked through; use its rows as arrays.")

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> Recorded:
        index = _index(key)
        found = self.array[index]
        if not isinstance(found, np.ndarray):
            raise UsageError("A number taken out of a recorded array would stay what it is now.")
        if not np.may_share_memory(found, self.array):
            self.tape.note(_take, self.array, index, found, writes=[found])
        return Recorded(self.tape, found)

    def __setitem__(self, key: Any, value: Any) -> None:
        index, values = _index(key), plain(value)
        self.array[index] = values
        place = self.array[index]
        if isinstance(place, np.ndarray) and np.may_share_memory(place, self.array):
            self.tape.note(np.copyto, place, values, writes=[place])
        else:
            # A mask or a list of places. These are arguments too: a play reads them.
            self.tape.note(_put, self.array, values, *_flat(index), writes=[self.array])

    @property
    def T(self) -> Recorded:
        return Recorded(self.tape, self.array.T)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self.array.strides

    @property
    def itemsize(self) -> int:
        return self.array.itemsize

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def flags(self) -> Any:
        return self.array.flags

    def any(self) -> bool:
        return self.tape.branch(self.array)

    def astype(self, dtype: Any) -> Recorded:
        return self.tape.laid_out(self.array, self.array.astype(dtype))

    def copy(self) -> Recorded:
        return self.tape.laid_out(self.array, self.array.copy())


def plain(value: Any) -> Any:
    """The memory of a recorded array; anything else as it is."""
    return value.array if isinstance(value, Recorded) else value


def _constant(value: Any) -> Any:
    """A float as the array that numpy would make of it at every call."""
    return np.array(value) if type(value) is float else value


def _index(key: Any) -> Any:
    return tuple(map(plain, key)) if isinstance(key, tuple) else plain(key)


def _flat(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _root(array: Array) -> int:
    """Whose memory an array lies in. Valid while the array lives, as all on a tape do."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)


def _where(condition: Array, x: Any, y: Any, out: Array) -> None:
    np.copyto(out, y)
    np.copyto(out, x, where=condition)


def _take(array: Array, index: Any, out: Array) -> None:
    out[...] = array[index]


def _put(array: Array, values: Any, *index: Any) -> None:
    array[index] = values


def _maximum(x: Any, y: Any, out: Array) -> None:
    np.maximum(x, y, out=out)


def _minimum(x: Any, y: Any, out: Array) -> None:
    np.minimum(x, y, out=out)


# A ufunc takes its result's memory as its last argument; these two want it named.
_INTO: dict[np.ufunc, Callable[..., None]] = {np.maximum: _maximum, np.minimum: _minimum}
