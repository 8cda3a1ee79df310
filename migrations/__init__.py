"""Schema migrations (Alembic), one tree for SQLite and PostgreSQL."""
