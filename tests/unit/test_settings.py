"""Names of settings: an unknown one is refused, in the environment and in the file, with the nearest that there is."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy

from service.errors import Misconfigured
from service.settings import describe, load_settings
from service.variables import unknown
from tests import documents

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [variable for variable, _, _ in describe()]
READ_BY = ("service", "workers", "models", "benchmarks", "docker", "docs", "migrations")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    import os

    for name in list(os.environ):
        if name.upper().startswith("OUBLI_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("OUBLI_PARTITON__CAP", "Did you mean OUBLI_PARTITION__CAP?"),
        ("OUBLI_PARTITION__CAPP", "Did you mean OUBLI_PARTITION__CAP?"),
        ("OUBLI_PARTITION_CAP", "Did you mean OUBLI_PARTITION__CAP?"),
        ("OUBLI_PARTITION__CAP__MOST", "Did you mean OUBLI_PARTITION__CAP?"),
        ("OUBLI_DATADIR", "Did you mean OUBLI_DATA_DIR?"),
        ("oubli_datadir", "Did you mean OUBLI_DATA_DIR?"),
        ("OUBLI_CONFG", "Did you mean OUBLI_CONFIG?"),
        ("OUBLI_ZZZZZZZZZZZZZZZZZZZZ", "`oubli settings` lists all."),
        ("OUBLI_PORT", "there is no such setting"),
        ("OUBLI_", "there is no such setting"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch, variable, words):
    monkeypatch.setenv(variable, "a-secret-perhaps")
    with pytest.raises(Misconfigured) as refused:
        load_settings()
    assert refused.value.detail.splitlines()[1].strip().startswith(variable)
    assert words in refused.value.detail
    assert "a-secret" not in refused.value.detail


def test_all_unknown_variables_are_named_at_once(monkeypatch):
    monkeypatch.setenv("OUBLI_ONE", "")
    monkeypatch.setenv("OUBLI_TWO", "")
    with pytest.raises(Misconfigured, match=r"(?s)OUBLI_ONE.*OUBLI_TWO"):
        load_settings()


@pytest.mark.parametrize("variable", [*SETTINGS, "OUBLI_PARTITION", "oubli_partition__cap", "OUBLI_URL", "OUBLI_KEY",
                                      "OUBLI_TEST_DATA", "OUBLI_DRILL_SEED", "OUBLI_BENCH_PEERS", "PATH", "XOUBLI_A",
                                      "_OUBLI_COMPLETE"])  # fmt: skip
def test_what_is_read_somewhere_is_known(variable):
    assert list(unknown({variable: "1"}, [*SETTINGS, "OUBLI_PARTITION"])) == []


def test_what_kubernetes_tells_of_services_is_no_setting():
    told = {
        "OUBLI_SERVICE_HOST": "10.0.0.7",
        "OUBLI_SERVICE_PORT": "80",
        "OUBLI_SERVICE_PORT_HTTP": "80",
        "OUBLI_PORT": "tcp://10.0.0.7:80",
        "OUBLI_PORT_80_TCP": "tcp://10.0.0.7:80",
        "OUBLI_PORT_80_TCP_PROTO": "tcp",
        "OUBLI_API_SERVICE_HOST": "10.0.0.8",
        "OUBLI_API_PORT": "tcp://10.0.0.8:80",
        "OUBLI_API_PORT_80_TCP_ADDR": "10.0.0.8",
    }
    assert list(unknown(told, SETTINGS)) == []


def _files():
    for folder in READ_BY:
        yield from (
            path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh", ".sbatch", ".md", ".yml")
        )
    yield from (ROOT / name for name in ("Makefile", "README.md", "docker-compose.yml", "docker/Dockerfile"))
    yield from (ROOT / "tests").rglob("*.py")


def test_every_variable_that_our_files_read_or_name_is_known():
    """Tests may name wrong ones, so of them only what they read counts."""
    named = set()
    for path in _files():
        if path.name == "variables.py":
            continue
        pattern = (
            r"(?:environ|getenv)[^\n]{0,20}\"(OUBLI_\w*[A-Z0-9])\""
            if "tests" in path.parts
            else r"\b(OUBLI_\w*[A-Z0-9])\b"
        )
        named |= set(re.findall(pattern, path.read_text()))
    assert len(named) > 20
    assert list(unknown(dict.fromkeys(named, ""), [*SETTINGS, "OUBLI_PARTITION"])) == []


# ------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('databse_url = "sqlite://"', "databse_url: there is no such setting. Did you mean database_url?"),
        ("[partitoin]\ncap = 300", "partitoin: there is no such setting. Did you mean partition?"),
        ("[training]\nepochz = 2", "training.epochz: there is no such setting. Did you mean training.epochs?"),
        ("[training]\nepochs = 0", "training.epochs: Input should be greater"),
        ("partition = 3", "partition: "),
        ("no toml", "is not a TOML file"),
    ],
    ids=lambda text: text.splitlines()[0][:20],
)
def test_what_a_file_says_wrongly_is_refused_in_words(monkeypatch, tmp_path, text, words):
    path = tmp_path / "oubli.toml"
    path.write_text(text)
    monkeypatch.setenv("OUBLI_CONFIG", str(path))
    with pytest.raises(Misconfigured) as refused:
        load_settings()
    assert words in refused.value.detail


def test_a_file_without_text_is_refused_in_words(monkeypatch, tmp_path):
    path = tmp_path / "oubli.toml"
    path.write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("OUBLI_CONFIG", str(path))
    with pytest.raises(Misconfigured, match="is not a TOML file"):
        load_settings()


def test_a_group_that_is_no_json_is_refused_in_words_and_without_its_value(monkeypatch):
    monkeypatch.setenv("OUBLI_S3", "{a-secret-perhaps")
    with pytest.raises(Misconfigured) as refused:
        load_settings()
    assert "s3" in refused.value.detail
    assert "a-secret" not in refused.value.detail


def test_settings_are_read_from_file_and_environment(monkeypatch, tmp_path):
    path = tmp_path / "oubli.toml"
    path.write_text('log_level = "ERROR"\n[partition]\ncap = 300\nmin = 50\n')
    monkeypatch.setenv("OUBLI_CONFIG", str(path))
    monkeypatch.setenv("OUBLI_PARTITION__CAP", "200")
    chosen = load_settings()
    assert (chosen.log_level, chosen.partition.cap, chosen.partition.min) == ("ERROR", 200, 50)


def test_what_the_page_says_of_tls_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    page = documents.text_of(documents.DEPLOYMENT).split("## TLS")[1].split("\n## ")[0]
    told = dict(re.findall(r"`(OUBLI_(?:DATABASE|BROKER)_URL)=([^`]+)`", page))
    assert set(told) == {"OUBLI_DATABASE_URL", "OUBLI_BROKER_URL"}
    for name, value in told.items():
        monkeypatch.setenv(name, value.replace("…", "5ec4e7"))
    found = load_settings()
    url = sqlalchemy.make_url(str(found.database))
    _, connecting = sqlalchemy.create_engine(url).dialect.create_connect_args(url)
    assert (connecting["sslmode"], connecting["sslrootcert"]) == ("verify-full", "/etc/oubli/ca.pem")
    assert (connecting["host"], connecting["password"]) == ("db.example", "5ec4e7")
    broker = urlsplit(found.broker)
    assert (broker.scheme, broker.hostname, broker.password) == ("rediss", "redis.example", "5ec4e7")
    assert parse_qs(broker.query) == {"ssl_ca_certs": ["/etc/oubli/ca.pem"]}
