"""How accounts and windows are named in Redis, and what its answers mean.

A series is the counters of one budget and scope value over all windows. The length of the budget's
name stands before it, so that no name can be taken for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from router.ledger.matching import Take
from router.ledger.mirror import Memory
from router.ledger.store import Counters
from router.log.writer import to_json
from router.types import Budget


def series(budget: str, scope_value: str) -> str:
    return f"{len(budget)}:{budget}:{scope_value}"


def whole(budget: str) -> str:
    """A budget, for a limit of all its scope values."""
    return f"{len(budget)}:{budget}"


def clock(budget: str, kind: str) -> str:
    return f"{len(budget)}:{budget}:{kind}"


def account(budget: str, scope_value: str, window_id: str) -> str:
    return f"{series(budget, scope_value)}|{window_id}"


def read_account(name: str) -> tuple[str, str, str]:
    """Budget, scope value and window of an account's name."""
    rest, _, window_id = name.rpartition("|")
    length, _, rest = rest.partition(":")
    budget = rest[: int(length)]
    return budget, rest[int(length) + 1 :], window_id


def told(memory: Memory) -> str:
    """What a script is told of accounts: settled, held, overrun, seen, credited, by name."""
    known = {
        account(*place): [str(n) for n in (c.settled, c.held, c.overrun, c.seen, c.credited)]
        for place, c in memory.accounts.items()
    }
    return to_json(known) if known else ""


def definition(budget: Budget) -> str:
    """A budget as JSON."""
    return to_json(asdict(budget))


def span(kind: str) -> int:
    """How many seconds the counters of a window count after its end: a rolling one's do."""
    window, _, seconds = kind.partition("/")
    return int(seconds) if window == "rolling" else 0


def optional(value: float | None) -> str:
    """A number as text; None is empty."""
    return "" if value is None else repr(value)


def take_arguments(take: Take) -> list[str]:
    """What the scripts need to find a take's counters."""
    return [
        series(take.budget, take.scope_value),
        whole(take.budget),
        clock(take.budget, take.kind),
    ]


def counters(
    window_id: bytes, resets_at: bytes, override: bytes, found: Sequence[bytes]
) -> Counters:
    """Sum the windows that count: five values each, (id, settled, held, overrun, seen)."""
    rows = [found[at : at + 5] for at in range(0, len(found), 5)]
    sums = [sum(int(row[column]) for row in rows) for column in range(1, 5)]
    used = [row[0].decode() for row in rows if int(row[1]) + int(row[2]) > 0]
    return Counters(
        window_id.decode(),
        sums[0],
        sums[1],
        sums[2],
        sums[3],
        int(override) if override else None,
        float(resets_at) if resets_at else None,
        min(used, default=""),
    )
