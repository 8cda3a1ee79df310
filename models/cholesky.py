"""Solving with a symmetric, positive definite matrix: in place, with Python's lock released, to the same bits.

SciPy's LAPACK holds Python's lock: a head of 2,560 entries would stop every thread of the process for a fifth of a
second, and one of 5,536 for more than a second (measured). PyTorch's does not. Its bits depend on the number of
threads (measured), so it always computes on one: the same matrix gives the same bits, on every thread of every replica
in one environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Matrix = npt.NDArray[np.float64]


class Cholesky:
    """The factor of a matrix [n, n], in float64. Safe to use from several threads."""

    def __init__(self, matrix: Matrix) -> None:
        """Factor a symmetric matrix, in its place: it must not be used afterwards.

        Raises ValueError if it is not positive definite.
        """
        factor = torch.from_numpy(matrix).mT  # the same matrix, in the order that LAPACK overwrites without a copy
        info = torch.empty((), dtype=torch.int32)
        with _one_thread():
            torch.linalg.cholesky_ex(factor, out=(factor, info))
        if info.item() != 0:
            raise ValueError(f"The matrix is not positive definite (minor {int(info.item())}).")
        self._factor: Tensor = factor  # [n, n], lower triangle

    def solve(self, targets: Matrix) -> Matrix:
        """x [n, m] of matrix x = targets [n, m]."""
        with _one_thread():
            halves = self._halves(torch.from_numpy(targets))
            found: Matrix = torch.linalg.solve_triangular(self._factor.mT, halves, upper=True).numpy()
        return found

    def halves(self, rows: Matrix) -> Matrix:
        """L^-1 rows' [n, m] of rows [m, n]: the sum of a column's squares is x' matrix^-1 x of its row."""
        with _one_thread():
            found: Matrix = self._halves(torch.from_numpy(rows).mT).numpy()
        return found

    def _halves(self, columns: Tensor) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(self._factor, columns, upper=False)
        return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """The calling thread's operations are computed by itself alone within the block."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)
