"""Run by Alembic: migrate the registry whose URL `service.registry.engine` put into the configuration."""

from __future__ import annotations

from alembic import context

from service.registry.engine import Registry
from service.registry.tables import Base


def run() -> None:
    """One transaction; batch mode, because SQLite cannot alter most things in place."""
    registry = Registry(context.config.attributes["url"])
    try:
        with registry.engine.connect() as connection:
            context.configure(
                connection=connection,
                target_metadata=Base.metadata,
                render_as_batch=True,
                compare_type=True,
            )
            with context.begin_transaction():
                context.run_migrations()
    finally:
        registry.close()


run()
