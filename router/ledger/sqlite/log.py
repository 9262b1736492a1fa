"""The log beside a SQLite store's counters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from router.ledger.sqlite.database import Database
from router.log.base import Label, Memo
from router.log.reader import LABEL_OF, PagedLog
from router.log.schema import HAS_TABLE, MEMO_TABLE
from router.log.writer import to_json


class SqliteLog(PagedLog):
    """The log in one SQLite store."""

    _database: Database

    _bin = "CAST(time / :bin AS INTEGER)"

    def _page(self, query: str, place: Mapping[str, float | int]) -> list[dict[str, Any]]:
        with self._database.read() as connection:
            cursor = connection.execute(query, place)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def _put(self, label: Label) -> bool:
        with self._database.write() as connection:
            done = connection.execute(
                "INSERT INTO label (request_id, score, source, time, rate)"
                " SELECT request_id, ?, ?, ?, ? FROM request WHERE request_id = ?",
                (label.score, label.source, label.time, label.rate, label.request_id),
            )
            return done.rowcount == 1

    def label(self, request_id: str) -> Label | None:
        with self._database.read() as connection:
            row = connection.execute(LABEL_OF, {"request_id": request_id}).fetchone()
            return None if row is None else Label(*row)

    def _has(self, table: str) -> bool:
        with self._database.read() as connection:
            return connection.execute(HAS_TABLE, (table,)).fetchone() is not None

    def memos(self, prefix: str) -> dict[str, Memo]:
        with self._database.read() as connection:
            if not connection.execute(HAS_TABLE, ("memo",)).fetchone():
                return {}
            found = connection.execute(
                "SELECT name, value, version FROM memo WHERE substr(name, 1, ?) = ?",
                (len(prefix), prefix),
            )
            return {name: Memo(json.loads(value), version) for name, value, version in found}

    def keep(self, name: str, value: Any, version: int) -> bool:
        text = to_json(value)
        with self._database.write() as connection:
            if not connection.execute(HAS_TABLE, ("memo",)).fetchone():
                connection.execute(MEMO_TABLE)
            if version == 0:
                done = connection.execute(
                    "INSERT OR IGNORE INTO memo (name, value, version) VALUES (?, ?, 1)",
                    (name, text),
                )
            else:
                done = connection.execute(
                    "UPDATE memo SET value = ?, version = version + 1"
                    " WHERE name = ? AND version = ?",
                    (text, name, version),
                )
            return done.rowcount == 1
