"""The registry: the only SQL in the service, on SQLite and PostgreSQL alike.

`engine` opens it, `tables` says what it holds, and each repository module holds the questions and changes of one noun,
as functions that take a session. Functions never commit; whoever opened the session does, once.
"""
