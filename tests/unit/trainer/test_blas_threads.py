"""Threads of NumPy's products: one for the fits of heads, all for large products."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from repot.trainer import blas_threads
from repot.trainer.auto.heads import cross_validate, fit_head
from repot.trainer.blas_threads import multiply, one_thread
from repot.trainer.calibration import cross_validate_unlike, fit_unlike
from repot.trainer.suspects import find_suspects
from tests.unit.trainer.test_suspects import make_features

_libraries = ThreadpoolController().select(user_api="blas")


def num_threads() -> int:
    """Return how many threads NumPy uses now."""
    return max(int(library["num_threads"]) for library in _libraries.info())


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """Let NumPy start with three threads, on any machine."""
    blas_threads._find_libraries.cache_clear()
    with _libraries.limit(limits=3):
        yield
    blas_threads._find_libraries.cache_clear()


class _Noted(np.ndarray[Any, Any]):
    """A matrix that notes the number of threads of its products."""

    def __matmul__(self, other: Any) -> Any:
        noted.append(num_threads())
        return np.asarray(self) @ np.asarray(other)


noted: list[int] = []


def test_number_of_threads_is_restored_after_an_error() -> None:
    def fail() -> None:
        with one_thread():
            assert num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert num_threads() == 3


@pytest.mark.parametrize(("limit", "expected"), [(24, 3), (25, 1)])
def test_only_a_large_product_has_all_threads(
    limit: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas_threads, "MIN_THREADED", limit)
    noted.clear()
    left, right = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)

    with one_thread():
        product = multiply(left.view(_Noted), right)
        assert num_threads() == 1

    assert noted == [expected]
    np.testing.assert_array_equal(product, left @ right)


def _fit_small_head() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 20))
    fit_head(rows.__getitem__, 20, np.arange(12) % 2, 2, penalty=1e-3)


def _cross_validate() -> None:
    rows, folds = np.random.default_rng(0).normal(size=(12, 20)), np.arange(12) // 2 % 3
    cross_validate(rows, np.arange(12) % 2, 2, folds=folds, penalties=[1e-3])


@pytest.mark.parametrize(
    ("compute", "decomposition"),
    [
        (_fit_small_head, "eigh"),
        (_cross_validate, "cholesky"),
        (lambda: fit_unlike(np.eye(6)), "eigh"),
        (lambda: cross_validate_unlike(np.eye(6), np.arange(6) % 2, 0.1), "eigh"),
        (lambda: find_suspects(make_features((8, 8))), "cholesky"),
    ],
    ids=["fit_head", "cross_validate", "fit_unlike", "cross_validate_unlike", "find_suspects"],
)
def test_fits_decompose_in_one_thread(
    compute: Callable[[], Any], decomposition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    decompose = getattr(np.linalg, decomposition)

    def note(matrix: Any) -> Any:
        found.append(num_threads())
        return decompose(matrix)

    monkeypatch.setattr(np.linalg, decomposition, note)

    compute()

    assert set(found) == {1}
    assert num_threads() == 3
