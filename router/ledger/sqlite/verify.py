"""Recomputes what a SQLite store's counters must be, from its entries, reservations and log.

Each check is a query for the rows that break one rule, so a sound store answers every one with
nothing. All run in the caller's read transaction, which sees one committed state.
"""

from __future__ import annotations

import sqlite3

_AT_MOST = 20  # problems listed of each kind: enough to see the pattern

_CHECKS = (
    # The limit held: settled + held <= limit + overrun, in every window. Before a credit, too.
    """
    SELECT 'budget ' || budget || ' ' || scope_value || ' ' || window_id || ': settled ' || settled
      || ' + held ' || held || ' is above limit ' || limit_n || ' + overrun ' || overrun
    FROM account WHERE CASE
      WHEN meter != 'share' THEN settled + held > limit_n + overrun
      -- In a rolling window, calls of other values that a share was of may leave before it does.
      WHEN window_id NOT LIKE '%s:%' THEN (settled + held) * 1000000 > limit_n * seen END
    """,
    # Over every rolling window: from each bucket's, sixty more and all that lies between.
    """
    WITH bucket AS (
      SELECT *, substr(window_id, 1, instr(window_id, ':')) AS kind,
        CAST(substr(window_id, instr(window_id, ':') + 1) AS INTEGER) AS at
      FROM account WHERE window_id LIKE '%s:%' AND meter != 'share'
    )
    SELECT 'budget ' || a.budget || ' ' || a.scope_value || ' ' || a.window_id
      || ' and the windows before it: ' || sum(b.settled + b.held - b.overrun)
      || ' is above limit ' || a.limit_n
    FROM bucket AS a JOIN bucket AS b ON b.budget = a.budget AND b.scope_value = a.scope_value
      AND b.kind = a.kind AND b.at BETWEEN a.at - 60 AND a.at
    WHERE a.limit_n IS NOT NULL AND a.settled + a.held - a.overrun > 0
    GROUP BY a.id HAVING sum(b.settled + b.held - b.overrun) > max(a.limit_n)
    """,
    # The counters are the sums of their reservations, less what was credited.
    """
    WITH part AS (
      SELECT reservation.*, json_extract(value, '$[0]') AS account,
        json_extract(value, '$[1]') AS meter
      FROM reservation, json_each(reservation.accounts)
    ), share AS (
      SELECT account, state,
        CASE meter WHEN 'usd' THEN amount WHEN 'tokens' THEN tokens ELSE 1 END AS amount,
        CASE meter WHEN 'usd' THEN actual WHEN 'tokens' THEN actual_tokens
          ELSE actual_requests END AS actual
      FROM part
    ), sums AS (
      SELECT account,
        sum(CASE WHEN state = 'open' THEN amount ELSE 0 END) AS held,
        sum(coalesce(actual, 0)) AS settled,
        sum(max(0, coalesce(actual, 0) - amount)) AS overrun
      FROM share GROUP BY account
    )
    SELECT 'budget ' || budget || ' ' || scope_value || ' ' || window_id || ': counters settled '
      || a.settled || ' and credited ' || a.credited || ', held ' || a.held || ', overrun '
      || a.overrun || '; reservations sum to '
      || coalesce(s.settled, 0) || ', ' || coalesce(s.held, 0) || ', ' || coalesce(s.overrun, 0)
    FROM account AS a LEFT JOIN sums AS s ON s.account = a.id
    WHERE (a.settled + a.credited, a.held, a.overrun)
      IS NOT (coalesce(s.settled, 0), coalesce(s.held, 0), coalesce(s.overrun, 0))
    """,
    """
    SELECT 'budget ' || a.budget || ' ' || a.scope_value || ': credited ' || sum(a.credited)
      || ', entries say ' || coalesce(given, 0)
    FROM account AS a LEFT JOIN (
      SELECT budget, scope_value, sum(amount) AS given FROM entry WHERE kind = 'CREDIT'
      GROUP BY budget, scope_value
    ) AS said ON said.budget = a.budget AND said.scope_value = a.scope_value
    GROUP BY a.budget, a.scope_value HAVING sum(a.credited) != coalesce(given, 0)
    """,
    """
    SELECT 'reservation ' || reservation.id || ' charges an account that does not exist'
    FROM reservation, json_each(reservation.accounts) AS part
    WHERE json_extract(part.value, '$[0]') NOT IN (SELECT id FROM account)
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
        sum(kind = 'OVERRUN') AS overruns, sum(kind = 'DRAW') AS draws,
        sum(CASE WHEN kind IN ('HOLD', 'DRAW') THEN amount ELSE 0 END) AS held,
        sum(CASE WHEN kind IN ('HOLD', 'DRAW', 'OVERRUN') THEN 0 ELSE amount END) AS charged,
        sum(CASE WHEN kind = 'OVERRUN' THEN amount ELSE 0 END) AS over
      FROM entry WHERE reservation IS NOT NULL GROUP BY reservation
    )
    SELECT 'reservation ' || r.id || ' (' || r.state || ', amount ' || r.amount || ', actual '
      || coalesce(r.actual, 'none') || '): its entries say otherwise'
    FROM reservation AS r LEFT JOIN story ON story.reservation = r.seq
    WHERE (holds, posts, voids, expiries, corrections) IS NOT (1, r.state = 'settled',
        r.state = 'released', r.state IN ('expired', 'corrected'),
        CASE WHEN draws THEN corrections ELSE r.state = 'corrected' END)
      OR (held, charged) IS NOT (r.amount, coalesce(r.actual, 0))
      OR (r.actual IS NULL) IS NOT (r.state = 'open')
      OR (overruns, over) IS NOT (coalesce(r.actual, 0) > r.amount,
        max(0, coalesce(r.actual, 0) - r.amount))
    """,
    """
    SELECT 'entry ' || id || ' is of no reservation' FROM entry
    WHERE CASE WHEN kind IN ('CREDIT', 'LIMIT') THEN budget IS NULL
      ELSE reservation IS NULL OR reservation NOT IN (SELECT seq FROM reservation) END
    """,
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
