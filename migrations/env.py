"""Run by Alembic: migrate the registry that `service.registry.engine` put into the configuration."""

from __future__ import annotations

from alembic import context

from service.registry.engine import ConnectionOptions, Registry
from service.registry.tables import Base


def run() -> None:
    """One transaction; batch mode, because SQLite cannot alter most things in place."""
    patient = ConnectionOptions(statement=0, lock=0, idle=0)
    registry = Registry(context.config.attributes["database"], patient)
    try:
        with registry.engine.connect() as connection:
            if registry.is_sqlite:
                # Batch mode makes a table anew and drops the old one, which others refer to. Not within a transaction.
                connection.connection.execute("PRAGMA foreign_keys=OFF")
            context.configure(
                connection=connection,
                target_metadata=Base.metadata,
                render_as_batch=True,
                compare_type=True,
            )
            with context.begin_transaction():
                context.run_migrations()
                if registry.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                    raise RuntimeError(
                        "The migration would leave rows that refer to nothing; nothing has been changed."
                    )
    finally:
        registry.close()


run()
