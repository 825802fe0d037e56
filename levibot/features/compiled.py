"""Functions that are compiled by numba when they are first called, and not when they are imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Kernel:
    """A plain function now, a compiled one from the first call on.

    A process that only reads a view's names or version never loads numba, which takes a second. Kernels may
    call kernels. The machine code is kept on disk (numba's own cache: beside the source, or below the user's
    cache folder where the source may not be written, or below NUMBA_CACHE_DIR); where none of these may be
    written, every process compiles for itself.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.py_func = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self.__qualname__ = function.__qualname__

    def __call__(self, *arguments: object) -> Any:
        return self.dispatcher(*arguments)

    def __reduce__(self) -> str:
        # Travels by name, as a function does.
        return self.__qualname__

    @property
    def _numba_type_(self) -> Any:
        """What numba asks of a global that a kernel names: here, of a kernel that another one calls."""
        return self.dispatcher._numba_type_

    @cached_property
    def dispatcher(self) -> Any:
        """numba's function. Division by zero gives inf or NaN, as in numpy; the GIL is let go."""
        from numba import njit

        try:
            return njit(self.py_func, cache=True, nogil=True, error_model="numpy")
        except RuntimeError as exc:
            if "cannot cache" not in str(exc):
                raise
            return njit(self.py_func, nogil=True, error_model="numpy")


def compiled(function: F) -> F:
    """Mark a function over arrays and numbers as a kernel."""
    return cast("F", Kernel(function))
