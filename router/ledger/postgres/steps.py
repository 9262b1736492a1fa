"""The steps of a PostgreSQL store, in PL/pgSQL: each is one call, so one round trip.

Locks are taken in one order everywhere, so that no two steps wait for each other: first advisory
locks, one a budget and scope value, sorted; then a reservation and the rows of its request; then
accounts, by budget and scope value. An advisory lock keeps other holds off all the windows of an
account while its sum is checked, those too that are not opened yet; a settlement needs none, since
it only lowers the sum or books an overrun. READ COMMITTED lets each statement after a lock see
what was committed before it was granted.

`hold` and `finish_hold` commit twice. The first commit does not wait for the disk, so the locks of
busy accounts are free again at once; the second, of a transaction that holds no lock, waits until
the write-ahead log is on disk up to its own record. The log is one sequence, so the step's record,
which comes before, is then on disk too, and so is everything that the step has seen. Only then does
the caller get the answer. What others read meanwhile may be lost with the server, together with
whatever they wrote upon it. (Known as early lock release: DeWitt et al. 1984. In PostgreSQL's
terms: https://www.postgresql.org/docs/current/wal-async-commit.html.)
"""

from __future__ import annotations

LOCKS = 0x54527472  # "TRtr": the class of this library's advisory locks
SWEEP_LOCK = 0x7FFFFFFF  # the sweeper's turn
INVALID = "TR001"  # SQLSTATE: the reservation contradicts the log

_ROWS = """
-- Rows come as JSON arrays in the order of the log's columns.
CREATE FUNCTION put_request(p_row jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO request (request_id, time, status, policy, predictor, price_book, scopes, tags,
    conversation_id, stream, features, decision, chosen, reason, rule, baseline, content, error,
    purpose)
  VALUES (p_row->>0, (p_row->>1)::float8, p_row->>2, p_row->>3, p_row->>4, p_row->>5, p_row->>6,
    p_row->>7, p_row->>8, (p_row->>9)::boolean, p_row->>10, p_row->>11, p_row->>12, p_row->>13,
    p_row->>14, (p_row->>15)::int8, p_row->>16, p_row->>17, p_row->>18)
  ON CONFLICT DO NOTHING;
  RETURN FOUND;
END $$;

-- Or puts it in the place of the one that its expiry had assumed.
CREATE FUNCTION put_attempt(p_row jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO attempt (request_id, number, time, step, arm, tier, model, propensity, status,
    reserved, cost, cost_source, price_book, latency, usage, input_tokens, output_tokens, error,
    note, answer)
  VALUES (p_row->>0, (p_row->>1)::int, (p_row->>2)::float8, (p_row->>3)::int, p_row->>4, p_row->>5,
    p_row->>6, (p_row->>7)::float8, p_row->>8, (p_row->>9)::int8, (p_row->>10)::int8, p_row->>11,
    p_row->>12, (p_row->>13)::float8, p_row->>14, (p_row->>15)::int8, (p_row->>16)::int8,
    p_row->>17, p_row->>18, p_row->>19)
  ON CONFLICT (request_id, number) DO UPDATE SET time = excluded.time, step = excluded.step,
    arm = excluded.arm, tier = excluded.tier, model = excluded.model,
    propensity = excluded.propensity, status = excluded.status, reserved = excluded.reserved,
    cost = excluded.cost, cost_source = excluded.cost_source, price_book = excluded.price_book,
    latency = excluded.latency, usage = excluded.usage, input_tokens = excluded.input_tokens,
    output_tokens = excluded.output_tokens, error = excluded.error, note = excluded.note,
    answer = excluded.answer;
END $$;

-- p_end: status, accepted, baseline, error.
CREATE FUNCTION end_request(p_request_id text, p_end jsonb, p_now float8) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE request SET status = p_end->>0, accepted = (p_end->>1)::int, baseline = (p_end->>2)::int8,
    error = p_end->>3, ended = p_now WHERE request_id = p_request_id;
  RETURN FOUND;
END $$;

CREATE FUNCTION refuse(p_row jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  IF put_request(p_row) THEN
    RETURN NULL;
  END IF;
  RETURN (SELECT to_jsonb(status) FROM request WHERE request_id = p_row->>0);
END $$;

CREATE FUNCTION put_label(
  p_request_id text, p_score float8, p_source text, p_now float8, p_rate float8)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO label (request_id, score, source, time, rate)
    SELECT request_id, p_score, p_source, p_now, p_rate FROM request
      WHERE request_id = p_request_id;
  RETURN FOUND;
END $$;
"""

