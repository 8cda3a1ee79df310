"""`make fuzz`: thousands of requests made from the service's own description, in the name of each kind of caller.

Schemathesis (the extra `fuzz`) reads `/openapi.json` of a real `oubli serve` and sends what fits it and what does not:
for an admin, for a key of each scope alone, and without a key. No answer may be a 500, have a status or a shape that is
not described, or take what should be refused; and each refusal must keep to its description. The service counts the
requests itself (`/metrics`), and its own count is held against the description once more.

Left out of its checks: that whatever fits the description is taken (a cursor that no list has answered with, a past
date and bytes that are no picture fit it, and are refused); and that a key is gone once it has been deleted (it is
revoked then, and can be looked at).

    python -m tests.fuzz [--examples N] [--seed N] [--only CALLER ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from service.core.access import SCOPES
from tests.integration.harness import TINY, Service, digit_pictures, environment, oubli

NOBODY = "no key"
CALLERS = (*SCOPES, NOBODY)
CHECKS = """
[checks]
positive_data_acceptance.enabled = false

[[operations]]
include-path = "/keys/{key_id}"
checks.use_after_free.enabled = false
"""
PHASES = "examples,coverage,fuzzing,stateful"
Key = tuple[str, str, int]  # method, route, status
# Said once for all operations, in the description's head.
ANYWHERE = {405, 431}


@dataclass(frozen=True)
class Found:
    """What came of one caller's requests."""

    caller: str
    answers: Counter[Key]
    failures: int
    report: str

    @property
    def requests(self) -> int:
        return sum(self.answers.values())

    def of(self, lowest: int, highest: int) -> int:
        return sum(count for (_, _, status), count in self.answers.items() if lowest <= status <= highest)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100, help="requests of each kind for each operation, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=CALLERS, help="this caller; may be given more than once")
    asked = parser.parse_args()
    callers = [caller for caller in CALLERS if not asked.only or caller in asked.only]
    with tempfile.TemporaryDirectory(prefix="oubli-fuzz-") as name, Service(Path(name)) as service:
        service.env = {**TINY, "OUBLI_LOG_LEVEL": "WARNING"}
        service.start()
        document = httpx.get(f"{service.url}/openapi.json").json()
        found = [ask(service, caller, examples=asked.examples, seed=asked.seed) for caller in callers]
        log = service.log
    sys.exit(judge(found, document, log))


def ask(service: Service, caller: str, *, examples: int, seed: int) -> Found:
    """Let Schemathesis ask, with a new key of this scope, of a service that holds something."""
    (service.folder / "schemathesis.toml").write_text(CHECKS)
    held = json.dumps(fill(service))
    key = make_key(service, caller) if caller != NOBODY else None
    before = counted(service)
    report = service.folder / f"{caller}.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--no-color"]
    command += ["--phases", PHASES, "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure"]
    command += ["--generation-database", "none", "--report", "json", "--report-json-path", str(report)]
    command += ["--header", f"Authorization: Bearer {key}"] if key else []
    hooks = {"SCHEMATHESIS_HOOKS": "tests.fuzz_inputs", "OUBLI_TEST_HELD": held}
    env = {**environment(hooks), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=service.folder, env=env, capture_output=True, text=True, check=False)
    if not report.exists():
        sys.exit(f"Schemathesis did not run:\n{(done.stdout + done.stderr)[-2000:]}")
    cases: dict[str, Any] = json.loads(report.read_text())["test_cases"]
    failures = cases["unique_failures"] + cases["errored"]
    return Found(caller, counted(service) - before, failures, done.stdout if failures or done.returncode else "")


def fill(service: Service) -> dict[str, list[str]]:
    """Contribute to it, erase some of that and make keys; whatever has an id, by its id, and owners."""
    owners = [f"owner-{number}" for number in range(12)]
    with service.client_with(make_key(service, "admin")) as client:
        for number, picture in enumerate(digit_pictures(72)):
            form = {"label": picture.label, "owner": owners[number % len(owners)]}
            files = {"image": (picture.name, picture.data)}
            assert client.post("/samples", files=files, data=form).status_code == 201
        for owner in owners[:2]:
            assert client.delete(f"/owners/{owner}").status_code == 202
        for _ in range(3):
            assert client.post("/keys", json={"scopes": ["read"]}).status_code == 201
        lists = ("/samples", "/clusters", "/erasures", "/keys")
        ids = [item["id"] for path in lists for item in client.get(path, params={"limit": 200}).json()["items"]]
    return {"ids": ids, "owners": owners}


def make_key(service: Service, scope: str) -> str:
    """On the data folder: an admin among the callers may have revoked whatever key another would be made with."""
    done = oubli("keys", "create", "--scopes", scope, "--data", service.data, env=service.env)
    assert done.code == 0, done.err
    return done.out.split()[-1]


def counted(service: Service) -> Counter[Key]:
    """What the service says that it has answered, but for these questions."""
    with service.client_with(make_key(service, "read")) as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    (family,) = (one for one in text_string_to_metric_families(answer.text) if one.name == "oubli_requests")
    said = (sample for sample in family.samples if sample.name == "oubli_requests_total")
    answers = Counter({(s.labels["method"], s.labels["route"], int(s.labels["status"])): int(s.value) for s in said})
    answers.pop(("GET", "/metrics", 200), None)
    return answers


def judge(found: Sequence[Found], document: dict[str, Any], log: str) -> int:
    """Print the table and what was wrong; the exit status."""
    table = Table("caller", "requests", "2xx", "4xx", "500", "503, 507", "undescribed", "violations")
    wrong = 0
    for one in found:
        undescribed = [key for key in one.answers if not is_described(key, document)]
        broken = one.of(500, 500)
        figures = (one.requests, one.of(200, 299), one.of(400, 499), broken, one.of(501, 599))
        table.add_row(one.caller, *(f"{figure:,}" for figure in figures), str(len(undescribed)), str(one.failures))
        wrong += broken + len(undescribed) + one.failures
        for text in (one.report[-20_000:], *(f"undescribed: {key}" for key in undescribed)):
            if text:
                print(re.sub(r"(.{400}).*", r"\1 ...", text))
    Console().print(table)
    if "Traceback" in log:
        print(log[-5_000:])
        wrong += 1
    print(f"{sum(one.requests for one in found):,} requests, {wrong} wrong")
    return 1 if wrong else 0


def is_described(key: Key, document: dict[str, Any]) -> bool:
    """Whether the description says that this operation may answer so; of other paths and methods it says nothing."""
    method, route, status = key
    operation = document["paths"].get(route.replace("{owner:path}", "{owner}"), {}).get(method.lower())
    return operation is None or status in ANYWHERE or str(status) in operation["responses"]


if __name__ == "__main__":
    main()
