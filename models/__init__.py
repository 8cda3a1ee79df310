"""Pure machine learning: no HTTP, no SQL, no Celery.

Everything here is a function of its arguments. No function reads a clock, a database, a global seed or an environment
variable, so the same inputs give the same bytes (see `models.determinism`).
"""
