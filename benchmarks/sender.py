"""A client in a process of its own: bodies from standard input, several requests in flight, one line of JSON out.

Reads a pickled `Job` that the benchmark itself has written; never a file of another program.
"""

from __future__ import annotations

import http.client
import json
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

BOUNDARY = "oubli-benchmark"


@dataclass(frozen=True)
class Job:
    """What to send to /samples/batch: one list of (file, label, owner) a request."""

    port: int
    key: str
    in_flight: int
    requests: list[list[tuple[bytes, str, str]]]


def body(items: list[tuple[bytes, str, str]]) -> bytes:
    """A multipart body."""
    metadata = json.dumps([{"label": label, "owner": owner} for _, label, owner in items])
    parts = [b'Content-Disposition: form-data; name="metadata"\r\n\r\n' + metadata.encode()]
    head = b'Content-Disposition: form-data; name="images"; filename="image"\r\nContent-Type: image/png\r\n\r\n'
    parts += [head + data for data, _, _ in items]
    border = f"--{BOUNDARY}\r\n".encode()
    return b"".join(border + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


def send(job: Job) -> dict[str, float]:
    """Wall seconds, and how many were taken in. Raises RuntimeError for an answer that is no 200."""
    waiting: SimpleQueue[bytes] = SimpleQueue()
    for items in job.requests:
        waiting.put(body(items))

    def one_connection() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", job.port, timeout=300)
        headers = {
            "Authorization": f"Bearer {job.key}",
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        }
        taken = 0
        while True:
            try:
                data = waiting.get_nowait()
            except Empty:
                connection.close()
                return taken
            connection.request("POST", "/samples/batch", data, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {text[:300]!r}")
            taken += sum(item["status"] == 201 for item in json.loads(text)["items"])

    started = time.perf_counter()
    with ThreadPoolExecutor(job.in_flight) as pool:
        taken = sum(future.result() for future in [pool.submit(one_connection) for _ in range(job.in_flight)])
    return {"seconds": time.perf_counter() - started, "taken": float(taken)}


if __name__ == "__main__":
    print(json.dumps(send(pickle.load(sys.stdin.buffer))))
