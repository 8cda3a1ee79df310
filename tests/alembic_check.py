"""`make check`: migrating an empty database gives exactly what the tables declare, on both dialects.

Against real servers, because a type or a constraint can agree on SQLite and differ on PostgreSQL.
"""

import tempfile
from pathlib import Path

from service.registry.engine import check_migrations, migrate
from tests.servers import fresh_database, postgres


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _check(f"sqlite:///{Path(folder, 'registry.sqlite3')}")
    with postgres() as server, fresh_database(server) as url:
        _check(url)


def _check(url: str) -> None:
    migrate(url)
    check_migrations(url)
    print(f"migrations match the tables: {url.partition(':')[0]}")


if __name__ == "__main__":
    main()
