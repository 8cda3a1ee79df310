"""The description of the API is committed, complete and that of the running service."""

from __future__ import annotations

import json
import re

from tests.integration.harness import PROBLEM, REPOSITORY, Service, oubli

OPERATIONS = {
    "POST /samples", "POST /samples/batch", "GET /samples", "GET /samples/{sample_id}", "DELETE /samples/{sample_id}",
    "DELETE /owners/{owner}", "POST /erasures", "GET /erasures", "GET /erasures/{erasure_id}", "POST /predict",
    "GET /clusters", "GET /clusters/{cluster_id}", "POST /clusters/{cluster_id}/retry", "GET /labels",
    "GET /partition", "GET /quality", "GET /status",
    "POST /keys", "GET /keys", "GET /keys/{key_id}", "DELETE /keys/{key_id}", "POST /keys/{key_id}/rotate",
    "GET /health/live", "GET /health/ready", "GET /metrics",
}  # fmt: skip


def test_the_committed_description_is_the_running_one(service: Service) -> None:
    committed = (REPOSITORY / "openapi.json").read_text()
    assert service.client.get("/openapi.json").json() == json.loads(committed)
    printed = oubli("openapi")
    assert printed.code == 0, printed.err
    assert printed.out == committed


def test_the_description_lists_every_call_and_its_errors(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    described = {
        f"{method.upper()} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert set(described) == OPERATIONS
    for name, operation in described.items():
        assert operation["summary"], name
        assert operation["tags"], name
        success = [status for status in operation["responses"] if status < "300"]
        assert success, name
        if name.startswith("GET /health"):
            continue
        errors = {status: operation["responses"][status] for status in operation["responses"] if status >= "400"}
        assert {"401", "403", "422", "500"} <= set(errors), name
        for status, response in errors.items():
            schema = response["content"][PROBLEM]["schema"]
            assert list(response["content"]) == [PROBLEM], f"{name} {status}"
            assert schema == {"$ref": "#/components/schemas/Problem"}, f"{name} {status}"
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]
