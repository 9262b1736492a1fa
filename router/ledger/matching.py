"""Which budgets a request pays from, in which window, and how much of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

from router.errors import ConfigurationError, InvalidRequest
from router.ledger.windows import span, time_zone
from router.money import MAX_NANO
from router.types import Budget, Meter, OnExceed, Purpose, Scopes, Window

MAX_SCOPE_VALUE = 256  # characters: a name, not a place to store things
_KINDS = {
    "meter": get_args(Meter),
    "on_exceed": get_args(OnExceed),
    "purpose": (*get_args(Purpose), "any"),
    "window": get_args(Window),
}
_WHOLE = 1_000_000  # a share is in millionths


class Amounts(NamedTuple):
    """What one attempt may take, or took: nano-USD, tokens, and 1 or 0 requests."""

    usd: int = 0
    tokens: int = 0
    requests: int = 1

    def of(self, meter: Meter) -> int:
        """The amount that a budget of this meter counts."""
        if meter == "usd":
            return self.usd
        return self.tokens if meter == "tokens" else self.requests


class Take(NamedTuple):
    """One budget's part in a reservation, in plain values.

    It is admitted if the `amount` is 0, or the limit in force (None for unlimited) allows what is
    settled and held from window `since` on, and `amount` more. `kind` tells windows of one kind
    from others: of one kind the latest opened is never left for an earlier one. Of a calendar
    window, `since` is the window itself.
    """

    budget: str
    scope_value: str
    meter: Meter
    kind: str
    window_id: str
    since: str
    resets_at: float | None
    amount: int
    limit: int | None

    @property
    def rolls(self) -> bool:
        return self.since != self.window_id

    def counted_since(self, window_id: str) -> str:
        """The first window that counts, once `window_id` is known to be the latest."""
        return self.since if self.rolls else window_id


class Account(NamedTuple):
    """The counters that one budget keeps for one scope value. `counts` is False where a share only
    sees an attempt, which is not of the value whose share it limits."""

    budget: Budget
    value: str
    counts: bool = True

    def take(self, amounts: Amounts, now: float) -> Take:
        """What a store has to do for this account when `amounts` are reserved at `now`."""
        budget, value, counts = self
        return Take(
            budget.name,
            value,
            budget.meter,
            f"{budget.window}/{budget.zone if budget.window != 'rolling' else budget.seconds}",
            *span(budget, now),
            amounts.of(budget.meter) if counts else 0,
            budget.limit,
        )


def checked(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Return the budgets sorted by name, the order in which every process takes from them.

    Raises `ConfigurationError` for a name used twice, a limit that is no amount, an unknown window,
    meter, purpose or zone.
    """
    by_name: dict[str, Budget] = {}
    for budget in budgets:
        name = budget.name
        if not name or name in by_name:
            raise ConfigurationError(f"budget name {name!r} is empty or used twice")
        for field, kinds in _KINDS.items():
            if getattr(budget, field) not in kinds:
                raise ConfigurationError(
                    f"budget {name!r}: {field} {getattr(budget, field)!r} is unknown; allowed: "
                    f"{', '.join(kinds)}"
                )
        if budget.limit is not None:
            check_limit(budget, budget.limit)
        if budget.meter == "share" and (budget.limit is None or budget.value is None):
            raise ConfigurationError(
                f"budget {name!r}: a share needs a limit, a scope and a value of it"
            )
        if budget.value is not None and budget.scope == "global":
            raise ConfigurationError(f"budget {name!r}: a global budget has no values")
        time_zone(budget.zone)
        span(budget, 0.0)
        by_name[name] = budget
    return tuple(by_name[name] for name in sorted(by_name))


def check_limit(budget: Budget, limit: int) -> None:
    """Raise `ConfigurationError` for a limit that is none in the unit of the budget's meter."""
    most, of = (_WHOLE, "millionths") if budget.meter == "share" else (MAX_NANO, budget.meter)
    if type(limit) is not int or not 0 <= limit <= most:
        unit = "nano-USD" if of == "usd" else of
        raise ConfigurationError(
            f"budget {budget.name!r}: limit {limit!r} must be an integer of {unit} from 0 to "
            f"{most}, or None for unlimited"
        )


def accounts_of(budgets: Sequence[Budget], scopes: Scopes) -> list[Account]:
    """Return whose counters a request with these scopes pays from, in the order of budgets' names.

    A scope may have several values (tags): each pays. Raises `InvalidRequest` for a value that
    cannot name anybody.
    """
    for name, values in scopes.items():
        for value in values if isinstance(values, tuple) else (values,):
            check_value(name, value)
    purpose = scopes.get("purpose", "serve")
    accounts = []
    for budget in budgets:
        if budget.purpose not in ("any", purpose):
            continue
        if not all(
            any(budget.counts(name, value) for value in _values(scopes, name))
            for name, _ in budget.when
        ):
            continue
        if budget.scope == "global":
            accounts.append(Account(budget, ""))
            continue
        values = _values(scopes, budget.scope)
        if budget.meter == "share":
            assert budget.value is not None  # `checked`
            accounts.append(Account(budget, budget.value, counts=budget.value in values))
        else:
            accounts += [
                Account(budget, value) for value in values if budget.value in (None, value)
            ]
    return accounts


def _values(scopes: Scopes, name: str) -> tuple[str, ...]:
    found = scopes.get(name, "serve" if name == "purpose" else "")
    return (found,) if isinstance(found, str) else tuple(dict.fromkeys(found)) or ("",)


def check_value(scope: str, value: object) -> None:
    """Raise `InvalidRequest` for a scope value that cannot name anybody."""
    if isinstance(value, str) and len(value) <= MAX_SCOPE_VALUE and _encodable(value):
        return
    raise InvalidRequest(
        f"scopes.{scope}",
        f"{value!r:.80} cannot name whose budget pays",
        value=value,
        allowed=f"Unicode text of at most {MAX_SCOPE_VALUE} characters",
    )


def _encodable(text: str) -> bool:
    if "\0" in text:  # PostgreSQL cannot hold it
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