# The accounts of takes, in their order. A take is a JSON array: budget, scope value, meter, kind,
# window id, since, resets at, amount, limit. `id` is null where the window is not open yet. It is
# the window asked for, or a later one that was opened already: clocks are set back. One query finds
# them all, because starting queries is what most of a step's time goes into.
_FIND = """
  SELECT a.id, latest.window_id, a.limit_n AS highest, o.limit_n AS override_n, t.take,
    CASE WHEN latest.window_id = t.take->>4 THEN (t.take->>6)::float8 ELSE c.resets_at END
      AS resets_at,
    coalesce(s.settled, a.settled, 0)::int8 AS settled, coalesce(s.held, a.held, 0)::int8 AS held,
    coalesce(s.overrun, a.overrun, 0)::int8 AS overrun, coalesce(s.seen, a.seen, 0)::int8 AS seen,
    coalesce(s.oldest, '') AS oldest
  FROM jsonb_array_elements(%s) WITH ORDINALITY AS t (take, n)
  LEFT JOIN clock AS c ON c.budget = t.take->>0 AND c.kind = t.take->>3
  CROSS JOIN LATERAL (SELECT greatest((t.take->>4) COLLATE "C", c.window_id) AS window_id) AS latest
  LEFT JOIN account AS a ON a.budget = t.take->>0 AND a.scope_value = t.take->>1
    AND a.window_id = latest.window_id
  LEFT JOIN LATERAL (
    SELECT limit_n FROM override
    WHERE budget = t.take->>0 AND (scope_value = t.take->>1 OR scope_value IS NULL)
    ORDER BY scope_value IS NULL LIMIT 1) AS o ON true
  LEFT JOIN LATERAL (  -- a rolling window
    SELECT sum(settled) AS settled, sum(held) AS held, sum(overrun) AS overrun, sum(seen) AS seen,
      min(window_id) FILTER (WHERE settled + held > 0) AS oldest
    FROM account
    WHERE t.take->>5 <> t.take->>4 AND budget = t.take->>0 AND scope_value = t.take->>1
      AND window_id BETWEEN t.take->>5 AND latest.window_id) AS s ON true
  ORDER BY t.n
"""

