"""Every error the router raises, as one tree; each carries its facts as fields.

RouterError
├── ConfigurationError            something that is written down is wrong
│   ├── PolicyError               a policy file: file, key, value, allowed
│   ├── UnknownPrice              no price for a model where one is needed: model, why
│   ├── ModelFileError            a predictor file is corrupt, hostile or too large: path, why
│   ├── OutcomeFileError          recorded outcomes cannot be read or used: path, problem
│   ├── LogFileError              an exported log cannot be read or used: path, problem
│   ├── ReplayError               the log cannot support what is asked of it: problem
│   ├── ImportFileError           another tool's log cannot be read: file, line, field, value
│   ├── TrainingError             too little or unusable data to learn from: problem, rows
│   └── CalibrationError          recorded queries cannot back a promise: problem, rows
├── InvalidRequest                the caller's request cannot be sent: field, value, allowed
│   └── NoCapableDeployment       no deployment can take this request: rejected
├── BudgetExceeded                no room: budget, used, held, limit, needed, resets_at
├── AtCapacity                    no deployment may be called just now: obstacles, retry_after
├── PutOff                        a queued call goes back to wait in its queue: retry_after
├── DeferredError                 a queued request ended without an answer: ticket, kind, why
├── LedgerError
│   ├── LedgerUnavailable         the store does not answer: store, why
│   ├── LedgerCorrupt             the store's contents cannot be trusted: store, why
│   └── ReservationError          settle or release of an unknown or ended reservation
└── ProviderError                 a provider refused or failed: model, status, retry_after, cause
    ├── AuthenticationFailed      no key, a wrong key, or no permission
    ├── RequestRejected           400, 404, 413, 422: the request itself is at fault
    │   ├── ContextWindowExceeded
    │   └── ContentRejected       a provider's content policy said no
    ├── RateLimited               429
    ├── ProviderUnavailable       5xx or no connection
    ├── ProviderTimeout
    └── MalformedReply            an answer that cannot be read, or a stream that broke off
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from router.money import format_usd


class RouterError(Exception):
    """The root of the tree: `except RouterError` catches whatever the router itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is else made again from its text alone, which these do not take: one that a
        # worker of a process pool raised broke the pool.
        return _as_it_was, (type(self), self.args, self.__dict__)


