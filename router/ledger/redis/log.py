"""The log of a ledger in Redis: its SQLite store, brought up to date before it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from router.log.base import Label, Log, LoggedRequest, Memo
from router.types import AttemptRow


class DrainedLog:
    """A `router.log.base.Log` that first copies what Redis still has of it.

    Parameters: `log`, of the store that it is copied to; `drain`, which copies; `close`, what to
    do when it is closed.
    """

    def __init__(self, log: Log, drain: Callable[[], object], close: Callable[[], None]):
        self._log, self._drain, self._close = log, drain, close

    def requests(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[LoggedRequest]:
        self._drain()
        return self._log.requests(since, until)

    def attempts(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[AttemptRow]:
        self._drain()
        return self._log.attempts(since, until)

    def with_attempts(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[tuple[LoggedRequest, list[AttemptRow]]]:
        self._drain()
        return self._log.with_attempts(since, until)

    def volume(self, since: float, until: float, bin_seconds: int) -> dict[int, int]:
        self._drain()
        return self._log.volume(since, until, bin_seconds)

    def decisions(
        self, since: float, until: float, *, every: int = 1
    ) -> list[tuple[Mapping[str, Any], ...]]:
        self._drain()
        return self._log.decisions(since, until, every=every)

    def feedback(
        self,
        request_id: str,
        score: float,
        source: str = "user",
        *,
        now: float,
        rate: float | None = None,
    ) -> None:
        self._drain()
        self._log.feedback(request_id, score, source, now=now, rate=rate)

    def label(self, request_id: str) -> Label | None:
        self._drain()
        return self._log.label(request_id)

    def labels(self) -> Iterator[Label]:
        self._drain()
        return self._log.labels()

    def memos(self, prefix: str) -> dict[str, Memo]:
        return self._log.memos(prefix)

    def keep(self, name: str, value: Any, version: int) -> bool:
        return self._log.keep(name, value, version)

    def close(self) -> None:
        self._log.close()
        self._close()
