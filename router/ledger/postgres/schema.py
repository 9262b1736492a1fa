"""The tables of a PostgreSQL store: the same as a SQLite store's, in a schema of their own.

Names and window ids are compared by their bytes (COLLATE "C"), so that windows sort by time
whatever the database's language. A schema change is a new version: an older library must refuse a
newer store, not guess at it. The steps (`steps.py`, `draws.py`) belong to the version too. There
are as few indexes as the steps need: writing to them is much of a step's cost.
"""

from __future__ import annotations

from router.ledger.postgres.draws import STEPS as DRAW_STEPS
from router.ledger.postgres.steps import STEPS

SCHEMA = "tiered_router"
SCHEMA_VERSION = 2

_LEDGER_TABLES = """
CREATE TABLE meta (version int NOT NULL);

CREATE TABLE budget (              -- what was defined last; each process enforces its own limits
  name        text COLLATE "C" PRIMARY KEY,
  limit_n     bigint,              -- in the unit of the meter
  "window"    text NOT NULL,
  zone        text NOT NULL,
  scope       text NOT NULL,
  on_exceed   text NOT NULL,
  meter       text NOT NULL,
  value       text,
  seconds     bigint,
  purpose     text NOT NULL,
  conditions  text NOT NULL        -- JSON: pairs of a scope and the value of it that counts
);

CREATE TABLE clock (               -- the latest window opened: time never goes back behind it
  budget      text COLLATE "C" NOT NULL,
  kind        text COLLATE "C" NOT NULL,      -- window and zone, or window and seconds
  window_id   text COLLATE "C" NOT NULL,
  resets_at   double precision,
  PRIMARY KEY (budget, kind)
);

CREATE TABLE override (            -- a limit that was set in the place of every process's own
  budget      text COLLATE "C" NOT NULL,
  scope_value text COLLATE "C",    -- null for all values
  limit_n     bigint NOT NULL      -- -1 for unlimited
);
CREATE UNIQUE INDEX override_of_one ON override (budget, scope_value)
  WHERE scope_value IS NOT NULL;
CREATE UNIQUE INDEX override_of_all ON override (budget) WHERE scope_value IS NULL;

-- The counters of one budget, scope value and window. Room is left on its pages, because an update
-- that stays on its page touches no index.
CREATE TABLE account (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  budget      text COLLATE "C" NOT NULL,
  scope_value text COLLATE "C" NOT NULL,
  window_id   text COLLATE "C" NOT NULL,
  meter       text NOT NULL,
  limit_n     bigint,              -- the highest limit that anything was admitted under
  -- A credit that was given before a charge was corrected downwards is not taken back.
  settled     bigint NOT NULL DEFAULT 0 CHECK (settled + credited >= 0),
  held        bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  overrun     bigint NOT NULL DEFAULT 0 CHECK (overrun >= 0),
  credited    bigint NOT NULL DEFAULT 0 CHECK (credited >= 0),
  seen        bigint NOT NULL DEFAULT 0 CHECK (seen >= 0),  -- attempts, those of no amount too
  UNIQUE (budget, scope_value, window_id)
) WITH (fillfactor = 40);

CREATE TABLE reservation (
  seq             bigint GENERATED ALWAYS AS IDENTITY,
  id              text COLLATE "C" PRIMARY KEY,
  request_id      text COLLATE "C" NOT NULL,
  number          int NOT NULL,
  state           text NOT NULL
                  CHECK (state IN ('open', 'settled', 'released', 'expired', 'corrected')),
  amount          bigint NOT NULL CHECK (amount >= 0),  -- nano-USD
  tokens          bigint NOT NULL CHECK (tokens >= 0),
  actual          bigint CHECK (actual >= 0),
  actual_tokens   bigint CHECK (actual_tokens >= 0),
  actual_requests int CHECK (actual_requests IN (0, 1)),
  expires_at      double precision NOT NULL,
  changed         double precision NOT NULL,
  accounts        bigint[] NOT NULL,  -- account.id, in the order in which they are changed
  meters          text[] NOT NULL,    -- of each account
  worst_case      text,               -- the attempt row that an expiry writes, while open
  UNIQUE (request_id, number)
);
CREATE INDEX reservation_open ON reservation (expires_at) WHERE state = 'open';

CREATE TABLE entry (               -- append-only: what happened, in order
  id          bigint GENERATED ALWAYS AS IDENTITY,
  reservation bigint,              -- reservation.seq; null for what a person did to a budget
  budget      text COLLATE "C",
  scope_value text COLLATE "C",
  kind        text NOT NULL CHECK (kind IN
              ('HOLD', 'POST', 'VOID', 'EXPIRE', 'OVERRUN', 'CORRECT', 'DRAW', 'CREDIT', 'LIMIT')),
  amount      bigint CHECK (amount >= 0 OR kind IN ('CORRECT', 'DRAW', 'LIMIT')),
  time        double precision NOT NULL,
  note        text
);
CREATE INDEX entry_of_people ON entry (id) WHERE reservation IS NULL;
CREATE FUNCTION refuse_to_change_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'entries are append-only' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER entry_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entry
  EXECUTE FUNCTION refuse_to_change_entries();
"""

_LOG_TABLES = """
CREATE TABLE request (
  id              bigint GENERATED ALWAYS AS IDENTITY,
  request_id      text COLLATE "C" PRIMARY KEY,
  time            double precision NOT NULL,
  status          text NOT NULL,
  policy          text NOT NULL,
  predictor       text NOT NULL,
  price_book      text NOT NULL,
  scopes          text NOT NULL,
  tags            text NOT NULL,
  conversation_id text,
  stream          boolean NOT NULL,
  features        text NOT NULL,
  decision        text NOT NULL,
  chosen          text NOT NULL,
  reason          text NOT NULL,
  rule            text,
  baseline        bigint,
  content         text,
  error           text,
  purpose         text NOT NULL,
  accepted        int,
  ended           double precision
);
CREATE INDEX request_time ON request (time, id);
CREATE INDEX request_open ON request (request_id) WHERE status = 'open';

CREATE TABLE attempt (
  request_id    text COLLATE "C" NOT NULL,
  number        int NOT NULL,
  time          double precision NOT NULL,
  step          int NOT NULL,
  arm           text NOT NULL,
  tier          text NOT NULL,
  model         text NOT NULL,
  propensity    double precision NOT NULL,
  status        text NOT NULL,
  reserved      bigint NOT NULL,
  cost          bigint CHECK (cost >= 0),
  cost_source   text NOT NULL,
  price_book    text NOT NULL,
  latency       double precision NOT NULL,
  usage         text,
  input_tokens  bigint,
  output_tokens bigint,
  error         text,
  note          text,
  answer        text,
  PRIMARY KEY (request_id, number)
);

CREATE TABLE label (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  request_id  text COLLATE "C" NOT NULL,
  score       double precision NOT NULL CHECK (score BETWEEN 0 AND 1),
  source      text NOT NULL,
  time        double precision NOT NULL,
  rate        double precision CHECK (rate > 0 AND rate <= 1)  -- the share it was sampled from
);
CREATE INDEX label_request ON label (request_id);
"""

CREATE = (
    f"CREATE SCHEMA IF NOT EXISTS {SCHEMA};"
    f"SET LOCAL search_path = {SCHEMA}, pg_temp;"
    + _LEDGER_TABLES
    + _LOG_TABLES
    + STEPS
    + DRAW_STEPS
    + f"INSERT INTO meta VALUES ({SCHEMA_VERSION});"
)
