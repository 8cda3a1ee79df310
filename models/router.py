"""Nearest prototype by cosine similarity: FAISS finds candidates, float64 decides.

FAISS runs on the GPU where `faiss.get_num_gpus()` > 0 and on the CPU elsewhere. Its float32 scores differ in the
last bits with the device and the batch size, so the few best candidates are compared again in float64, row by row, in
one fixed order of summation: the same embedding gets the same prototype everywhere. Ties go to the lower index.
"""

from __future__ import annotations

import threading

import faiss
import numpy as np
import numpy.typing as npt

from models.embedding import Embedding

CANDIDATES = 8
DOUBT = 0.01  # of a cosine similarity; far more than float32 can be wrong by, even with TF32's ten bits


class PrototypeRouter:
    """Exact nearest neighbour over unit vectors [p, dim]."""

    def __init__(self, prototypes: npt.NDArray[np.float32]) -> None:
        self._prototypes = np.ascontiguousarray(prototypes, dtype=np.float32)
        index: faiss.Index = faiss.IndexFlatIP(self._prototypes.shape[1])
        if faiss.get_num_gpus() > 0:
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        index.add(self._prototypes)
        self._index = index
        self._one_at_a_time = threading.Lock()  # FAISS's GPU indices are not thread-safe, not even for reading

    def nearest(self, embeddings: Embedding) -> npt.NDArray[np.int64]:
        """Index [n] of the prototype nearest to each embedding [n, dim]."""
        count = min(CANDIDATES, len(self._prototypes))
        with self._one_at_a_time:
            scores, candidates = self._index.search(np.ascontiguousarray(embeddings, dtype=np.float32), count)
        order = np.argsort(candidates, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        candidates = np.take_along_axis(candidates, order, axis=1)
        doubtful = np.nonzero(scores >= scores.max(axis=1, keepdims=True) - DOUBT)
        exact = np.full(scores.shape, -np.inf)
        exact[doubtful] = exact_dot(embeddings[doubtful[0]], self._prototypes[candidates[doubtful]])
        best = np.argmax(exact, axis=1)
        chosen: npt.NDArray[np.int64] = candidates[np.arange(len(candidates)), best].astype(np.int64)
        return chosen


def exact_dot(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Dot product over the last axis in float64, summed in an order that no batch size or thread count changes.

    BLAS picks its kernel by the shape of the whole product; NumPy's pairwise sum looks at one row only.
    """
    products = left.astype(np.float64, copy=False) * right.astype(np.float64, copy=False)
    total: npt.NDArray[np.float64] = np.ascontiguousarray(products).sum(axis=-1)
    return total
