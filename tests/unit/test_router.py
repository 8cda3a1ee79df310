"""The nearest prototype is the same whatever the batch, and the one that exact arithmetic names."""

from fractions import Fraction

import numpy as np
import pytest

from models.router import PrototypeRouter, exact_dot


def unit_vectors(count, dim, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_batches_of_every_size_name_the_nearest_prototype():
    prototypes, queries = unit_vectors(300, 24), unit_vectors(200, 24, seed=1)
    router = PrototypeRouter(prototypes)
    expected = np.argmax(queries.astype(np.float64) @ prototypes.T.astype(np.float64), axis=1)
    for size in range(1, len(queries) + 1):
        assert np.array_equal(router.nearest(queries[:size]), expected[:size])


def test_prototypes_that_float32_cannot_tell_apart_are_told_apart_exactly():
    query = unit_vectors(1, 64)[0]
    random = np.random.default_rng(2)
    twins = np.stack([query + 3e-8 * random.standard_normal(64).astype(np.float32) for _ in range(6)])
    exact = [sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, twin, strict=True)) for twin in twins]
    router = PrototypeRouter(np.concatenate([unit_vectors(40, 64, seed=3), twins]))
    for size in (1, 19, 20, 64):
        assert set(router.nearest(np.stack([query] * size))) == {40 + exact.index(max(exact))}


def test_a_device_that_is_wrong_in_the_third_digit_changes_nothing(monkeypatch):
    random = np.random.default_rng(5)
    queries = unit_vectors(100, 64)
    near = queries + 0.002 * random.standard_normal((4, 100, 64)).astype(np.float32)
    near = (near / np.linalg.norm(near, axis=-1, keepdims=True)).reshape(-1, 64)  # four look-alikes of each query
    router = PrototypeRouter(near)
    expected = np.argmax(queries.astype(np.float64) @ near.T.astype(np.float64), axis=1)

    class Rough:
        def search(self, vectors, count):
            scores = vectors @ near.T + random.uniform(-0.002, 0.002, (len(vectors), len(near))).astype(np.float32)
            found = np.argsort(-scores, axis=1)[:, :count]
            return np.take_along_axis(scores, found, axis=1), found

    monkeypatch.setattr(router, "_index", Rough())
    assert np.array_equal(router.nearest(queries), expected)


@pytest.mark.parametrize("size", [1, 50])
def test_ties_go_to_the_lower_index(size):
    prototypes = unit_vectors(30, 16)
    prototypes[[4, 11, 29]] = prototypes[17]
    assert (PrototypeRouter(prototypes).nearest(prototypes[[17] * size]) == 4).all()


def test_fewer_prototypes_than_candidates_are_enough():
    prototypes = unit_vectors(2, 16)
    assert PrototypeRouter(prototypes).nearest(prototypes).tolist() == [0, 1]


def test_a_dot_product_has_the_same_bits_alone_and_in_company():
    rows, other = unit_vectors(50, 1280), unit_vectors(1, 1280, seed=1)[0]
    alone = np.array([exact_dot(row, other) for row in rows])
    assert exact_dot(rows, other).tobytes() == alone.tobytes()
    assert np.allclose(alone, rows.astype(np.float64) @ other.astype(np.float64))
