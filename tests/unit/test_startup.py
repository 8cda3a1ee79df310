"""What a command that only talks, or only says how to be used, does not wait for."""

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("alembic", "celery", "faiss", "fastapi", "numpy", "PIL", "psycopg", "scipy", "sklearn", "sqlalchemy", "timm",
        "torch", "torchvision")  # fmt: skip
NOBODY = "http://127.0.0.1:9"  # where nothing listens: the port of a service that is not run

_RUN = """
import sys
from service.cli.main import main
sys.argv = ["oubli", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print("ended with", end.code)
print("loaded", *sys.modules)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["serve", "--help"], 0),
        (["settings"], 0),
        (["status", "--url", NOBODY], 1),
        (["retry", "--url", NOBODY], 1),
        (["erase", "--owner", "ada", "--url", NOBODY], 1),
        (["erase", "--owner", "ada", "--yes", "--json", "--url", NOBODY], 1),
        (["predict", __file__, "--url", NOBODY], 1),
        (["ingest", "ALBUM", "--owner", "ada", "--url", NOBODY], 1),
    ],
)
def test_commands_that_only_talk_load_nothing_slow(arguments: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "album" / "cat").mkdir(parents=True)
    (tmp_path / "album" / "cat" / "one.jpg").write_bytes(b"\xff\xd8\xff")
    words = [word.replace("ALBUM", str(tmp_path / "album")) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *words],
        cwd=Path(__file__).parents[2],
        env={"OUBLI_DATA_DIR": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *_, loaded = done.stdout.splitlines()
    found = {name.partition(".")[0] for name in loaded.split()}
    assert f"ended with {code}" in done.stdout, done.stdout + done.stderr
    assert "service" in found
    assert sorted(found & set(SLOW)) == []
