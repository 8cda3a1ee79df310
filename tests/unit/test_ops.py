"""docs/ops and its page name the metrics that exist, all of them, and Prometheus' own tool accepts the rules."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client.parser
import pytest
import yaml
from prometheus_client import generate_latest

from models.choice import Choice
from models.quality import QualityReport
from service.api.metrics import Collector, Metrics
from service.clock import system_clock
from service.core.stats import Stats
from service.registry.counters import CounterValues
from service.registry.records import Marks
from service.serving.quality import Measured
from tests import documents
from tests.programs import program

OPS = Path(__file__).parents[2] / "docs" / "ops"
NAME = re.compile(r"\b(?:oubli|process)_[a-z_]+[a-z]\b")


def text_of() -> str:
    return documents.text_of(documents.OPERATIONS)


def stats() -> Stats:
    told = dict.fromkeys(("epoch", "samples", "overdue", "workers", "pending_deletions", "pausing", "unrestored"), 1)
    states: dict[str, Any] = {"clusters": {"serving": 1}, "erasures": {"failed": 1}, "behind": {"host-1": 1}}
    return Stats(**told, **states, oldest_change=1.0, oldest_erasure=1.0, counters=CounterValues({}))


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of every sample that a replica exposes, with a request, a batch and an erasure behind it."""
    metrics = Metrics()
    metrics.requests.labels("GET", "/", "200").inc()
    metrics.request_seconds.labels("GET", "/").observe(1)
    metrics.batch(3, 0.1)
    queue: Any = SimpleNamespace(depth=1, max_queue=2, refused=0, late=0)
    report = QualityReport(2, 0.5, 0.5, (), (), ())
    measured = Measured(Marks(2, 0), "0" * 64, Choice(0.1, 0.1), system_clock(), system_clock(), report)
    metrics.registry.register(Collector(stats, lambda: 0, queue, lambda: measured, lambda: measured))
    families = prometheus_client.parser.text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {sample.name for family in families for sample in family.samples}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OPS / "grafana-dashboard.json").read_text())
    return found


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_metric_of_dashboard_and_alerts_is_exposed(exposed: set[str]) -> None:
    expressions = queries() + [rule["expr"] for rule in rules()]
    named = {name for expression in expressions for name in NAME.findall(expression)}
    assert len(named) > 20
    assert named <= exposed, named - exposed


def test_the_table_of_metrics_is_whole(exposed: set[str]) -> None:
    listed = dict(re.findall(r"^\| `(oubli_[a-z_]+)[`{].*?\| (gauge|counter|histogram) \|", text_of(), re.MULTILINE))
    expanded = {
        f"{name}{suffix}"
        for name, kind in listed.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    assert expanded == {name for name in exposed if name.startswith("oubli_")}


def test_an_alert_names_only_metrics_in_its_words_that_exist(exposed: set[str]) -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(NAME.findall(" ".join(rule["annotations"].values()))) <= exposed


def test_the_dashboard_can_be_imported() -> None:
    found = dashboard()
    assert found["schemaVersion"] >= 36
    assert {variable["name"] for variable in found["templating"]["list"]} == {"datasource", "job"}
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies upon another"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert "$job" in target["expr"]


def test_what_every_replica_tells_alike_is_never_summed_over_replicas() -> None:
    registry = re.findall(r"^\| `(oubli_[a-z_]+)[`{].*?\| registry \|", text_of(), re.MULTILINE)
    for expression in queries() + [rule["expr"] for rule in rules()]:
        for registered in registry:
            name = f"{registered}(?:_bucket|_sum|_count)?"
            for before in re.findall(rf"(\w+)(?: by \([^)]*\))? ?\(+(?:(?:rate|increase)\()?{name}\b", expression):
                assert before != "sum", expression


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [program("promtool", package="prometheus"), *arguments], capture_output=True, text=True, check=False, cwd=OPS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_alerts() -> None:
    promtool("check", "rules", "alerts.yml")


def test_alerts_fire_when_they_should_and_not_before() -> None:
    promtool("test", "rules", "alerts.test.yml")
    tried = {test["alertname"] for case in yaml.safe_load((OPS / "alerts.test.yml").read_text())["tests"]
             for test in case["alert_rule_test"]}  # fmt: skip
    assert tried <= {rule["alert"] for rule in rules()}
    assert len(tried) >= 5


def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As a recording rule each, with Grafana's variables filled in."""
    filled = [query.replace("$job", ".*").replace("$__rate_interval", "1m") for query in queries()]
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", path)


def test_prometheus_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    (example,) = re.findall(r"<!-- scrape.*?```yaml\n(.*?)```", text_of(), re.DOTALL)
    key = tmp_path / "key"
    key.write_text("oubli_x")
    path = tmp_path / "prometheus.yml"
    path.write_text(
        example.replace("/etc/prometheus/oubli-key", str(key)).replace("alerts.yml", str(OPS / "alerts.yml"))
    )
    promtool("check", "config", path)
