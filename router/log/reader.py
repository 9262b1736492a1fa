"""Reads the log of a store, and joins labels to it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from router.errors import InvalidRequest, LedgerCorrupt
from router.log.base import Label, LoggedRequest, Memo
from router.log.writer import JSON_COLUMNS, sound
from router.types import AttemptRow

_PAGE = 1000  # rows; each page is a transaction of its own, so a long read holds up no checkpoint
_FIRST, _LAST = -1e300, 1e300
# A lease is no request: it asks nothing of a provider, and costs nothing, unless it expires.
_IS_REQUEST = "status != 'returned' AND NOT (status = 'open' AND chosen = 'lease')"

# What the router labels itself never takes the place of what a person said.
_MACHINE = "(source LIKE 'check:%' OR source LIKE 'judge:%')"
_REQUESTS = f"""
SELECT request.*,
  (SELECT count(*) FROM attempt WHERE attempt.request_id = request.request_id) AS attempts,
  (SELECT CASE WHEN count(*) = count(cost) THEN coalesce(sum(cost), 0) END
     FROM attempt WHERE attempt.request_id = request.request_id) AS cost,
  (SELECT score FROM label WHERE label.request_id = request.request_id
     ORDER BY {_MACHINE}, time DESC, id DESC LIMIT 1) AS label,
  (SELECT source FROM label WHERE label.request_id = request.request_id
     ORDER BY {_MACHINE}, time DESC, id DESC LIMIT 1) AS label_source,
  (SELECT rate FROM label WHERE label.request_id = request.request_id
     ORDER BY {_MACHINE}, time DESC, id DESC LIMIT 1) AS label_rate
  /* looks */
FROM request
WHERE (time, id) > (:time, :id) AND time < :until AND {_IS_REQUEST}
ORDER BY time, id LIMIT :page
"""
_WITH_LOOKS = _REQUESTS.replace(
    "/* looks */",
    ", (SELECT looks FROM look WHERE look.request_id = request.request_id) AS looks",
)
LABEL_OF = f"""
SELECT request_id, score, source, time, rate FROM label WHERE request_id = :request_id
ORDER BY {_MACHINE}, time DESC, id DESC LIMIT 1
"""
_LABELS = """
SELECT id, request_id, score, source, time, rate FROM label WHERE id > :id ORDER BY id LIMIT :page
"""
# A page is a page of requests: the attempts of one are never torn apart.
_ATTEMPTS = f"""
SELECT page.time AS _time, page.id AS _id, attempt.*
FROM (SELECT id, request_id, time FROM request
      WHERE (time, id) > (:time, :id) AND time < :until AND {_IS_REQUEST}
      ORDER BY time, id LIMIT :page) AS page
LEFT JOIN attempt ON attempt.request_id = page.request_id
ORDER BY page.time, page.id, attempt.number
"""
_ATTEMPTS_OF_PAGE = """
SELECT attempt.* FROM request JOIN attempt ON attempt.request_id = request.request_id
WHERE (request.time, request.id) >= (:time_low, :id_low)
  AND (request.time, request.id) <= (:time_high, :id_high)
ORDER BY request.time, request.id, attempt.number
"""
_VOLUME = f"""
SELECT {{bin}} AS bin, count(*) AS requests FROM request
WHERE time >= :since AND time < :until AND {_IS_REQUEST} AND purpose = 'serve' GROUP BY 1
"""
_DECISIONS = f"""
SELECT decision FROM request
WHERE time >= :since AND time < :until AND {_IS_REQUEST} AND purpose = 'serve'
  AND id % :every = 0
