"""Calls that were paid out of a lease, written down in PostgreSQL: one step, many rows.

Locks are taken in the order of the other steps (`steps.py`): the lease's row, which keeps other
draws and the sweep away from it, then the rows of its calls, then accounts. No advisory lock is
needed, since what an account holds and has settled rises by overruns only. It commits twice, as
`finish_hold` does.
"""

from __future__ import annotations

from typing import Any

from router.ledger.postgres.connection import plain, to_json
from router.ledger.store import Draw, Drawn

DRAW = "CALL draw(NULL, $1, $2, $3, $4, $5, $6, $7, $8)"

# A call is a JSON array: reservation, request, number, state, USD and tokens set aside, USD and
# tokens taken, USD and tokens of them inside the lease, expires at, now, and the rows of the
# attempt, the request and its end; the last two may be null.
STEPS = """
CREATE FUNCTION put_call(p_call jsonb, p_accounts bigint[], p_meters text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  v_state text := p_call->>3;
  v_amount bigint := p_call->>4;
  v_actual bigint := p_call->>6;
  v_now double precision := p_call->>11;
  v_seq bigint;
BEGIN
  INSERT INTO reservation (id, request_id, number, state, amount, tokens, actual, actual_tokens,
      actual_requests, expires_at, changed, accounts, meters)
    VALUES (p_call->>0, p_call->>1, (p_call->>2)::int, v_state, v_amount, (p_call->>5)::int8,
      v_actual, (p_call->>7)::int8, (v_state <> 'released')::int, (p_call->>10)::float8, v_now,
      p_accounts, p_meters)
    RETURNING seq INTO v_seq;
  INSERT INTO entry (reservation, kind, amount, time) VALUES (v_seq, 'HOLD', v_amount, v_now),
    (v_seq, CASE v_state WHEN 'settled' THEN 'POST' WHEN 'released' THEN 'VOID'
      WHEN 'expired' THEN 'EXPIRE' END, v_actual, v_now);
  IF v_actual > v_amount THEN
    INSERT INTO entry (reservation, kind, amount, time)
      VALUES (v_seq, 'OVERRUN', v_actual - v_amount, v_now);
  END IF;
  IF p_call->13 <> 'null' THEN
    PERFORM put_request(p_call->13);
  END IF;
  PERFORM put_attempt(p_call->12);
  IF p_call->14 <> 'null' THEN
    PERFORM end_request(p_call->>1, p_call->14, v_now);
  END IF;
END $$;

CREATE FUNCTION draw_in_all(p_id text, p_calls jsonb, p_usd int8, p_tokens int8,
  p_expires_at float8, p_worst_case text, p_now float8) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  r record;
  t record;
  v_falls bigint;
  v_settled bigint;
  v_over bigint;
BEGIN
  SELECT seq, state, amount, tokens, accounts, meters INTO r FROM reservation WHERE id = p_id
    FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 'unknown';
  END IF;
  IF r.state NOT IN ('open', 'expired') THEN
    RETURN r.state;
  END IF;
  -- Calls that are there already were written when this step was done before.
  SELECT coalesce(jsonb_agg(c ORDER BY n), '[]') AS calls,
      coalesce(sum((c->>6)::int8), 0)::int8 AS usd,
      coalesce(sum((c->>7)::int8), 0)::int8 AS tokens,
      coalesce(sum((c->>8)::int8), 0)::int8 AS usd_inside,
      coalesce(sum((c->>9)::int8), 0)::int8 AS tokens_inside
    INTO t
    FROM jsonb_array_elements(p_calls) WITH ORDINALITY AS given (c, n)
    WHERE NOT EXISTS (SELECT FROM reservation WHERE id = c->>0);
  IF r.amount - p_usd < t.usd_inside OR r.tokens - p_tokens < t.tokens_inside THEN
    RETURN 'short';
  END IF;
  PERFORM put_call(c, r.accounts, r.meters)
    FROM jsonb_array_elements(t.calls) AS given (c);
  INSERT INTO entry (reservation, kind, amount, time)
    VALUES (r.seq, 'DRAW', p_usd - r.amount, p_now);
  IF r.state = 'open' THEN
    UPDATE reservation SET amount = p_usd, tokens = p_tokens, expires_at = p_expires_at,
      changed = p_now, worst_case = p_worst_case WHERE id = p_id;
  ELSE
    INSERT INTO entry (reservation, kind, amount, time)
      VALUES (r.seq, 'CORRECT', p_usd - r.amount, p_now);
    UPDATE reservation SET amount = p_usd, tokens = p_tokens, actual = p_usd,
      actual_tokens = p_tokens, changed = p_now WHERE id = p_id;
    PERFORM put_attempt(p_worst_case::jsonb);
  END IF;
  -- What the lease held, or was charged, falls; what its calls took is settled.
  FOR i IN 1..cardinality(r.accounts) LOOP
    v_falls := CASE r.meters[i] WHEN 'usd' THEN r.amount - p_usd
      WHEN 'tokens' THEN r.tokens - p_tokens END;
    v_settled := CASE r.meters[i] WHEN 'usd' THEN t.usd WHEN 'tokens' THEN t.tokens END;
    v_over := v_settled
      - CASE r.meters[i] WHEN 'usd' THEN t.usd_inside WHEN 'tokens' THEN t.tokens_inside END;
    UPDATE account SET held = held - CASE WHEN r.state = 'open' THEN v_falls ELSE 0 END,
      settled = settled + v_settled - CASE WHEN r.state = 'open' THEN 0 ELSE v_falls END,
      overrun = overrun + v_over WHERE id = r.accounts[i];
  END LOOP;
  RETURN r.state;
END $$;

CREATE PROCEDURE draw(INOUT p_answer jsonb, p_durable boolean, p_id text, p_calls jsonb,
  p_usd int8, p_tokens int8, p_expires_at float8, p_worst_case text, p_now float8)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  p_answer := to_jsonb(draw_in_all(p_id, p_calls, p_usd, p_tokens, p_expires_at, p_worst_case,
    p_now));
  COMMIT;
  IF p_durable THEN
    PERFORM pg_logical_emit_message(true, 'tiered_router', '');
  END IF;
END $$;
"""


def draw_values(step: Draw) -> list[Any]:
    """The parameters of `DRAW` after the first, which says whether to wait for the disk."""
    return [
        step.lease_id,
        to_json([_call(call) for call in step.calls]),
        step.keep.usd,
        step.keep.tokens,
        step.expires_at,
        to_json(step.worst_case),
        step.now,
    ]


def _call(call: Drawn) -> list[Any]:
    end = call.end
    return [
        *plain([call.reservation_id, call.request_id, call.number, call.state]),
        *(call.amounts.usd, call.amounts.tokens, call.usd, call.tokens),
        *(call.inside.usd, call.inside.tokens, call.expires_at, call.now),
        plain(call.attempt),
        None if call.request is None else plain(call.request),
        None if end is None else plain([end.status, end.accepted, end.baseline, end.error]),
    ]
