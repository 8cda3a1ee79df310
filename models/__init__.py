"""Pure machine learning: no HTTP, no SQL, no Celery.

Everything here is a function of its arguments. Nothing reads a clock, a database, a global seed or an
environment variable, so that the same inputs give the same bytes (see `models.determinism`).
"""