def _as_it_was(kind: type[RouterError], args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class ConfigurationError(RouterError):
    """Something that is written down (a policy, a price, a setting) is wrong."""


class PolicyError(ConfigurationError):
    """A policy file is wrong.

    Fields: `file`; `key`, a dotted path; `problem`; `value`; `allowed`; `line`, from 1, or None.
    """

    def __init__(
        self,
        file: str,
        key: str,
        problem: str,
        *,
        value: object = None,
        allowed: str = "",
        line: int | None = None,
    ):
        self.file, self.key, self.problem = file, key, problem
        self.value, self.allowed, self.line = value, allowed, line
        place = ": ".join(part for part in (f"{file}:{line}" if line else file, key) if part)
        super().__init__(f"{place}: {problem}" + (f"; allowed: {allowed}" if allowed else ""))


class UnknownPrice(ConfigurationError):
    """A model has no usable price where one is needed. Fields: `model`, `why`."""

    def __init__(self, model: str, why: str):
        self.model, self.why = model, why
        super().__init__(
            f"no price for {model!r}: {why}; give the deployment a `price`, or name a model "
            f"that `router prices show` lists"
        )


class ModelFileError(ConfigurationError):
    """A predictor's model file cannot be trusted. Fields: `path`, `why`."""

    def __init__(self, path: str, why: str):
        self.path, self.why = path, why
        super().__init__(f"model file {path}: {why}")


class ImportFileError(ConfigurationError):
    """Another tool's log, or a line of it, cannot be read.

    Fields: `file`; `line`, from 1, or None; `field`, its name there; `problem`; `value`, as it is
    shown; `todo`, what to do about it; `truncated`, whether the file ends too early.
    """

    def __init__(
        self,
        file: str,
        line: int | None,
        field: str,
        problem: str,
        *,
        value: str = "",
        todo: str = "",
        truncated: bool = False,
    ):
        self.file, self.line, self.field, self.problem = file, line, field, problem
        self.value, self.todo, self.truncated = value, todo, truncated
        place = ": ".join(part for part in (f"{file}:{line}" if line else file, field) if part)
        found = f" (found {value})" if value else ""
        super().__init__(f"{place}: {problem}{found}" + (f"; {todo}" if todo else ""))


class TrainingError(ConfigurationError):
    """There is too little, or nothing usable, to learn from. Fields: `problem`, `rows`."""

    def __init__(self, problem: str, rows: int):
        self.problem, self.rows = problem, rows
        super().__init__(f"training: {problem}; found {rows}")


class OutcomeFileError(ConfigurationError):
    """Recorded outcomes cannot be read or used. Fields: `path`, `problem`."""

    def __init__(self, path: str, problem: str):
        self.path, self.problem = path, problem
        super().__init__(f"outcomes {path}: {problem}")


class LogFileError(ConfigurationError):
    """An exported log cannot be read or used. Fields: `path`, `problem`."""

    def __init__(self, path: str, problem: str):
        self.path, self.problem = path, problem
        super().__init__(f"log {path}: {problem}")


class ReplayError(ConfigurationError):
    """The log cannot support what is asked of it. Field: `problem`."""

    def __init__(self, problem: str):
        self.problem = problem
        super().__init__(f"replay: {problem}")


class CalibrationError(ConfigurationError):
    """Recorded queries cannot back a promise. Fields: `problem`; `rows`, where it shows."""

    def __init__(self, problem: str, rows: Sequence[int] = ()):
        self.problem, self.rows = problem, tuple(rows)
        shown = ", ".join(str(row) for row in self.rows[:5]) + (", …" if len(rows) > 5 else "")
        where = f" ({len(self.rows)} rows: {shown})" if self.rows else ""
        super().__init__(f"calibration: {problem}{where}")


class InvalidRequest(RouterError):
    """The caller's request cannot be sent. Fields: `field`, `value`, `allowed`."""

    def __init__(self, field: str, problem: str, *, value: object = None, allowed: str = ""):
        self.field, self.problem, self.value, self.allowed = field, problem, value, allowed
        super().__init__(f"{field}: {problem}" + (f"; allowed: {allowed}" if allowed else ""))


class NoCapableDeployment(InvalidRequest):
    """No deployment of the policy can take this request. Field: `rejected`, arm → reason."""

    def __init__(self, rejected: Mapping[str, str]):
        self.rejected = dict(rejected)
        reasons = "; ".join(f"{arm}: {why}" for arm, why in self.rejected.items())
        super().__init__("request", f"no deployment of the policy can take it ({reasons})")


class AtCapacity(RouterError):
    """Each deployment that could take the request is full, out of order or left alone just now.
    Nothing was sent.

    Fields: `obstacles`, arm → reason; `retry_after`, seconds until the first may be called again,
    None where that is not known.
    """

    def __init__(self, obstacles: Mapping[str, str], retry_after: float | None):
        self.obstacles, self.retry_after = dict(obstacles), retry_after
        reasons = "; ".join(f"{arm} {why}" for arm, why in self.obstacles.items())
        super().__init__(f"no deployment can be called just now: {reasons}")


class BudgetExceeded(RouterError):
    """A budget does not have the room. A refused call costs nothing.

    Amounts are in the unit of `meter`: nano-USD, tokens, requests, or requests for a share too.
    `needed` is the upper bound of the cheapest call that was allowed; `resets_at`, in unix seconds,
    is when usage next falls, None for never; `on_exceed` what the budget asks for.
    """

    def __init__(
        self,
        budget: str,
        *,
        needed: int,
        used: int,
        held: int,
        limit: int,
        scope_value: str = "",
        resets_at: float | None = None,
        meter: str = "usd",
        on_exceed: str = "block",
    ):
        self.budget, self.scope_value = budget, scope_value
        self.meter, self.on_exceed = meter, on_exceed
        self.needed, self.used, self.held, self.limit = needed, used, held, limit
        self.resets_at = resets_at
        when = (
            f"resets at {datetime.fromtimestamp(resets_at, UTC):%Y-%m-%d %H:%M} UTC"
            if resets_at is not None
            else "does not reset"
        )
        whose = f" of {scope_value!r}" if scope_value else ""

        def show(amount: int) -> str:
            unit = "requests" if meter == "share" else meter
            return format_usd(amount) if meter == "usd" else f"{amount} {unit}"

        super().__init__(
            f"budget {budget!r}{whose}: {show(used)} used and {show(held)} held of "
            f"{show(limit)}; this call may cost up to {show(needed)}; {when}"
        )


class PutOff(RouterError):
    """A queued call would wait for long where it keeps others from being made: it goes back into
    its queue. It is no failure of a provider's, so nothing dearer is called instead.

    Field: `retry_after`, seconds that it would have waited for.
    """

    def __init__(self, retry_after: float):
        self.retry_after = retry_after
        super().__init__(f"it waits in the queue instead, for {retry_after:.1f} s at least")


class DeferredError(RouterError):
    """A queued request ended without an answer, or its answer is gone.

    Fields: `ticket`; `kind`, the name of the error that it ended with, "DeadlineMissed",
    "Cancelled" or "Collected"; `why`, what that said.
    """

    def __init__(self, ticket: str, kind: str, why: str):
        self.ticket, self.kind, self.why = ticket, kind, why
        super().__init__(f"ticket {ticket}: {kind}: {why}")


class LedgerError(RouterError):
    """The ledger cannot do what was asked."""


class LedgerUnavailable(LedgerError):
    """The store does not answer; no request is sent without it.

    Fields: `store`, `why`; `in_doubt`, whether what was asked may have been done all the same.
    """

    def __init__(self, store: str, why: str, *, in_doubt: bool = False):
        self.store, self.why, self.in_doubt = store, why, in_doubt
        super().__init__(f"ledger {store} is not available: {why}")


class LedgerCorrupt(LedgerError):
    """The store's contents cannot be trusted. Fields: `store`, `why`."""

    def __init__(self, store: str, why: str):
        self.store, self.why = store, why
        super().__init__(
            f"ledger {store} cannot be trusted: {why}; restore it from a copy, or name a new store"
        )


class ClockJumped(LedgerError):
    """The machine's clock is further ahead than time can have passed, so that budgets would be
    reset too early. Fields: `ahead` and `allowed`, seconds; `now`, the time that it shows, and
    `trusted`, the time by what has passed since the start, unix seconds.
    """

    def __init__(self, *, ahead: float, allowed: float, now: float, trusted: float):
        self.ahead, self.allowed, self.now, self.trusted = ahead, allowed, now, trusted
        super().__init__(
            f"the clock jumped {ahead:.0f} s ahead, more than the {allowed:.0f} s of the shortest "
            f"budget window; if it is right now, call router.confirm_clock() or start anew, else "
            f"set it right"
        )


class ReservationError(LedgerError):
    """A reservation is unknown or has ended otherwise. Fields: `reservation_id`, `state`; `held`,
    the nano-USD that it holds where another amount was asked for under its id, else None."""

    def __init__(self, reservation_id: str, state: str, problem: str, held: int | None = None):
        self.reservation_id, self.state, self.held = reservation_id, state, held
        super().__init__(f"reservation {reservation_id} ({state}): {problem}")


class ProviderError(RouterError):
    """A provider refused or failed.

    Fields: `model`; `status`, the HTTP status or None; `retry_after`, seconds or None; and
    `request_written`: whether the request may have reached the provider, which decides whether
    the attempt is charged. The provider's own exception is `__cause__`.
    """

    def __init__(
        self,
        model: str,
        problem: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        request_written: bool = True,
    ):
        self.model, self.problem, self.status = model, problem, status
        self.retry_after, self.request_written = retry_after, request_written
        super().__init__(f"{model}: {problem}" + (f" (HTTP {status})" if status else ""))


class AuthenticationFailed(ProviderError):
    """No key, a wrong key, or no permission for the model."""


class RequestRejected(ProviderError):
    """The provider says the request itself is at fault; the same request fails again."""


class ContextWindowExceeded(RequestRejected):
    """The prompt does not fit the model's window."""


class ContentRejected(RequestRejected):
    """A provider's content policy refused the prompt or the answer."""


class RateLimited(ProviderError):
    """Too many requests or tokens; `retry_after` says when to come back, where known."""


class ProviderUnavailable(ProviderError):
    """The provider failed (5xx) or could not be reached."""


class ProviderTimeout(ProviderError):
    """The provider did not answer in time."""


class MalformedReply(ProviderError):
    """The answer cannot be read, or a stream broke off before its end."""
