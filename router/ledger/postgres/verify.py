"""Recomputes what a PostgreSQL store's counters must be, from its entries, reservations and log.

The same checks as a SQLite store's. Each is a query for the rows that break one rule, so a sound
store answers every one with nothing. All run in one transaction, which sees one committed state.
"""

from __future__ import annotations

from router.ledger.postgres.database import Database

_AT_MOST = 20  # problems listed of each kind: enough to see the pattern

_CHECKS = (
    # The limit held: settled + held <= limit + overrun, in every window. Before a credit, too.
    """
    SELECT format('budget %s %s %s: settled %s + held %s is above limit %s + overrun %s',
      budget, scope_value, window_id, settled, held, limit_n, overrun)
    FROM account WHERE CASE
      WHEN meter <> 'share' THEN settled::numeric + held > limit_n::numeric + overrun
      -- In a rolling window, calls of other values that a share was of may leave before it does.
      WHEN window_id NOT LIKE '%s:%'
        THEN (settled + held) * 1000000::numeric > limit_n::numeric * seen END
    """,
    # Over every rolling window: from each bucket's, sixty more and all that lies between.
    """
    WITH bucket AS (
      SELECT *, split_part(window_id, ':', 1) AS kind, split_part(window_id, ':', 2)::int8 AS at
      FROM account WHERE window_id ~ '^[0-9]+s:[0-9]+$' AND meter <> 'share'
    )
    SELECT format('budget %s %s %s and the windows before it: %s is above limit %s',
      a.budget, a.scope_value, a.window_id, sum(b.settled + b.held - b.overrun), a.limit_n)
    FROM bucket AS a JOIN bucket AS b ON b.budget = a.budget AND b.scope_value = a.scope_value
      AND b.kind = a.kind AND b.at BETWEEN a.at - 60 AND a.at
    WHERE a.limit_n IS NOT NULL AND a.settled + a.held - a.overrun > 0
    GROUP BY a.id, a.budget, a.scope_value, a.window_id, a.limit_n
    HAVING sum(b.settled + b.held - b.overrun) > a.limit_n
    """,
    # The counters are the sums of their reservations, less what was credited.
    """
    WITH part AS (
      SELECT p.account, r.state,
        CASE p.meter WHEN 'usd' THEN amount WHEN 'tokens' THEN tokens ELSE 1 END AS amount,
        coalesce(CASE p.meter WHEN 'usd' THEN actual WHEN 'tokens' THEN actual_tokens
          ELSE actual_requests END, 0) AS actual
      FROM reservation AS r, unnest(r.accounts, r.meters) AS p (account, meter)
    ), sums AS (
      SELECT account, sum(CASE WHEN state = 'open' THEN amount ELSE 0 END) AS held,
        sum(actual) AS settled, sum(greatest(0, actual - amount)) AS overrun
      FROM part GROUP BY account
    )
    SELECT format('budget %s %s %s: counters settled %s and credited %s, held %s, overrun %s; '
      || 'reservations sum to %s, %s, %s', budget, scope_value, window_id, a.settled, a.credited,
      a.held, a.overrun, coalesce(s.settled, 0), coalesce(s.held, 0), coalesce(s.overrun, 0))
    FROM account AS a LEFT JOIN sums AS s ON s.account = a.id
    WHERE a.settled::numeric + a.credited <> coalesce(s.settled, 0)
      OR a.held <> coalesce(s.held, 0) OR a.overrun <> coalesce(s.overrun, 0)
    """,
    """
    SELECT format('budget %s %s: credited %s, entries say %s', a.budget, a.scope_value,
      sum(a.credited), coalesce(said.given, 0))
    FROM account AS a LEFT JOIN (
      SELECT budget, scope_value, sum(amount) AS given FROM entry WHERE kind = 'CREDIT'
      GROUP BY budget, scope_value
    ) AS said ON said.budget = a.budget AND said.scope_value = a.scope_value
    GROUP BY a.budget, a.scope_value, said.given
    HAVING sum(a.credited) <> coalesce(said.given, 0)
    """,
    """
    SELECT format('reservation %s charges an account that does not exist', r.id)
    FROM reservation AS r, unnest(r.accounts) AS account
    WHERE NOT EXISTS (SELECT FROM account AS a WHERE a.id = account)
    """,
    # A window that was opened has an account: without one, usage would begin again at 0.
    """
    SELECT format('budget %s: its latest window, %s, has no account', c.budget, c.window_id)
    FROM clock AS c WHERE NOT EXISTS (
      SELECT FROM account AS a WHERE a.budget = c.budget AND a.window_id = c.window_id)
    """,
    # Each reservation left "open" at most once, by the entries that its state says.
    """
    WITH story AS (
      SELECT reservation,
        count(*) FILTER (WHERE kind = 'HOLD') AS holds,
        count(*) FILTER (WHERE kind = 'POST') AS posts,
        count(*) FILTER (WHERE kind = 'VOID') AS voids,
        count(*) FILTER (WHERE kind = 'EXPIRE') AS expiries,
        count(*) FILTER (WHERE kind = 'CORRECT') AS corrections,
        count(*) FILTER (WHERE kind = 'OVERRUN') AS overruns,
        count(*) FILTER (WHERE kind = 'DRAW') AS draws,
        coalesce(sum(amount) FILTER (WHERE kind IN ('HOLD', 'DRAW')), 0) AS held,
        coalesce(sum(amount) FILTER (WHERE kind NOT IN ('HOLD', 'DRAW', 'OVERRUN')), 0) AS charged,
        coalesce(sum(amount) FILTER (WHERE kind = 'OVERRUN'), 0) AS over
      FROM entry WHERE reservation IS NOT NULL GROUP BY reservation
    )
    SELECT format('reservation %s (%s, amount %s, actual %s): its entries say otherwise',
      r.id, r.state, r.amount, coalesce(r.actual::text, 'none'))
    FROM reservation AS r LEFT JOIN story ON story.reservation = r.seq
    WHERE ROW(holds, posts, voids, expiries, corrections) IS DISTINCT FROM ROW(1,
        (r.state = 'settled')::int, (r.state = 'released')::int,
        (r.state IN ('expired', 'corrected'))::int,
        CASE WHEN draws > 0 THEN corrections ELSE (r.state = 'corrected')::int END)
      OR ROW(held, charged) IS DISTINCT FROM ROW(r.amount, coalesce(r.actual, 0))
      OR (r.actual IS NULL) <> (r.state = 'open')
      OR ROW(overruns, over) IS DISTINCT FROM
        ROW((coalesce(r.actual, 0) > r.amount)::int, greatest(0, coalesce(r.actual, 0) - r.amount))
    """,
    """
    SELECT format('entry %s is of no reservation', e.id)
    FROM entry AS e LEFT JOIN reservation AS r ON r.seq = e.reservation
    WHERE CASE WHEN e.kind IN ('CREDIT', 'LIMIT') THEN e.budget IS NULL ELSE r.seq IS NULL END
    """,
    # The log agrees: one attempt row for each ended reservation, at the cost that was booked.
    """
    SELECT format('attempt %s of request %s: logged cost %s, booked %s', r.number, r.request_id,
      coalesce(a.cost::text, 'none'), coalesce(r.actual::text, 'none'))
    FROM reservation AS r LEFT JOIN attempt AS a
      ON a.request_id = r.request_id AND a.number = r.number
    WHERE (r.state = 'open') <> (a.number IS NULL)
      OR (r.state <> 'open' AND coalesce(a.cost, 0) IS DISTINCT FROM r.actual)
    """,
    """
    SELECT format('attempt %s of request %s was never reserved', a.number, a.request_id)
    FROM attempt AS a WHERE NOT EXISTS (
      SELECT FROM reservation AS r WHERE r.request_id = a.request_id AND r.number = a.number)
    """,
    """
    SELECT format('reservation %s is of no logged request', r.id) FROM reservation AS r
    WHERE NOT EXISTS (SELECT FROM request WHERE request.request_id = r.request_id)
    """,
    """
    SELECT format('request %s accepted attempt %s, which is not logged', q.request_id, q.accepted)
    FROM request AS q WHERE q.accepted IS NOT NULL AND NOT EXISTS (
      SELECT FROM attempt AS a WHERE a.request_id = q.request_id AND a.number = q.accepted)
    """,
)


def problems(database: Database) -> list[str]:
    """Return every rule that the store breaks, in words; [] when it is sound."""
    found = []
    # Materialised, a check is planned for all of its rows: planned for the first few, it loops over
    # one table for each row of another, and a sound store has no few.
    limited = (
        f"WITH problem AS MATERIALIZED ({check}) SELECT * FROM problem LIMIT {_AT_MOST + 1}"
        for check in _CHECKS
    )
    for rows in database.read(*limited):
        found += [str(problem) for [problem] in rows[:_AT_MOST]]
        if len(rows) > _AT_MOST:
            found.append("… and more of this kind")
    return found
