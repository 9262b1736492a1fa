"""The log beside a PostgreSQL store's counters: the same rows, read the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from router.ledger.postgres.database import Database
from router.log.base import Label
from router.log.reader import PagedLog

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


def _floats(row: dict[str, Any]) -> dict[str, Any]:
    for name in _FLOATS:
        if row.get(name) is not None:
            row[name] = float(row[name])
    return row
