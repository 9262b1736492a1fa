"""The ledger in a PostgreSQL database, shared by the processes of many machines.

Importing this imports psycopg, so nothing does before a postgresql:// URL is opened.
"""

from __future__ import annotations

from router.ledger.postgres.database import Database, exists
from router.ledger.postgres.log import PostgresLog
from router.ledger.postgres.store import PostgresStore

__all__ = ["Database", "PostgresLog", "PostgresStore", "exists"]
