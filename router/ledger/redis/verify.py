"""Checks the counters in Redis against a second calculation: the copy that the log's store has.

The copy did every step again, with rules and tables of its own, and its own check adds up every
account from its reservations, entries and log rows. So where both agree on every counter, the
counters in Redis are the sums of what the log says.
"""

from __future__ import annotations

import json
from typing import Any

from router.errors import LedgerUnavailable
from router.ledger.mirror import Contents, Copied, Mirror
from router.ledger.redis.keys import (
    account,
    clock,
    definition,
    optional,
    read_account,
    series,
    whole,
)
from router.ledger.redis.outbox import Outbox
from router.ledger.redis.scripts import SNAPSHOT
from router.ledger.redis.session import Session

_ATTEMPTS, _WAIT = 20, 10.0
_AT_MOST = 20  # problems listed of each kind
_COUNTERS = ("settled", "held", "overrun", "seen", "credited")


def problems(session: Session, outbox: Outbox, mirror: Mirror) -> list[str]:
    """Return every rule that the ledger breaks, in words; [] when it is sound."""
    for _ in range(_ATTEMPTS):
        with outbox.turn(_WAIT) as turn:
            _, last, *snapshot = session.step(SNAPSHOT, (), patient=True)
            outbox.drain(until=int(last), turn=turn)
            contents = mirror.contents()
        if contents.place.position == int(last):
            return mirror.verify() + _differences(snapshot, contents)
    raise LedgerUnavailable("redis", "it changes too fast to be compared; try again later")


def _differences(snapshot: list[Any], contents: Contents) -> list[str]:
    accounts, open_, clocks, limits, budgets = snapshot
    found: list[str] = []
    for kind in (
        _accounts(_text(accounts), contents),
        _reservations(_text(open_), _text(accounts), contents),
        _maps("window", _pairs(clocks), _clocks(contents)),
        _maps("limit", _pairs(limits), _limits(contents)),
        _maps("budget", _pairs(budgets), _budgets(contents)),
    ):
        found += kind[:_AT_MOST] + ["… and more of this kind"] * (len(kind) > _AT_MOST)
    return found


def _accounts(accounts: list[list[str]], contents: Contents) -> list[str]:
    copied = {account(a.budget, a.scope_value, a.window_id): a for a in contents.accounts}
    found = []
    for name, *counters in accounts:
        copy = copied.pop(name, None)
        if "" in counters:
            found.append(f"{_who(name)}: it has no counters")
        elif copy is None:
            found.append(f"{_who(name)}: its log knows no such account")
        elif [int(value) for value in counters] != _values(copy):
            here = ", ".join(
                f"{key} {value}" for key, value in zip(_COUNTERS, counters, strict=True)
            )
            found.append(f"{_who(name)}: {here}; its log's store has {_values(copy)}")
    # One that nothing is open on may have been let go; of a rolling window, not while it counts.
    rolling = {
        (budget, window_id)
        for budget, kind, window_id, _ in contents.clocks
        if kind.startswith("rolling/")
    }
    found += [
        f"{_who(name)}: it is gone, with {copy.held} held"
        for name, copy in copied.items()
        if copy.held or (copy.budget, copy.window_id) in rolling
    ]
    return found


def _reservations(
    open_: list[list[str]], accounts: list[list[str]], contents: Contents
) -> list[str]:
    found = []
    copied = {each.reservation_id: each for each in contents.reservations if each.state == "open"}
    held = {name: 0 for name, *_ in accounts}
    for identity, state, usd, tokens, paying in open_:
        copy = copied.pop(identity, None)
        if state != "open" or copy is None:
            found.append(f"reservation {identity} is {state or 'gone'}, not open")
            continue
        if (int(usd), int(tokens)) != (copy.amounts.usd, copy.amounts.tokens):
            found.append(f"reservation {identity}: it holds {usd} nano-USD and {tokens} tokens")
        parts = json.loads(paying) or []
        for name, meter in zip(parts[::2], parts[1::2], strict=True):
            amount = {"usd": int(usd), "tokens": int(tokens)}.get(meter, 1)
            held[name] = held.get(name, 0) + amount
    found += [f"reservation {identity} is open, and gone" for identity in copied]
    found += [
        f"{_who(name)}: held {counters[1]}; reservations sum to {held[name]}"
        for name, *counters in accounts
        if counters[1] != str(held[name])
    ]
    return found


def _maps(what: str, here: dict[str, str], there: dict[str, str]) -> list[str]:
    return [
        f"{what} {name}: {here.get(name, 'none')}; its log's store has {there.get(name, 'none')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


def _clocks(contents: Contents) -> dict[str, str]:
    return {
        clock(budget, kind): f"{window_id}|{optional(resets_at)}"
        for budget, kind, window_id, resets_at in contents.clocks
    }


def _limits(contents: Contents) -> dict[str, str]:
    return {
        whole(budget) if value is None else series(budget, value): str(limit)
        for budget, value, limit in contents.limits
    }


def _budgets(contents: Contents) -> dict[str, str]:
    return {budget.name: definition(budget) for budget in contents.budgets}


def _values(copy: Copied) -> list[int]:
    return [copy.settled, copy.held, copy.overrun, copy.seen, copy.credited]


def _who(name: str) -> str:
    budget, scope_value, window_id = read_account(name)
    return f"budget {budget} {scope_value} {window_id}"


def _pairs(flat: list[bytes]) -> dict[str, str]:
    return dict(zip(_text(flat[::2]), _text(flat[1::2]), strict=True))


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else [_text(each) for each in value]
