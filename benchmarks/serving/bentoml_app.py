"""The two-pass model behind BentoML's adaptive batching: batches are of images."""

from __future__ import annotations

import os

import bentoml

from benchmarks.serving.peer_model import MAX_BATCH, tensors, two_pass_model


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1000})
class Predictor:
    """One worker, as there is one model."""

    def __init__(self) -> None:
        self.model = two_pass_model(os.environ["BENTOML_MODEL"])

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=MAX_BATCH, max_latency_ms=10_000)
    def predict(self, images: list[str]) -> list[str]:
        """Labels of encoded images."""
        return self.model.label(tensors(self.model, images))
