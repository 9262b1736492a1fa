"""One PostgreSQL connection whose every wait ends at a deadline.

psycopg's own connections wait for a server as long as its socket lives; a server that hangs would
hold up a request with them. So this uses the layer below, libpq as `psycopg.pq`, and polls.
"""

from __future__ import annotations

import json
import math
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import Error, pq

_OK = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)


class Lost(Exception):
    """The connection could not be made, or broke off. `sent`: work may have been done with it."""

    def __init__(self, why: str, *, sent: bool):
        self.sent = sent
        super().__init__(why)


class Silent(Lost):
    """No answer came before the deadline."""


class Refused(Exception):
    """The server answered with an error. Field: `sqlstate`."""

    def __init__(self, sqlstate: str, message: str):
        self.sqlstate = sqlstate
        super().__init__(message)


class Connection:
    """A connection to PostgreSQL; for one thread at a time, in the process that made it.

    Parameters: `conninfo`, libpq's; `deadline`, of `time.monotonic()`, by which it must stand.
    Raises `Lost`.
    """

    def __init__(self, conninfo: bytes, deadline: float):
        self._prepared: dict[str, bytes] = {}
        try:
            self._pq = pq.PGconn.connect_start(conninfo)
            self._await_connected(deadline)
            self._pq.nonblocking = 1
        except Error as error:
            raise Lost(_one_line(str(error)), sent=False) from error
        except BaseException:
            self.close()
            raise

    @property
    def usable(self) -> bool:
        """Whether it is open and outside any transaction."""
        return self._pq.transaction_status == pq.TransactionStatus.IDLE

    def call(self, statement: str, values: Sequence[Any], deadline: float) -> Any:
        """Run one statement with parameters; return the JSON in its first column, None for null.

        Values are None, bool, int, float or text, and lists of int. Raises `Lost` or `Refused`.
        """
        name = self._prepared.get(statement)
        if name is None:
            name = b"s%d" % len(self._prepared)
            text = statement.encode()
            self._run(lambda: self._pq.send_prepare(name, text), deadline, sent=False)
            self._prepared[statement] = name
        texts = [_encoded(value) for value in values]
        [result] = self._run(lambda: self._pq.send_query_prepared(name, texts), deadline)
        value = result.get_value(0, 0) if result.ntuples else None
        return json.loads(value) if value else None  # what returns void has an empty text

    def script(self, sql: str, deadline: float) -> list[list[list[str | None]]]:
        """Run statements without parameters; return the rows of each, as text."""
        results = self._run(lambda: self._pq.send_query(sql.encode()), deadline)
        return [
            [
                [_decoded(result.get_value(row, column)) for column in range(result.nfields)]
                for row in range(result.ntuples)
            ]
            for result in results
        ]

    def close(self) -> None:
        """Close it; what it was doing is undone by the server, unless it was done already."""
        if hasattr(self, "_pq"):
            self._pq.finish()

    def _await_connected(self, deadline: float) -> None:
        while True:
            if self._pq.status == pq.ConnStatus.BAD:
                raise Lost(self._message(), sent=False)
            state = self._pq.connect_poll()
            if state == pq.PollingStatus.OK:
                return
            if state == pq.PollingStatus.FAILED:
                raise Lost(self._message(), sent=False)
            reading = state == pq.PollingStatus.READING
            if not self._wait(select.POLLIN if reading else select.POLLOUT, deadline):
                raise Silent("no connection could be made in time", sent=False)

    def _run(
        self, send: Callable[[], None], deadline: float, *, sent: bool = True
    ) -> list[pq.abc.PGresult]:
        """Send something and return its results; the first error among them is raised."""
        try:
            send()
            while self._pq.flush():
                if not self._wait(select.POLLIN | select.POLLOUT, deadline):
                    raise Silent("it takes no more requests", sent=sent)
                self._pq.consume_input()
            results: list[pq.abc.PGresult] = []
            while True:
                while self._pq.is_busy():
                    if not self._wait(select.POLLIN, deadline):
                        raise Silent("no answer came in time", sent=sent)
                    self._pq.consume_input()
                result = self._pq.get_result()
                if result is None:
                    break
                results.append(result)
        except Error as error:
            raise Lost(_one_line(str(error)), sent=sent) from error
        for result in results:
            if result.status not in _OK:
                code = result.error_field(pq.DiagnosticField.SQLSTATE)
                text = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
                if code is None:  # libpq's own: the connection is gone
                    raise Lost(self._message(), sent=sent)
                raise Refused(code.decode(), _one_line((text or b"").decode("utf-8", "replace")))
        return results

    def _wait(self, events: int, deadline: float) -> bool:
        """Wait for the socket; False at the deadline."""
        poll = select.poll()
        poll.register(self._pq.socket, events)
        left = deadline - time.monotonic()
        return bool(poll.poll(max(0, min(math.ceil(left * 1000), 2**31 - 1))))

    def _message(self) -> str:
        return _one_line(self._pq.error_message.decode("utf-8", "replace"))


def clean(text: str) -> str:
    """Text that PostgreSQL can hold: neither NUL nor a lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def plain(values: Sequence[Any]) -> list[Any]:
    """The values, with texts that PostgreSQL can hold."""
    return [clean(value) if isinstance(value, str) else value for value in values]


def to_json(values: Sequence[Any]) -> str:
    """JSON of values, whose texts are made such that PostgreSQL can hold them."""
    return _JSON.encode(plain(values))


_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return clean(value).encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, list):
        return b"{%b}" % b",".join(b"%d" % item for item in value)
    return repr(value).encode()


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _one_line(message: str) -> str:
    return " ".join(message.split()) or "the connection failed"