ORDER BY time, id
"""


class _Database(Protocol):
    name: str

    def close(self) -> None: ...


class PagedLog(ABC):
    """A log in `database` that is read a page at a time, each page by one query.

    Parameters: `owned`, False for the log of a ledger that is in use: closing it closes nothing.

    The queries are in the SQL that all stores know, with `:name` for a number. `_bin` is what they
    do not: the whole part of `time / :bin`.
    """

    _bin: str

    def __init__(self, database: _Database, *, owned: bool):
        self._database, self._owned = database, owned

    def requests(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[LoggedRequest]:
        for rows in self._pages(self._requests, since, until):
            for row in rows:
                yield self._request(row)

    def attempts(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[AttemptRow]:
        for rows in self._pages(_ATTEMPTS, since, until):
            for row in rows:
                values = self._values(row)
                if values["number"] is not None:  # a request without attempts
                    del values["_time"], values["_id"]
                    yield AttemptRow(**values)

    def with_attempts(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[tuple[LoggedRequest, list[AttemptRow]]]:
        for rows in self._pages(self._requests, since, until):
            first, last = rows[0], rows[-1]
            own: dict[str, list[AttemptRow]] = {row["request_id"]: [] for row in rows}
            place = {
                "time_low": float(first["time"]),
                "id_low": first["id"],
                "time_high": float(last["time"]),
                "id_high": last["id"],
            }
            for row in self._page(_ATTEMPTS_OF_PAGE, place):
                if row["request_id"] in own:  # else its request has come since
                    own[row["request_id"]].append(AttemptRow(**self._values(row)))
            for row in rows:
                yield self._request(row), own[row["request_id"]]

    def volume(self, since: float, until: float, bin_seconds: int) -> dict[int, int]:
        place = {"since": float(since), "until": float(until), "bin": bin_seconds}
        query = _VOLUME.format(bin=self._bin)
        return {row["bin"]: row["requests"] for row in self._page(query, place)}

    def decisions(
        self, since: float, until: float, *, every: int = 1
    ) -> list[tuple[Mapping[str, Any], ...]]:
        place = {"since": float(since), "until": float(until), "every": every}
        return [tuple(json.loads(row["decision"])) for row in self._page(_DECISIONS, place)]

    def feedback(
        self,
        request_id: str,
        score: float,
        source: str = "user",
        *,
        now: float,
        rate: float | None = None,
    ) -> None:
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise InvalidRequest(
                "score", f"{score!r} is not a score", value=score, allowed="0 to 1"
            )
        if rate is not None and not 0 < rate <= 1:
            raise InvalidRequest(
                "rate", f"{rate!r} is not a rate", value=rate, allowed="above 0, up to 1"
            )
        if not self._put(Label(request_id, float(score), source, now, rate)):
            raise InvalidRequest(
                "request_id", f"{request_id!r} is not in the log", value=request_id
            )

    def labels(self) -> Iterator[Label]:
        last = -1
        while rows := self._page(_LABELS, {"id": last, "page": _PAGE}):
            last = rows[-1]["id"]
            for row in rows:
                del row["id"]
                yield Label(**row)

    def close(self) -> None:
        if self._owned:
            self._database.close()

    @abstractmethod
    def label(self, request_id: str) -> Label | None: ...

    @abstractmethod
    def memos(self, prefix: str) -> dict[str, Memo]: ...

    @abstractmethod
    def keep(self, name: str, value: Any, version: int) -> bool: ...

    @abstractmethod
    def _page(self, query: str, place: Mapping[str, float | int]) -> list[dict[str, Any]]:
        """The rows of a query, by column."""

    @abstractmethod
    def _has(self, table: str) -> bool:
        """Whether there is a table that came later."""

    @abstractmethod
    def _put(self, label: Label) -> bool:
        """Write a label; False for a request that is not in the log."""

    def _request(self, row: Mapping[str, Any]) -> LoggedRequest:
        values = self._values(row)
        del values["id"]
        return LoggedRequest(**values)

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row's columns by name, with JSON text read back."""
        values = dict(row)
        for name in JSON_COLUMNS & values.keys():
            if values[name] is not None:
                try:
                    values[name] = json.loads(sound(values[name]))
                except ValueError as error:
                    request = f"request {values['request_id']!r}"
                    raise LedgerCorrupt(
                        self._database.name, f"{name} of {request} in its log is not JSON: {error}"
                    ) from None
        if "tags" in values:
            values["tags"] = tuple(values["tags"])
            values["decision"] = tuple(values["decision"])
            values["stream"] = bool(values["stream"])
        return values

    @property
    def _requests(self) -> str:
        return _WITH_LOOKS if self._has("look") else _REQUESTS

    def _pages(
        self, query: str, since: float | None, until: float | None
    ) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows, each beginning after the last request of the one before."""
        place: dict[str, float | int] = {
            "time": _FIRST if since is None else float(since),
            "id": -1,
            "until": _LAST if until is None else float(until),
            "page": _PAGE,
        }
        while rows := self._page(query, place):
            yield rows
            last = rows[-1]
            place["time"] = float(last["_time"] if "_time" in last else last["time"])
            place["id"] = last["_id"] if "_id" in last else last["id"]
