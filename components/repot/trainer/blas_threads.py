"""How many threads NumPy uses for products and decompositions of matrices.

OpenBLAS, which NumPy's wheels contain, wakes a thread per core for every product that is not tiny;
between products, they wait in a busy loop. A fit of a head multiplies small matrices some thousand
times. On two cores with other work, 426 pictures took 5.9 seconds of processor time for choosing a
head instead of 2.0, and 2.6 instead of .3 for the score `unlike`; wall time fell as much. So these
computations use one thread, except for large products. Another library (MKL, Accelerate) is left as
it is.
"""

import ctypes
import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", np.float32, np.float64)

MIN_THREADED = 2**26
"""Multiplications of a product from which on threads are faster."""

_NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)
"""What OpenBLAS calls its functions: in NumPy's wheels, in older ones, and in other builds."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let NumPy compute in one thread; also a decorator."""
    with _threads(1):
        yield


def multiply(left: npt.NDArray[Number], right: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Return left @ right, with all threads if it is large, also within `one_thread`.

    Args:
        left: [m, k].
        right: [k, n].
    """
    if left.size * right.shape[1] < MIN_THREADED:
        return left @ right
    with _threads(None):
        return left @ right


def num_threads() -> int | None:
    """Return the number of threads that NumPy uses now; None if its library is not OpenBLAS."""
    library = _find_openblas()
    return library.read() if library else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _OpenBlas:
    """OpenBLAS's functions that read and write its number of threads, and the number at first."""

    read: Callable[[], int]
    write: Callable[[int], Any]
    default: int


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Set the number of threads; None for the number at first."""
    library = _find_openblas()
    if library is None:
        yield
        return
    before = library.read()
    library.write(number or library.default)
    try:
        yield
    finally:
        library.write(before)


@functools.cache
def _find_openblas() -> _OpenBlas | None:
    """Return the OpenBLAS that NumPy is linked with; None if it is another library."""
    # A symbol is also looked up in the libraries that this one is linked with.
    library = ctypes.CDLL(importlib.import_module("numpy.linalg._umath_linalg").__file__)
    for name in _NAMES:
        if hasattr(library, name.format("set")):
            read, write = (getattr(library, name.format(verb)) for verb in ("get", "set"))
            return _OpenBlas(read=read, write=write, default=int(read()))
    return None
