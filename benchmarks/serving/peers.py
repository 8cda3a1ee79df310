"""The peers: each serves the same two-pass model, as its own documentation would have it, in a process of its own.

`python -m benchmarks.serving.peers NAME MODEL PORT`. `fastapi` needs nothing more; the others are asked for from a
second environment (`benchmarks/peers.txt`): their dependencies hold back some of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.peer_model import MAX_BATCH, THREADS, WAIT_SECONDS, two_pass_model

ROOT = Path(__file__).parents[2]
NAMES = {"fastapi": "fastapi", "litserve": "litserve", "bentoml": "bentoml", "ray": "ray.serve"}
TITLES = {"fastapi": "FastAPI, no batching", "litserve": "LitServe", "bentoml": "BentoML", "ray": "Ray Serve"}


def python(name: str) -> str | None:
    """The interpreter that has this peer; None if there is none."""
    if name == "fastapi":
        return sys.executable
    chosen = Path(os.environ.get("OUBLI_PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))
    if not chosen.is_file():
        return None
    tried = subprocess.run([chosen, "-W", "ignore", "-c", f"import {NAMES[name]}"], capture_output=True)
    return str(chosen) if tried.returncode == 0 else None


def start(name: str, model: Path, port: int, interpreter: str) -> subprocess.Popen[bytes]:
    """A running peer; it answers some seconds later. Its own session: all that it starts can be ended together."""
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_DO_NOT_TRACK": "1",
        "BENTOML_MODEL": str(model),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(THREADS),
    }
    command = [interpreter, "-m", "benchmarks.serving.peers", name, str(model), str(port)]
    log = model.with_name(f"{name}.log").open("wb")
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | quiet, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def serve_fastapi(path: str, port: int) -> None:
    """One request, one forward pass, in the pool of threads."""
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool

    app, model = FastAPI(), two_pass_model(path)

    async def predict(request: Request) -> list[str]:
        async with request.form() as form:
            files = [await image.read() for image in form.getlist("image")]
        return await run_in_threadpool(lambda: model.label([model.prepare(data) for data in files]))

    predict.__annotations__["request"] = Request  # a local name that FastAPI could not look up
    app.post("/predict")(predict)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def serve_litserve(path: str, port: int) -> None:
    """Its batching, by requests."""
    from benchmarks.serving import litserve_app

    litserve_app.run(path, port, max_batch=MAX_BATCH, wait=WAIT_SECONDS)


def serve_bentoml(path: str, port: int) -> None:
    """Its adaptive batching."""
    program = [sys.executable, "-m", "bentoml", "serve", "benchmarks.serving.bentoml_app:Predictor"]
    os.execv(sys.executable, [*program, "--host", "127.0.0.1", "--port", str(port)])


def serve_ray(path: str, port: int) -> None:
    """`@serve.batch`."""
    from benchmarks.serving import ray_app

    ray_app.run(path, port)


SERVE = {"fastapi": serve_fastapi, "litserve": serve_litserve, "bentoml": serve_bentoml, "ray": serve_ray}

if __name__ == "__main__":
    SERVE[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
