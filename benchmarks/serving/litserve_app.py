"""The two-pass model behind LitServe: a batch is of requests, each of one image or more.

Annotations are evaluated here: LitServe hands that of `decode_request` on to FastAPI as it finds it.
"""

from typing import Any

import litserve as ls

from benchmarks.serving.peer_model import tensors, two_pass_model


class Predictor(ls.LitAPI):
    """Decode, one batch, encode."""

    def setup(self, device: str) -> None:
        """In the worker process."""
        self.model = two_pass_model(self.path)

    def decode_request(self, request: dict[str, Any]) -> list[Any]:
        """Tensors of one request."""
        return tensors(self.model, request["images"])

    def batch(self, inputs: list[list[Any]]) -> list[list[Any]]:
        """As they are: requests differ in length."""
        return inputs

    def predict(self, inputs: list[list[Any]]) -> list[list[str]]:
        """One forward for all images of all requests."""
        labels = iter(self.model.label([image for images in inputs for image in images]))
        return [[next(labels) for _ in images] for images in inputs]

    def unbatch(self, output: list[list[str]]) -> list[list[str]]:
        """One a request."""
        return output

    def encode_response(self, output: list[str]) -> dict[str, Any]:
        """JSON."""
        return {"predictions": [{"label": label} for label in output]}


def run(path: str, port: int, *, max_batch: int, wait: float) -> None:
    """Serve until ended."""
    api = Predictor(max_batch_size=max_batch, batch_timeout=wait)
    api.path = path
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
