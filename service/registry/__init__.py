"""The registry: the only SQL in the service, on SQLite and PostgreSQL alike.

`engine` opens it, `tables` declares it, and each repository module has the queries and changes of one noun, as
functions that take a session. Functions never commit; the caller that opened the session does, once.
"""
