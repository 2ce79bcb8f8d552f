"""The history of the database's tables, as alembic migrations; the journal runs them when it opens a database.

A new migration is a new file in `versions/` with the next number. `REVISION` in `service/adapters/journal.py` names
the newest one.
"""