_ACCOUNTS = f"""
-- STABLE, so all accounts are seen at one moment.
CREATE FUNCTION counters(p_takes jsonb) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT jsonb_agg(jsonb_build_array(window_id, settled, held, overrun, seen, override_n,
    resets_at, oldest)) FROM ({_FIND % "p_takes"}) AS f);
END $$;

-- Opens a take's window, or the latest of its kind. The caller has the account's advisory lock.
CREATE FUNCTION open_account(p_take jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_budget text := p_take->>0;
  v_kind text := p_take->>3;
  v_window text := p_take->>4;
  v_id bigint;
BEGIN
  PERFORM FROM clock WHERE budget = v_budget AND kind = v_kind AND window_id >= v_window;
  IF NOT FOUND THEN
    INSERT INTO clock AS c VALUES (v_budget, v_kind, v_window, (p_take->>6)::float8)
      ON CONFLICT (budget, kind) DO UPDATE
      SET window_id = excluded.window_id, resets_at = excluded.resets_at
      WHERE excluded.window_id > c.window_id;
  END IF;
  INSERT INTO account (budget, scope_value, window_id, meter, limit_n)
    SELECT v_budget, p_take->>1, window_id, p_take->>2, 0 FROM clock
    WHERE budget = v_budget AND kind = v_kind
    RETURNING id INTO v_id;
  RETURN v_id;
END $$;

CREATE FUNCTION set_limit(p_budget text, p_value text, p_limit int8, p_now float8, p_note text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM override WHERE budget = p_budget AND scope_value IS NOT DISTINCT FROM p_value;
  IF p_limit IS NOT NULL THEN
    INSERT INTO override VALUES (p_budget, p_value, p_limit);
  END IF;
  -- Asked again after its answer was lost, it is one change still.
  INSERT INTO entry (budget, scope_value, kind, amount, time, note)
    SELECT p_budget, p_value, 'LIMIT', p_limit, p_now, p_note
    WHERE NOT EXISTS (
      SELECT FROM (SELECT * FROM entry WHERE reservation IS NULL ORDER BY id DESC LIMIT 1) AS last
      WHERE budget = p_budget AND scope_value IS NOT DISTINCT FROM p_value AND kind = 'LIMIT'
        AND amount IS NOT DISTINCT FROM p_limit AND time = p_now AND note = p_note);
END $$;

CREATE FUNCTION credit(p_take jsonb, p_amount int8, p_now float8, p_note text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_latest text COLLATE "C";
  v_since text COLLATE "C";
  r record;
  v_part bigint;
  v_left bigint := p_amount;
BEGIN
  SELECT window_id INTO v_latest FROM ({_FIND % "jsonb_build_array(p_take)"}) AS f;
  v_since := CASE WHEN p_take->>5 = p_take->>4 THEN v_latest ELSE p_take->>5 END;
  PERFORM FROM account WHERE budget = p_take->>0 AND scope_value = p_take->>1
    AND window_id BETWEEN v_since AND v_latest ORDER BY window_id FOR UPDATE;
  FOR r IN
    SELECT id, settled FROM account WHERE budget = p_take->>0 AND scope_value = p_take->>1
      AND window_id BETWEEN v_since AND v_latest AND settled > 0 ORDER BY window_id DESC
  LOOP
    v_part := least(v_left, r.settled);
    UPDATE account SET settled = settled - v_part, credited = credited + v_part WHERE id = r.id;
    v_left := v_left - v_part;
  END LOOP;
  INSERT INTO entry (budget, scope_value, kind, amount, time, note)
    VALUES (p_take->>0, p_take->>1, 'CREDIT', p_amount - v_left, p_now, p_note);
  RETURN p_amount - v_left;
END $$;

CREATE FUNCTION audit() RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT jsonb_agg(jsonb_build_array(budget, scope_value, lower(kind), amount, time, note)
    ORDER BY id) FROM entry WHERE reservation IS NULL);
END $$;

CREATE FUNCTION define(p_budgets jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO budget AS b
    SELECT r->>0, (r->>1)::int8, r->>2, r->>3, r->>4, r->>5, r->>6, r->>7, (r->>8)::int8, r->>9,
      r->>10
    FROM jsonb_array_elements(p_budgets) WITH ORDINALITY AS given(r, n) ORDER BY n
    ON CONFLICT (name) DO UPDATE SET limit_n = excluded.limit_n, "window" = excluded."window",
      zone = excluded.zone, scope = excluded.scope, on_exceed = excluded.on_exceed,
      meter = excluded.meter, value = excluded.value, seconds = excluded.seconds,
      purpose = excluded.purpose, conditions = excluded.conditions
    WHERE b.* IS DISTINCT FROM excluded.*;
END $$;
"""

