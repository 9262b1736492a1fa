"""The interface of every log: what was asked, decided, sent and paid, to read and to label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from router.types import AttemptRow, RequestRow

JUDGED = "judged"  # the scope of a call that judges a request: the request's id


@dataclass(frozen=True, slots=True)
class LoggedRequest(RequestRow):
    """A request as it stands now: its row, how it ended, what it cost, and its latest label.

    `status`, `baseline` and `error` are those of its end. `accepted` is the number of the attempt
    whose answer the caller got; `ended` unix seconds, None while open; `attempts` counts the wire
    attempts that have ended, and `cost` is their sum in nano-USD, None if any price is unknown.
    `label` is the score from 0 to 1 that counts (`Label`), None without one; `label_rate` is the
    rate of that very label. `looks`: what a chain found after each answer, with what chances it
    went on, and what it did (`router.walk.looks`), None where nothing was looked at or left to
    chance.
    """

    accepted: int | None = None
    ended: float | None = None
    attempts: int = 0
    cost: int | None = 0
    label: float | None = None
    label_source: str | None = None
    label_rate: float | None = None
    looks: Mapping[str, Any] | None = None

    @property
    def served(self) -> bool:
        """Whether the caller got an answer, or a part of a stream that it left. A call that was
        cancelled before its answer came was abandoned as well, with an error."""
        return self.status == "answered" or (self.status == "abandoned" and self.error is None)

    @property
    def beside_baseline(self) -> bool:
        """Whether its label is a judge's: not how good the answer was, but how good beside the
        baseline tier's."""
        return (self.label_source or "").startswith("judge:")


@dataclass(frozen=True, slots=True)
class Label:
    """How good an answer was, 1 for a good one and 0 for a bad one, and who says so.

    `source` is "user", "check:NAME" or "judge:MODEL", or whatever else a caller writes. `rate` is
    the chance by which a draw had this request labelled, which may differ between requests (dear
    ones more often, say); None where nobody drew them.
    A person's label counts before a check's or a judge's, however late that comes; of labels of one
    kind, the latest counts.
    """

    request_id: str
    score: float
    source: str
    time: float  # unix seconds
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Memo:
    """What is kept beside the log under a name: JSON, and how often it was written."""

    value: Any
    version: int


class Log(Protocol):
    """Rows in the order of their requests' times, `since` ≤ time < `until` (unix seconds)."""

    def requests(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[LoggedRequest]:
        """Every request of the period."""
        ...

    def attempts(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[AttemptRow]:
        """Every ended wire attempt of the requests of the period, in the order of its number."""
        ...

    def with_attempts(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[tuple[LoggedRequest, list[AttemptRow]]]:
        """Every request of the period with its ended wire attempts. These are read after it, so an
        answered request is never without the attempt that answered it."""
        ...

    def volume(self, since: float, until: float, bin_seconds: int) -> dict[int, int]:
        """How many callers' requests came in each bin (unix seconds // `bin_seconds`); empty ones
        are left out."""
        ...

    def decisions(
        self, since: float, until: float, *, every: int = 1
    ) -> list[tuple[Mapping[str, Any], ...]]:
        """The arms as decisions saw them, of about one caller's request in `every`, in order of
        time."""
        ...

    def feedback(
        self,
        request_id: str,
        score: float,
        source: str = "user",
        *,
        now: float,
        rate: float | None = None,
    ) -> None:
        """Join a label to a request, however late. `Label` says what each argument means.

        Raises `InvalidRequest` for an unknown request, a score outside 0 to 1 or a rate that is
        none.
        """
        ...

    def label(self, request_id: str) -> Label | None:
        """The label of a request that counts; None without one."""
        ...

    def labels(self) -> Iterator[Label]:
        """Every label, in the order in which they were written."""
        ...

    def memos(self, prefix: str) -> dict[str, Memo]:
        """What is kept under the names that begin with `prefix`."""
        ...

    def keep(self, name: str, value: Any, version: int) -> bool:
        """Keep JSON under a name, in the place of what has this version there (0: nothing has).

        False, and nothing has changed, where another was faster.
        """
        ...

    def close(self) -> None:
        """Close the log's connections; a ledger's own log stays open with its ledger."""
        ...
