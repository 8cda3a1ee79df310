"""Real processes for tests: `oubli serve` as a child, a client with its key, and a stop that leaves no process behind.

Waiting is always for something, with a deadline that a loaded machine can meet; nothing sleeps for a fixed time.
"""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
READY_SECONDS = 120.0
DONE_SECONDS = 120.0
STOP_SECONDS = 5.0  # what `oubli serve` promises
PROBLEM = "application/problem+json"
# The tiny backbone, with clusters so small that a dozen samples make several.
TINY = {
    "OUBLI_BACKBONE": "tiny",
    "OUBLI_TRAINING__PROMPT_SIZE": "2",
    "OUBLI_TRAINING__EPOCHS": "2",
    "OUBLI_TRAINING__SETTLE_SECONDS": "0.2",
    "OUBLI_PARTITION__CAP": "12",
    "OUBLI_PARTITION__MIN": "4",
    "OUBLI_ERASURE__RETRAIN_PAUSE": "0.2",  # tests delete again and again
    "OUBLI_ERASURE__COMPLETE_WITHIN": "1",
}

Found = TypeVar("Found")


@dataclass(frozen=True)
class Picture:
    """An image file, and what it shows."""

    name: str
    data: bytes
    label: str

    @property
    def media_type(self) -> str:
        return "image/png" if self.name.endswith("png") else "image/jpeg"


