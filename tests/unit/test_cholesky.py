"""The factor of a matrix: in its place, and the same bits on however many threads."""

import numpy as np
import pytest
import torch

from models.cholesky import Cholesky


def matrix(size=40, seed=0):
    rows = np.random.default_rng(seed).standard_normal((size, size))
    return rows @ rows.T + np.eye(size)


def test_it_solves_in_place():
    system, targets = matrix(), np.random.default_rng(1).standard_normal((40, 3))
    lies = system.copy()
    factor = Cholesky(lies)
    assert np.allclose(system @ factor.solve(targets), targets)
    assert np.shares_memory(factor._factor.numpy(), lies)


def test_halves_give_a_rows_form():
    system, rows = matrix(), np.random.default_rng(2).standard_normal((5, 40))
    halves = Cholesky(system.copy()).halves(rows)
    assert np.allclose((halves**2).sum(axis=0), np.einsum("ni,ij,nj->n", rows, np.linalg.inv(system), rows))


def test_threads_change_no_bit_and_are_left_as_they_were():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            factor = Cholesky(matrix(900))
            found.append((factor.solve(np.ones((900, 2))), factor.halves(np.ones((3, 900)))))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("bad", [-np.eye(3), np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_a_matrix_that_is_not_positive_definite_is_refused(bad):
    with pytest.raises(ValueError, match="not positive definite"):
        Cholesky(bad)
