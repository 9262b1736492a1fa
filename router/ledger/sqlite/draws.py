"""Calls that were paid out of a lease, written down in SQLite: one step, many rows."""

from __future__ import annotations

import json
import sqlite3

from router.ledger.sqlite.accounts import CHARGE
from router.ledger.store import Draw, Drawn
from router.log.writer import keep_request, to_json, write_attempt, write_end

_LEASE = "SELECT seq, state, amount, tokens, accounts FROM reservation WHERE id = ?"
_CALL = """
INSERT INTO reservation
  (id, request_id, number, state, amount, tokens, expires_at, changed, accounts)
VALUES (?, ?, ?, 'open', ?, ?, ?, ?, ?)
"""
_CALL_ENDS = """
UPDATE reservation SET state = ?, actual = ?, actual_tokens = ?, actual_requests = ? WHERE id = ?
"""
_KEEP_OPEN = """
UPDATE reservation SET amount = ?, tokens = ?, expires_at = ?, changed = ?, worst_case = ?
WHERE seq = ?
"""
_KEEP_EXPIRED = """
UPDATE reservation SET amount = ?, tokens = ?, actual = ?, actual_tokens = ?, changed = ?
WHERE seq = ?
"""


def draw(connection: sqlite3.Connection, step: Draw) -> str:
    """Do what `router.ledger.store.Store.draw` says, in the connection's transaction."""
    row = connection.execute(_LEASE, (step.lease_id,)).fetchone()
    if row is None:
        return "unknown"
    seq, state, usd, tokens, accounts = row
    if state not in ("open", "expired"):
        return str(state)
    new = _new(connection, step.calls)
    inside = [call.inside for call in new]
    freed = {"usd": usd - step.keep.usd, "tokens": tokens - step.keep.tokens}
    taken = {"usd": sum(each.usd for each in inside), "tokens": sum(each.tokens for each in inside)}
    if any(freed[meter] < taken[meter] for meter in freed):
        return "short"
    for call in new:
        _write(connection, call, accounts)
    settled = {"usd": sum(call.usd for call in new), "tokens": sum(call.tokens for call in new)}
    keep = (step.keep.usd, step.keep.tokens)
    if state == "open":
        worst = to_json(step.worst_case)
        connection.execute(_KEEP_OPEN, (*keep, step.expires_at, step.now, worst, seq))
    else:
        connection.execute(_KEEP_EXPIRED, (*keep, *keep, step.now, seq))
        write_attempt(connection, step.worst_case)
    charges = []
    for account, meter in json.loads(accounts):
        falls = freed[meter]
        held, credit = (falls, 0) if state == "open" else (0, falls)
        over = settled[meter] - taken[meter]
        charges.append((held, settled[meter] - credit, over, account))
    connection.executemany(CHARGE, charges)
    return str(state)


def _new(connection: sqlite3.Connection, calls: tuple[Drawn, ...]) -> list[Drawn]:
    """The calls that are not written down yet."""
    new = []
    for call in calls:
        known = connection.execute(
            "SELECT 1 FROM reservation WHERE id = ?", (call.reservation_id,)
        ).fetchone()
        if known is None:
            new.append(call)
    return new


def _write(connection: sqlite3.Connection, call: Drawn, accounts: str) -> None:
    connection.execute(
        _CALL,
        (
            call.reservation_id,
            call.request_id,
            call.number,
            call.amounts.usd,
            call.amounts.tokens,
            call.expires_at,
            call.now,
            accounts,
        ),
    )
    billed = int(call.state != "released")
    connection.execute(_CALL_ENDS, (call.state, call.usd, call.tokens, billed, call.reservation_id))
    if call.request is not None:
        keep_request(connection, call.request)
    write_attempt(connection, call.attempt)
    if call.end is not None:
        write_end(connection, call.request_id, call.end, call.now)
