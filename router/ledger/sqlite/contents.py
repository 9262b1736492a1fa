"""What every SQLite store shows of itself, be it a ledger or the copy of one."""

from __future__ import annotations

from router.ledger.sqlite import steps
from router.ledger.sqlite.database import Database
from router.ledger.sqlite.log import SqliteLog
from router.ledger.sqlite.verify import problems
from router.types import Change


class SqliteContents:
    """The audit, the scope values, the check and the log of one `database`."""

    def __init__(self, database: Database):
        self._database = database
        self.name = database.name

    def audit(self) -> list[Change]:
        with self._database.read() as connection:
            return steps.audit(connection)

    def scope_values(self, budget: str) -> list[str]:
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT DISTINCT scope_value FROM account WHERE budget = ? ORDER BY 1", (budget,)
            ).fetchall()
        return [value for [value] in rows]

    def verify(self) -> list[str]:
        with self._database.read() as connection:
            return problems(connection)

    def log(self) -> SqliteLog:
        return SqliteLog(self._database, owned=False)

    def close(self) -> None:
        self._database.close()
