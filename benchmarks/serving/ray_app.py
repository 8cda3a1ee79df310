"""The two-pass model behind Ray Serve's `@serve.batch`: batches are of requests."""

from __future__ import annotations

import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.serving.peer_model import MAX_BATCH, THREADS, WAIT_SECONDS, tensors, two_pass_model


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(THREADS)}}},
)
class Predictor:
    """One replica, as there is one model."""

    def __init__(self, path: str) -> None:
        self.model = two_pass_model(path)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def label(self, requests: list[list[str]]) -> list[list[str]]:
        """One forward for all images of all requests."""
        found = [tensors(self.model, images) for images in requests]
        labels = iter(self.model.label([image for images in found for image in images]))
        return [[next(labels) for _ in images] for images in found]

    async def __call__(self, request: Request) -> Any:
        """A list of labels."""
        return await self.label((await request.json())["images"])


def run(path: str, port: int) -> None:
    """Serve until ended."""
    ray.init(include_dashboard=False, num_cpus=4, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Predictor.bind(path), route_prefix="/predict")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
