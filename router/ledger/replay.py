"""What stands in journals goes into the store, each step exactly once.

Every step may be repeated: a reservation's end at the amount that it has ended at changes nothing,
a call that was drawn is passed over. So a replay that is cut off is simply begun anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router.ledger import lines as read
from router.ledger.journal import Left, left_behind
from router.ledger.leases import recovered, returned, worst_case_row
from router.ledger.matching import Amounts, Take
from router.ledger.store import Denied, Draw, Drawn, Ending, Invalid, NewHold, Store
from router.log.writer import ATTEMPT_COST, attempt_values

_log = logging.getLogger("router")


def recover(store: Store, folder: Path | None, identity: str, now: float) -> int:
    """Replay the journals that dead processes left in `folder` for the store `identity`.

    Returns how many there were.
    Raises `LedgerUnavailable` where the store goes away meanwhile; what was not replayed stays.
    """
    count = 0
    for left in left_behind(folder, identity) if folder is not None else ():
        recover_one(store, left, now)
        left.done()
        count += 1
    return count


def recover_one(store: Store, left: Left, now: float) -> None:
    """Replay one journal. What a lease holds and no call took goes back to the budgets.

    A journal of before the machine's last start may lack the lines that had not reached the disk:
    its leases are left to be charged in full.
    """
    parked = [line for line in left.lines if line[0] in ("end", "finish", "refuse", "open")]
    opened = {line[1]: line for line in parked if line[0] == "open"}
    ended = {line[1] for line in parked if line[0] == "end"}
    for line in parked:
        if line[0] == "open" and line[1] not in ended:
            book(store, read.hold_of(line), _lost(read.hold_of(line), now))
        else:
            replay_line(store, line, opened)
    leases = recovered(left.lines)
    if leases and not left.same_boot:
        _log.error("%s: the machine was started anew; its leases are charged in full", left.path)
        return
    for lease_id, calls in leases.items():
        _end_lease(store, lease_id, calls, now)


def replay_line(store: Store, line: list[Any], opened: Mapping[str, list[Any]]) -> None:
    """Take one parked step. A contradiction is logged and left: repeating it would not help.

    `opened`: the lines of calls that were sent without asking, which are booked with their ends.
    """
    if line[0] == "end":
        ending = read.ending_of(line)
        if line[1] in opened:
            book(store, read.hold_of(opened[line[1]]), ending)
        else:
            _end(store, ending)
    elif line[0] == "finish" and not store.finish(*read.finish_of(line)):
        _log.error("request %s cannot be ended: it is not in the log", line[1])
    elif line[0] == "refuse":
        store.refuse(line[1])


def book(store: Store, new: NewHold, ending: Ending) -> None:
    """Write down a call that nobody was asked for: it reserved nothing, so all is an overrun.

    Where a budget of requests or a share has no room left, the call is not counted there, and is
    in all others: there is no overrun of requests.
    """
    bare = new._replace(
        amounts=Amounts(0, 0),
        takes=tuple(_nothing(take) for take in new.takes),
        worst_case=_costing(new.worst_case, 0),
    )
    found = store.hold(bare)
    while isinstance(found, Denied | Invalid):
        if isinstance(found, Denied):
            full = bare.takes[found.position]
            bare = bare._replace(takes=tuple(take for take in bare.takes if take is not full))
        elif bare.request is not None:
            bare = bare._replace(request=None)  # its request is in the log
        else:
            _log.error("call %s cannot be booked: %s", new.reservation_id, found)
            return
        found = store.hold(bare)
    _end(store, ending)


def _end(store: Store, ending: Ending) -> None:
    found = store.end(ending)
    if found is not None and (found.state == "unknown" or found.booked != ending.usd):
        _log.error(
            "reservation %s was to end at %d nano-USD, and is %s at %d",
            ending.reservation_id,
            ending.usd,
            found.state,
            found.booked,
        )


def _end_lease(store: Store, lease_id: str, calls: Sequence[Drawn], now: float) -> None:
    worst = attempt_values(worst_case_row(lease_id, 0, now))
    state = store.draw(Draw(lease_id, tuple(calls), Amounts(0, 0), now + 60, worst, now))
    if state == "open":
        store.end(returned(lease_id, now))
    elif state == "expired":
        store.finish(lease_id, returned(lease_id, now).end, now)  # type: ignore[arg-type]
    elif calls:
        _log.error("lease %s is %s; %d calls cannot be drawn from it", lease_id, state, len(calls))


def _lost(new: NewHold, now: float) -> Ending:
    """The end of a call whose process died before it heard of it: charged at its bound."""
    return Ending(
        new.reservation_id,
        new.request_id,
        new.number,
        True,
        new.amounts.usd,
        new.amounts.tokens,
        new.worst_case,
        None,
        now,
    )


def _nothing(take: Take) -> Take:
    """The same account, of which no money and no tokens are asked."""
    return take._replace(amount=take.amount if take.meter in ("requests", "share") else 0)


def _costing(worst_case: list[Any], cost: int) -> list[Any]:
    return [cost if place == ATTEMPT_COST else each for place, each in enumerate(worst_case)]
