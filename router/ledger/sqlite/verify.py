"""Recomputes what a SQLite store's counters must be, from its entries, reservations and log.

Each check is a query for the rows that break one rule, so a sound store answers every one with
nothing. All run in the caller's read transaction, which sees one committed state.
"""

from __future__ import annotations

import sqlite3

_AT_MOST = 20  # problems listed of each kind: enough to see the pattern

_CHECKS = (
    # The limit held: settled + held <= limit + overrun, in every window.
    """
    SELECT 'budget ' || budget || ' ' || scope_value || ' ' || window_id || ': settled ' || settled
      || ' + held ' || held || ' is above limit ' || limit_nano || ' + overrun ' || overrun
    FROM account WHERE settled + held > limit_nano + overrun
    """,
    # The counters are the sums of their reservations.
    """
    WITH share AS (
      SELECT CAST(part.value AS INTEGER) AS account, reservation.*
      FROM reservation, json_each(reservation.accounts) AS part
    ), sums AS (
      SELECT account,
        sum(CASE WHEN state = 'open' THEN amount ELSE 0 END) AS held,
        sum(coalesce(actual, 0)) AS settled,
        sum(max(0, coalesce(actual, 0) - amount)) AS overrun
      FROM share GROUP BY account
    )
    SELECT 'budget ' || budget || ' ' || scope_value || ' ' || window_id || ': counters settled '
      || a.settled || ', held ' || a.held || ', overrun ' || a.overrun || '; reservations sum to '
      || coalesce(s.settled, 0) || ', ' || coalesce(s.held, 0) || ', ' || coalesce(s.overrun, 0)
    FROM account AS a LEFT JOIN sums AS s ON s.account = a.id
    WHERE (a.settled, a.held, a.overrun)
      IS NOT (coalesce(s.settled, 0), coalesce(s.held, 0), coalesce(s.overrun, 0))
    """,
    """
    SELECT 'reservation ' || reservation.id || ' charges an account that does not exist'
    FROM reservation, json_each(reservation.accounts) AS part
    WHERE part.value NOT IN (SELECT id FROM account)
    """,
    # A window that was opened has an account: without one, usage would begin again at 0.
    """
    SELECT 'budget ' || budget || ': its latest window, ' || window_id || ', has no account'
    FROM clock WHERE (budget, window_id) NOT IN (SELECT budget, window_id FROM account)
    """,
    # Each reservation left "open" at most once, by the entries that its state says.
    """
    WITH story AS (
      SELECT reservation,
        sum(kind = 'HOLD') AS holds, sum(kind = 'POST') AS posts, sum(kind = 'VOID') AS voids,
        sum(kind = 'EXPIRE') AS expiries, sum(kind = 'CORRECT') AS corrections,
        sum(kind = 'OVERRUN') AS overruns,
        sum(CASE WHEN kind = 'HOLD' THEN amount ELSE 0 END) AS held,
        sum(CASE WHEN kind IN ('HOLD', 'OVERRUN') THEN 0 ELSE amount END) AS charged,
        sum(CASE WHEN kind = 'OVERRUN' THEN amount ELSE 0 END) AS over
      FROM entry GROUP BY reservation
    )
    SELECT 'reservation ' || r.id || ' (' || r.state || ', amount ' || r.amount || ', actual '
      || coalesce(r.actual, 'none') || '): its entries say otherwise'
    FROM reservation AS r LEFT JOIN story ON story.reservation = r.seq
    WHERE (holds, posts, voids, expiries, corrections) IS NOT (1, r.state = 'settled',
        r.state = 'released', r.state IN ('expired', 'corrected'), r.state = 'corrected')
      OR (held, charged) IS NOT (r.amount, coalesce(r.actual, 0))
      OR (r.actual IS NULL) IS NOT (r.state = 'open')
      OR (overruns, over) IS NOT (coalesce(r.actual, 0) > r.amount,
        max(0, coalesce(r.actual, 0) - r.amount))
    """,
    "SELECT 'entry ' || id || ' is of no reservation' FROM entry"
    " WHERE reservation NOT IN (SELECT seq FROM reservation)",
    # The log agrees: one attempt row for each ended reservation, at the cost that was booked.
    """
    SELECT 'attempt ' || coalesce(a.number, r.number) || ' of request '
      || coalesce(a.request_id, r.request_id) || ': logged cost '
      || coalesce(a.cost, 'none') || ', booked ' || coalesce(r.actual, 'none')
    FROM reservation AS r LEFT JOIN attempt AS a
      ON a.request_id = r.request_id AND a.number = r.number
    WHERE (r.state = 'open') IS NOT (a.number IS NULL)
      OR (r.state != 'open' AND coalesce(a.cost, 0) != r.actual)
    """,
    """
    SELECT 'attempt ' || number || ' of request ' || request_id || ' was never reserved'
    FROM attempt WHERE (request_id, number) NOT IN (SELECT request_id, number FROM reservation)
    """,
    "SELECT 'reservation ' || id || ' is of no logged request' FROM reservation"
    " WHERE request_id NOT IN (SELECT request_id FROM request)",
    """
    SELECT 'request ' || request_id || ' accepted attempt ' || accepted || ', which is not logged'
    FROM request WHERE accepted IS NOT NULL
      AND (request_id, accepted) NOT IN (SELECT request_id, number FROM attempt)
    """,
)


def problems(connection: sqlite3.Connection) -> list[str]:
    """Return every rule that the store breaks, in words; [] when it is sound."""
    found = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_AT_MOST})")]
    if found != ["ok"]:
        return [
            f"file: {problem}" for problem in found
        ]  # no query of a damaged file can be trusted
    for check in _CHECKS:
        rows = connection.execute(check).fetchmany(_AT_MOST + 1)
        found += [str(row[0]) for row in rows[:_AT_MOST]]
        if len(rows) > _AT_MOST:
            found.append("… and more of this kind")
    return found[1:]
