"""docs/slurm/worker.sbatch, run with a stand-in for Slurm and for `oubli`: what it starts, restarts and passes on."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "slurm" / "worker.sbatch"
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do echo "$1" >> "$NOTES/srun"; shift; done
SLURM_LOCALID=1 SLURM_PROCID=5 exec "$@"
"""
OUBLI = """#!/bin/bash
echo "$* $OUBLI_BROKER_URL" >> "$NOTES/started"
trap 'sleep 0.3; echo left >> "$NOTES/left"; exit 0' TERM
{body}
for i in $(seq 600); do sleep 0.05; done
"""


class Job:
    """The script under way."""

    def __init__(self, folder: Path, body: str = "", env_file: str = "OUBLI_DATABASE_URL=d\nOUBLI_BROKER_URL=b\n"):
        self.folder = folder
        (folder / "env").write_text(env_file)
        for name, text in (("srun", SRUN), ("oubli", OUBLI.format(body=body))):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        given = {"PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(folder), "OUBLI_BIN": str(folder)}
        given |= {"OUBLI_ENV_FILE": str(folder / "env"), "HOME": str(folder)}
        self.process = subprocess.Popen(
            ["bash", SCRIPT], env=given, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def until_started(self, times: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.lines("started")) < times:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def task(self) -> int:
        """The process that srun has become: --signal tells tasks, not the script's own shell."""
        (task,) = psutil.Process(self.process.pid).children()
        return task.pid

    def end(self) -> tuple[int, str]:
        """Its status and what it said."""
        try:
            _, said = self.process.communicate(timeout=20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, said


def test_a_task_starts_a_worker_on_its_own_device_and_again_if_it_dies(tmp_path: Path) -> None:
    job = Job(tmp_path, body='[[ $(wc -l < "$NOTES/started") -gt 1 ]] || kill -9 $$')
    job.until_started(2)
    os.kill(job.task(), signal.SIGTERM)
    status, said = job.end()
    assert "worker 5 ended (status 137) and is started again" in said
    first, second = job.lines("started")
    assert first == second
    assert first.startswith("worker --device cuda:0 --name gpu1.")
    assert first.endswith(" b")
    assert "--gpus-per-task=1" in job.lines("srun")
    assert status == 0


def test_told_to_go_it_waits_for_the_worker_to_leave(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.until_started(1)
    os.kill(job.task(), signal.SIGTERM)
    status, _ = job.end()
    assert status == 0
    assert len(job.lines("started")) == 1
    assert job.lines("left") == ["left"]


def test_wrong_settings_end_it(tmp_path: Path) -> None:
    job = Job(tmp_path, body="exit 2")
    assert job.end()[0] == 2
    assert len(job.lines("started")) == 1


@pytest.mark.parametrize("env_file", ["OUBLI_DATABASE_URL=d\n", "OUBLI_BROKER_URL=b\n"])
def test_what_a_worker_needs_is_asked_for(tmp_path: Path, env_file: str) -> None:
    status, said = Job(tmp_path, env_file=env_file).end()
    assert status == 2
    assert "does not set OUBLI_" in said
    assert not (tmp_path / "started").exists()
