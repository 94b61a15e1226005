"""How many threads NumPy uses for products and decompositions of matrices.

OpenBLAS, which NumPy's wheels contain, wakes a thread per core for every product that is not tiny;
between products, they wait in a busy loop. A fit of a head multiplies small matrices some thousand
times. On two cores with other work, 426 pictures took 5.9 seconds of processor time for choosing a
head instead of 2.0, and 2.6 instead of .3 for the score `unlike`; wall time fell as much. So these
computations use one thread, except for large products.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

Number = TypeVar("Number", np.float32, np.float64)

MIN_THREADED = 2**26
"""Multiplications of a product from which on threads are faster."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let NumPy compute in one thread; also a decorator."""
    libraries, _ = _find_libraries()
    with libraries.limit(limits=1):
        yield


def multiply(left: npt.NDArray[Number], right: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Return left @ right, with all threads if it is large, also within `one_thread`.

    Args:
        left: [m, k].
        right: [k, n].
    """
    if left.size * right.shape[1] < MIN_THREADED:
        return left @ right
    libraries, num_threads = _find_libraries()
    with libraries.limit(limits=num_threads):
        return left @ right


@functools.cache
def _find_libraries() -> tuple[ThreadpoolController, int]:
    """Return the libraries for linear algebra of this process, and their number of threads.

    Apple's Accelerate is not among them: it chooses its threads itself.
    """
    libraries = ThreadpoolController().select(user_api="blas")
    counts = [library["num_threads"] for library in libraries.info()]
    return libraries, max(counts, default=1)