_HOLD = f"""
CREATE FUNCTION hold_in_all(p_id text, p_request_id text, p_number int, p_usd int8, p_tokens int8,
  p_now float8, p_expires_at float8, p_locks int[], p_takes jsonb, p_worst_case text,
  p_request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  f record;
  n int := 0;
  v_lock int;
  v_take jsonb;
  v_amount bigint;
  v_limit bigint;
  v_most bigint;
  v_ids bigint[] := '{{}}';
  v_limits bigint[] := '{{}}';
  v_accounts bigint[] := '{{}}';
  v_meters text[] := '{{}}';
  v_seq bigint;
  v_known jsonb;
BEGIN
  FOREACH v_lock IN ARRAY p_locks LOOP
    PERFORM pg_advisory_xact_lock({LOCKS}, v_lock);
  END LOOP;
  SELECT jsonb_build_array('known', state, amount, tokens, expires_at) INTO v_known
    FROM reservation WHERE id = p_id;
  IF FOUND THEN
    RETURN v_known;
  END IF;

  FOR f IN {_FIND % "p_takes"} LOOP
    v_take := f.take;
    v_amount := (v_take->>7)::int8;
    v_limit := coalesce(f.override_n, (v_take->>8)::int8);
    IF v_limit < 0 THEN
      v_limit := NULL;
    END IF;
    v_most := CASE WHEN v_take->>2 = 'share' THEN v_limit * (f.seen + 1) / 1000000 ELSE v_limit END;
    IF v_amount > 0 AND f.settled + f.held + v_amount > v_most THEN
      RETURN jsonb_build_array('denied', n, f.settled, f.held, v_limit, f.seen, f.window_id,
        f.resets_at, f.oldest);
    END IF;
    n := n + 1;
    v_ids[n] := f.id;
    -- The highest limit that anything was admitted under; null once that was unlimited.
    v_limits[n] := CASE WHEN f.id IS NOT NULL AND f.highest IS NULL OR v_limit IS NULL THEN NULL
      ELSE greatest(v_limit, f.highest) END;
  END LOOP;

  FOR i IN 1..n LOOP
    v_take := p_takes->(i - 1);
    IF v_ids[i] IS NULL THEN
      v_ids[i] := open_account(v_take);
    END IF;
    IF (v_take->>7)::int8 > 0 OR v_take->>2 <> 'share' THEN
      v_accounts := v_accounts || v_ids[i];
      v_meters := v_meters || (v_take->>2);
    END IF;
  END LOOP;

  INSERT INTO reservation (id, request_id, number, state, amount, tokens, expires_at, changed,
      accounts, meters, worst_case)
    VALUES (p_id, p_request_id, p_number, 'open', p_usd, p_tokens, p_expires_at, p_now,
      v_accounts, v_meters, p_worst_case)
    ON CONFLICT DO NOTHING RETURNING seq INTO v_seq;
  IF v_seq IS NULL THEN
    PERFORM FROM reservation WHERE id = p_id;
    IF FOUND THEN  -- made at this moment, under other accounts' locks: asked again, it is known
      RAISE unique_violation;
    END IF;
    RAISE EXCEPTION 'its request or attempt number is taken' USING ERRCODE = '{INVALID}';
  END IF;
  INSERT INTO entry (reservation, kind, amount, time) VALUES (v_seq, 'HOLD', p_usd, p_now);
  IF p_request IS NOT NULL THEN
    IF NOT put_request(p_request) THEN
      RAISE EXCEPTION 'its request or attempt number is taken' USING ERRCODE = '{INVALID}';
    END IF;
  ELSE
    PERFORM FROM request WHERE request_id = p_request_id;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'a first attempt must bring its request''s row' USING ERRCODE = '{INVALID}';
    END IF;
  END IF;
  FOR i IN 1..n LOOP
    UPDATE account SET held = held + (p_takes->(i - 1)->>7)::int8, seen = seen + 1,
      limit_n = v_limits[i] WHERE id = v_ids[i];
  END LOOP;
  RETURN NULL;
END $$;
"""

