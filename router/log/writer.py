"""Writes log rows through a connection that is in someone's transaction, and never commits.

Logging must not be why money goes unrecorded: whatever a provider reported or a caller wrote, some
text of it is stored.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from router.log.schema import HAS_TABLE, LOOK_TABLE
from router.types import AttemptRow, RequestEnd, RequestRow

# Columns that hold maps and lists, as JSON text.
JSON_COLUMNS = frozenset({"scopes", "tags", "features", "decision", "usage", "looks"})


class _Table:
    """How rows of one type go into their table: a column a field, of the same name."""

    def __init__(self, name: str, row_type: type, verb: str):
        columns = tuple(field.name for field in fields(row_type))
        places = ", ".join("?" * len(columns))
        self.insert = f"{verb} INTO {name} ({', '.join(columns)}) VALUES ({places})"
        self._get = attrgetter(*columns)
        self._json = [place for place, column in enumerate(columns) if column in JSON_COLUMNS]

    def values(self, row: object) -> list[Any]:
        values = list(self._get(row))
        for place in self._json:
            if values[place] is not None:
                values[place] = to_json(values[place])
        return [
            _text(value) if isinstance(value, str) and not value.isascii() else value
            for value in values
        ]


_REQUEST = _Table("request", RequestRow, "INSERT")
_ATTEMPT = _Table("attempt", AttemptRow, "INSERT OR REPLACE")
ATTEMPT_COST = [field.name for field in fields(AttemptRow)].index("cost")


def request_values(row: RequestRow) -> list[Any]:
    """A row's values in the order of the table's columns: made before the transaction begins."""
    return _REQUEST.values(row)


def write_request(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Insert a request; `sqlite3.IntegrityError` if its id is there already."""
    connection.execute(_REQUEST.insert, values)


def keep_request(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Insert a request unless one of its id is there."""
    connection.execute(f"{_REQUEST.insert} ON CONFLICT (request_id) DO NOTHING", values)


def has_request(connection: sqlite3.Connection, request_id: str) -> bool:
    """Whether a request is in the log."""
    known = connection.execute("SELECT 1 FROM request WHERE request_id = ?", (request_id,))
    return known.fetchone() is not None


def attempt_values(row: AttemptRow) -> list[Any]:
    """A row's values in the order of the table's columns, each plain enough for JSON."""
    return _ATTEMPT.values(row)


def write_attempt(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Insert an attempt, or put it in the place of the one that its expiry had assumed."""
    connection.execute(_ATTEMPT.insert, values)


def write_end(connection: sqlite3.Connection, request_id: str, end: RequestEnd, now: float) -> bool:
    """Write how a request ended, and what its looks found; False if there is no such request."""
    done = connection.execute(
        "UPDATE request SET status = ?, accepted = ?, baseline = ?, error = ?, ended = ?"
        " WHERE request_id = ?",
        (
            end.status,
            end.accepted,
            end.baseline,
            None if end.error is None else _text(end.error),
            now,
            request_id,
        ),
    )
    if end.looks is not None and done.rowcount == 1:
        if not connection.execute(HAS_TABLE, ("look",)).fetchone():
            connection.execute(LOOK_TABLE)
        connection.execute(
            "INSERT OR REPLACE INTO look (request_id, looks) VALUES (?, ?)", (request_id, end.looks)
        )
    return done.rowcount == 1


def to_json(value: object) -> str:
    """JSON text of anything: what JSON cannot say becomes null (NaN, infinities) or its `str`, and
    what UTF-8 cannot hold "?"."""
    try:
        return sound(_encode(value))
    except (TypeError, ValueError, RecursionError):
        return sound(_encode(_plain(value, depth=16)))


def sound(text: str) -> str:
    """JSON text with "?" for each escape of a lone surrogate, such as half an emoji that was cut:
    whoever read it could not write it anywhere."""
    if "\\ud" not in text:
        return text
    return _ESCAPE.sub(lambda found: "?" if found[1] else found[0], text)


# A pair, a surrogate alone, or any other escape: so that an escaped backslash is none of them.
_ESCAPE = re.compile(
    r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(\\ud[89a-f][0-9a-f]{2})|\\.", re.IGNORECASE
)


# What contains itself is found by its depth, at less cost than by remembering what was seen.
_encode = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":")).encode


def _plain(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > 0 and isinstance(value, Mapping):
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    if depth > 0 and hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist(), depth - 1)
    return str(value)


def _text(value: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate, which it cannot, becomes "?"."""
    if value.isascii():
        return value
    return value.encode("utf-8", "replace").decode("utf-8")
