"""The log beside a PostgreSQL store's counters: the same rows, read the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from router.ledger.postgres.database import Database
from router.ledger.postgres.steps import LOCKS
from router.log.base import Label, Memo
from router.log.reader import LABEL_OF, PagedLog
from router.log.schema import LOOK_TABLE, MEMO_TABLE
from router.log.writer import to_json

_TABLE_LOCK = 2  # of making a table that came later

# JSON does not tell 1.0 from 1.
_FLOATS = ("_time", "time", "ended", "propensity", "latency", "label", "score", "rate")


class PostgresLog(PagedLog):
    """The log in one PostgreSQL store."""

    _database: Database

    _bin = "CAST(floor(time / :bin) AS int8)"

    def _page(self, query: str, place: Mapping[str, float | int]) -> list[dict[str, Any]]:
        for name, value in place.items():
            kind = "int8" if isinstance(value, int) else "float8"
            query = query.replace(f":{name}", f"'{value!r}'::{kind}")
        [rows] = self._database.read(f"SELECT to_json(page) FROM ({query}) AS page")
        return [_floats(json.loads(str(row))) for [row] in rows]

    def _put(self, label: Label) -> bool:
        known: bool = self._database.call(
            "SELECT to_jsonb(put_label($1, $2, $3, $4, $5))",
            *(label.request_id, label.score, label.source, label.time, label.rate),
        )
        return known

    def label(self, request_id: str) -> Label | None:
        query = LABEL_OF.replace(":request_id", "$1")
        row = self._database.call(f"SELECT to_json(found) FROM ({query}) AS found", request_id)
        return None if row is None else Label(**_floats(row))

    def memos(self, prefix: str) -> dict[str, Memo]:
        if not self._has("memo"):
            return {}
        rows = self._database.call(
            "SELECT json_agg(json_build_array(name, value, version)) FROM memo"
            " WHERE starts_with(name, $1)",
            prefix,
        )
        return {name: Memo(json.loads(value), version) for name, value, version in rows or ()}

    def keep(self, name: str, value: Any, version: int) -> bool:
        if not self._has("memo"):
            _make(self._database, MEMO_TABLE)
        if version == 0:
            statement = (
                "INSERT INTO memo (name, value, version) VALUES ($1, $2, 1 + $3)"
                " ON CONFLICT (name) DO NOTHING RETURNING to_json(true)"
            )
        else:
            statement = (
                "UPDATE memo SET value = $2, version = version + 1"
                " WHERE name = $1 AND version = $3 RETURNING to_json(true)"
            )
        return self._database.call(statement, name, to_json(value), version) is True

    def _has(self, table: str) -> bool:
        return _has(self._database, table)


def keep_looks(database: Database, request_id: str, looks: str) -> None:
    """Keep what the looks of a request found, in a table that the first of them makes."""
    if not _has(database, "look"):
        _make(database, LOOK_TABLE)
    database.call(
        "INSERT INTO look (request_id, looks) VALUES ($1, $2) ON CONFLICT (request_id)"
        " DO UPDATE SET looks = excluded.looks RETURNING to_json(true)",
        *(request_id, looks),
    )


def _has(database: Database, table: str) -> bool:
    return database.call("SELECT to_json(to_regclass($1) IS NOT NULL)", table) is True


def _make(database: Database, table: str) -> None:
    make = f"BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {_TABLE_LOCK}); {table}; COMMIT"
    database.attempt(lambda connection, deadline: connection.script(make, deadline))


def _floats(row: dict[str, Any]) -> dict[str, Any]:
    for name in _FLOATS:
        if row.get(name) is not None:
            row[name] = float(row[name])
    return row