_END = f"""
CREATE FUNCTION end_in_all(p_id text, p_request_id text, p_number int, p_billed boolean,
  p_usd int8, p_tokens int8, p_now float8, p_attempt jsonb, p_end jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  r record;
  v_was_open boolean;
  v_requests int := p_billed::int;
  v_meter text;
  v_reserved bigint;
  v_actual bigint;
  v_answer jsonb;
BEGIN
  UPDATE reservation SET state = CASE WHEN p_billed THEN 'settled' ELSE 'released' END,
      actual = p_usd, actual_tokens = coalesce(p_tokens, tokens), actual_requests = v_requests,
      changed = p_now, worst_case = NULL
    WHERE id = p_id AND state = 'open' AND request_id = p_request_id AND number = p_number
    RETURNING seq, amount, tokens, actual_tokens, accounts, meters INTO r;
  v_was_open := FOUND;
  IF NOT v_was_open THEN
    UPDATE reservation SET state = 'corrected', actual = p_usd,
        actual_tokens = coalesce(p_tokens, tokens), actual_requests = v_requests, changed = p_now
      WHERE id = p_id AND state = 'expired' AND request_id = p_request_id AND number = p_number
      RETURNING seq, amount, tokens, actual_tokens, accounts, meters INTO r;
    IF NOT FOUND THEN
      SELECT jsonb_build_array(state, coalesce(actual, 0), request_id, number) INTO v_answer
        FROM reservation WHERE id = p_id;
      RETURN coalesce(v_answer, '["unknown"]');
    END IF;
  END IF;
  INSERT INTO entry (reservation, kind, amount, time) VALUES (r.seq,
    CASE WHEN NOT v_was_open THEN 'CORRECT' WHEN p_billed THEN 'POST' ELSE 'VOID' END,
    CASE WHEN v_was_open THEN p_usd ELSE p_usd - r.amount END, p_now);
  IF p_usd > r.amount THEN
    INSERT INTO entry (reservation, kind, amount, time)
      VALUES (r.seq, 'OVERRUN', p_usd - r.amount, p_now);
  END IF;
  PERFORM put_attempt(p_attempt);
  -- From held to settled; what an expiry has charged in full is replaced by what it really took.
  FOR i IN 1..cardinality(r.accounts) LOOP
    v_meter := r.meters[i];
    v_reserved :=
      CASE v_meter WHEN 'usd' THEN r.amount WHEN 'tokens' THEN r.tokens ELSE 1 END;
    v_actual := CASE v_meter
      WHEN 'usd' THEN p_usd WHEN 'tokens' THEN r.actual_tokens ELSE v_requests END;
    UPDATE account SET held = held - CASE WHEN v_was_open THEN v_reserved ELSE 0 END,
      settled = settled + v_actual - CASE WHEN v_was_open THEN 0 ELSE v_reserved END,
      overrun = overrun + greatest(0, v_actual - v_reserved) WHERE id = r.accounts[i];
  END LOOP;
  IF p_end IS NOT NULL THEN
    PERFORM end_request(p_request_id, p_end, p_now);
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION expire(p_now float8, p_most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  r record;
  v_ids text[];
BEGIN
  PERFORM pg_advisory_xact_lock({LOCKS}, {SWEEP_LOCK});
  SELECT array_agg(id) INTO v_ids FROM (
    SELECT id FROM reservation WHERE state = 'open' AND expires_at <= p_now
    ORDER BY expires_at LIMIT p_most FOR UPDATE SKIP LOCKED) AS due;
  PERFORM put_attempt(worst_case::jsonb) FROM reservation WHERE id = ANY (v_ids);
  UPDATE reservation SET state = 'expired', actual = amount, actual_tokens = tokens,
    actual_requests = 1, changed = p_now, worst_case = NULL WHERE id = ANY (v_ids);
  INSERT INTO entry (reservation, kind, amount, time)
    SELECT seq, 'EXPIRE', amount, p_now FROM reservation WHERE id = ANY (v_ids);
  FOR r IN
    SELECT a.id, sum(CASE part.meter WHEN 'usd' THEN res.amount WHEN 'tokens' THEN res.tokens
      ELSE 1 END)::int8 AS amount
    FROM reservation AS res, unnest(res.accounts, res.meters) AS part (account, meter)
    JOIN account AS a ON a.id = part.account
    WHERE res.id = ANY (v_ids)
    GROUP BY a.id ORDER BY a.budget, a.scope_value, a.window_id
  LOOP
    UPDATE account SET held = held - r.amount, settled = settled + r.amount WHERE id = r.id;
  END LOOP;
  RETURN coalesce(cardinality(v_ids), 0);
END $$;

-- A request whose process died between two attempts has no open reservation, only old ones.
CREATE FUNCTION expire_requests(p_now float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock({LOCKS}, {SWEEP_LOCK});
  UPDATE request SET status = 'expired', ended = p_now, error = 'the process ended'
  WHERE status = 'open' AND NOT EXISTS (
    SELECT FROM reservation
    WHERE reservation.request_id = request.request_id AND reservation.expires_at > p_now);
END $$;
"""

_DURABLE = """
CREATE PROCEDURE hold(INOUT p_answer jsonb, p_durable boolean, p_id text, p_request_id text,
  p_number int, p_usd int8, p_tokens int8, p_now float8, p_expires_at float8, p_locks int[],
  p_takes jsonb, p_worst_case text, p_request jsonb) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  p_answer := hold_in_all(p_id, p_request_id, p_number, p_usd, p_tokens, p_now, p_expires_at,
    p_locks, p_takes, p_worst_case, p_request);
  COMMIT;
  IF p_durable AND p_answer->>0 IS DISTINCT FROM 'denied' THEN
    PERFORM pg_logical_emit_message(true, 'tiered_router', '');
  END IF;
END $$;

CREATE PROCEDURE finish_hold(INOUT p_answer jsonb, p_durable boolean, p_id text,
  p_request_id text, p_number int, p_billed boolean, p_usd int8, p_tokens int8, p_now float8,
  p_attempt jsonb, p_end jsonb) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  p_answer := end_in_all(p_id, p_request_id, p_number, p_billed, p_usd, p_tokens, p_now,
    p_attempt, p_end);
  COMMIT;
  IF p_durable THEN
    PERFORM pg_logical_emit_message(true, 'tiered_router', '');
  END IF;
END $$;
"""

STEPS = _ROWS + _ACCOUNTS + _HOLD + _END + _DURABLE