def cifar_pictures() -> list[Picture]:
    """Small JPEG photographs, where this machine has them: `OUBLI_TEST_DATA`/jpegs/<class>-<number>.jpg."""
    folder = Path(os.environ.get("OUBLI_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "jpegs"
    return [Picture(path.name, path.read_bytes(), path.stem.split("-")[0]) for path in sorted(folder.glob("*.jpg"))]


def digit_pictures(count: int) -> list[Picture]:
    """Handwritten digits, which every install has, as PNG."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    found = []
    for i in range(count):
        image = Image.fromarray((digits.images[i] * 15.9375).astype("uint8")).resize((32, 32), Image.Resampling.NEAREST)
        file = io.BytesIO()
        image.save(file, "PNG")
        found.append(Picture(f"digit-{i}.png", file.getvalue(), f"digit {digits.target[i]}"))
    return found


def until(check: Callable[[], Found], *, seconds: float = DONE_SECONDS, what: str = "") -> Found:
    """The first truthy result of `check`, asked again and again."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what or check}")
        time.sleep(0.1)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(given: dict[str, str]) -> dict[str, str]:
    """Ours without its Oubli settings, and with those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUBLI_")}
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1", **given}


def oubli(*arguments: str | Path, env: dict[str, str] | None = None, seconds: float = 120.0) -> Done:
    """Run a command of `oubli` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        env=environment(env or {}),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def launch(
    *arguments: str | Path, env: dict[str, str], log: Path, umask: int = -1, tree: Path = REPOSITORY
) -> subprocess.Popen[bytes]:
    """A command of `oubli` that runs on, in a session of its own; what it says goes to the end of `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", *map(str, arguments)],
            env=environment(env),
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=umask,
        )


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass
class Service:
    """A running `oubli serve`, in a folder of its own."""

    folder: Path
    env: dict[str, str] = field(default_factory=lambda: dict(TINY))
    port: int = field(default_factory=free_port)
    name: str = "data"  # of the data folder
    umask: int = -1  # the test's own
    tree: Path = REPOSITORY  # whose code runs
    _process: subprocess.Popen[bytes] | None = None
    _client: httpx.Client | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self.folder / self.name

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def key(self) -> str:
        return (self.data / "admin-key").read_text().strip()

    @property
    def client(self) -> httpx.Client:
        """With the admin key."""
        if self._client is None:
            self._client = self.client_with(self.key)
        return self._client

    def client_with(self, key: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60.0, event_hooks={"response": [check_error]})

    # -------------------------------------------------------------------------------------------- processes

    def start(self, *, ready: bool = True) -> Service:
        command = ("serve", "--data", self.data, "--port", str(self.port))
        self._process = launch(*command, env=self.env, log=self.folder / "log", umask=self.umask, tree=self.tree)
        if ready:
            until(self.is_ready, seconds=READY_SECONDS, what="/health/ready")
        return self

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=30.0).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def family(self) -> list[psutil.Process]:
        """All processes below the supervisor."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def child(self, role: str) -> psutil.Process:
        """The process of a role: api, worker, beat."""

        def find() -> psutil.Process | None:
            for process in self.family():
                try:
                    if role in process.cmdline():
                        return process
                except psutil.Error:
                    continue
            return None

        found = until(find, what=f"a process for {role}")
        assert found is not None
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End it by a signal; seconds that it took. Fails if any process below it is left."""
        family, started = self.family(), time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(60)
        finally:
            took = time.monotonic() - started
            self._forget()
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        # Their parent has waited for them; after its SIGKILL the kernel ends them, and their adopter reaps them.
        _, alive = psutil.wait_procs(family, timeout=10)
        left = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        words = [" ".join(process.cmdline()) for process in left]
        for process in left:
            process.kill()
        assert not words, f"left behind: {words}"
        return took

    def _forget(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self.stop()
        self._forget()

    # ------------------------------------------------------------------------------------------------ calls

    def contribute(
        self, pictures: Sequence[Picture], owners: str | Sequence[str], role: str = "training"
    ) -> list[dict[str, Any]]:
        """All in one batch; the samples."""
        each = [owners] * len(pictures) if isinstance(owners, str) else owners
        said = zip(pictures, each, strict=True)
        metadata = [{"label": picture.label, "owner": owner, "role": role} for picture, owner in said]
        answer = self.client.post(
            "/samples/batch", files=upload("images", pictures), data={"metadata": json.dumps(metadata)}
        )
        assert answer.status_code == 200, answer.text
        items = answer.json()["items"]
        assert [item["status"] for item in items] == [201] * len(pictures), items
        return [item["sample"] for item in items]

    def pages(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Every item of a list."""
        items, cursor = [], None
        while True:
            more = {"cursor": cursor} if cursor else {}
            page = self.client.get(path, params={"limit": 200, **query, **more}).json()
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items

    def status(self) -> dict[str, Any]:
        answer = self.client.get("/status")
        assert answer.status_code == 200, answer.text
        status: dict[str, Any] = answer.json()
        return status

    def digests(self) -> list[str]:
        """Of the served prompts."""
        return sorted(c["prompt"]["digest"] for c in self.pages("/clusters") if c["prompt"] is not None)

    def settle(self, *, seconds: float = DONE_SECONDS) -> list[dict[str, Any]]:
        """Wait until all samples are served and every erasure is completed and restored; the clusters."""

        def idle() -> list[dict[str, Any]] | None:
            filled = [cluster for cluster in self.pages("/clusters") if cluster["samples"]]
            trained = all(c["prompt"] and c["prompt"]["members"] == c["samples"] for c in filled)
            status = self.status()
            erasures = self.pages("/erasures")
            unfinished = any(one["restored_at"] is None or one["state"] != "completed" for one in erasures)
            # The sum tells whether a plan is under way: it moves samples between clusters.
            whole = sum(cluster["samples"] for cluster in filled) == status["samples"]
            return [{"clusters": filled}] if trained and whole and not unfinished else None

        found = until(idle, seconds=seconds, what=f"everything trained\n{self.log[-3000:]}")
        assert found is not None
        clusters: list[dict[str, Any]] = found[0]["clusters"]
        return clusters

    def complete(self, erasure_id: str) -> dict[str, Any]:
        """Wait until this erasure is completed, and every cluster that it touches serves again."""

        def completed() -> dict[str, Any] | None:
            erasure: dict[str, Any] = self.client.get(f"/erasures/{erasure_id}").json()
            return erasure if erasure["state"] == "completed" and erasure["restored_at"] else None

        found = until(completed, what=f"erasure {erasure_id} completed and restored\n{self.log[-3000:]}")
        assert found is not None
        return found

    def objects(self, prefix: str = "samples") -> list[Path]:
        """The files kept below DATA/objects."""
        return [path for path in (self.data / "objects" / prefix).rglob("*") if path.is_file()]


def upload(field: str, pictures: Iterable[Picture]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Files of a multipart body."""
    return [(field, (picture.name, picture.data, picture.media_type)) for picture in pictures]


@functools.cache
def described(name: str) -> dict[str, Any]:
    """A schema of the committed description."""
    schema: dict[str, Any] = json.loads((REPOSITORY / "openapi.json").read_text())["components"]["schemas"][name]
    return schema


def assert_kind(problem: dict[str, Any]) -> None:
    """A problem as it is described, of a kind that is listed."""
    schema = described("Problem")
    assert set(schema["required"]) <= set(problem) <= set(schema["properties"]), problem
    assert problem["code"] in schema["properties"]["code"]["enum"], problem
    assert problem["type"] == f"urn:oubli:problem:{problem['code']}"
    assert problem["title"]
    assert problem["detail"]


def check_error(answer: httpx.Response) -> None:
    """Of whatever a test asks for: every error is a problem, but for what a probe reads."""
    if answer.is_error and answer.request.method != "HEAD" and not answer.request.url.path.endswith("/health/ready"):
        answer.read()
        assert answer.headers["content-type"] == PROBLEM, (answer.status_code, answer.headers, answer.text)
        assert_kind(answer.json())
        assert answer.json()["status"] == answer.status_code


def assert_problem(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """RFC 9457, in words for the caller; nothing of the machinery shows."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    check_error(answer)
    assert answer.headers["x-request-id"]
    problem: dict[str, Any] = answer.json()
    assert problem["instance"] == answer.request.url.path
    if answer.status_code != 422:
        assert "errors" not in problem or problem["errors"]
    for leak in ("Traceback", 'File "', "Error(", "sqlalchemy", "site-packages", "pydantic", "0x7"):
        assert leak not in answer.text, answer.text
    for word in words:
        assert word in answer.text, answer.text
    return problem
