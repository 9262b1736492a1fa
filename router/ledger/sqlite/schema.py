"""The tables of a SQLite store: the ledger's own, and the log's beside them.

A schema change is a new version: an older library must refuse a newer file, not guess at it.
"""

from __future__ import annotations

from router.log.schema import LOG_TABLES

APPLICATION_ID = 0x54527472  # "TRtr"
SCHEMA_VERSION = 4

# typeof(): SQLite turns an overflowing integer into a float, which would round money.
LEDGER_TABLES = """
CREATE TABLE budget (              -- what was defined last; each process enforces its own limits
  name        TEXT PRIMARY KEY,
  limit_n     INTEGER,             -- in the unit of the meter
  window      TEXT NOT NULL,
  zone        TEXT NOT NULL,
  scope       TEXT NOT NULL,
  on_exceed   TEXT NOT NULL,
  meter       TEXT NOT NULL,
  value       TEXT,
  seconds     INTEGER,
  purpose     TEXT NOT NULL,
  conditions  TEXT NOT NULL        -- JSON: pairs of a scope and the value of it that counts
) WITHOUT ROWID;

CREATE TABLE clock (               -- the latest window opened: time never goes back behind it
  budget      TEXT NOT NULL,
  kind        TEXT NOT NULL,       -- window and zone, or window and seconds
  window_id   TEXT NOT NULL,
  resets_at   REAL,
  PRIMARY KEY (budget, kind)
) WITHOUT ROWID;

CREATE TABLE override (            -- a limit that was set in the place of every process's own
  budget      TEXT NOT NULL,
  scope_value TEXT,                -- null for all values
  limit_n     INTEGER NOT NULL     -- -1 for unlimited
);
CREATE UNIQUE INDEX override_of ON override (budget, ifnull(scope_value, char(0)));

CREATE TABLE account (             -- the counters of one budget, scope value and window
  id          INTEGER PRIMARY KEY,
  budget      TEXT NOT NULL,
  scope_value TEXT NOT NULL,
  window_id   TEXT NOT NULL,
  meter       TEXT NOT NULL,
  limit_n     INTEGER,             -- the highest limit that anything was admitted under
  override_n  INTEGER,             -- the override in force, copied here to be at hand
  -- A credit that was given before a charge was corrected downwards is not taken back.
  settled     INTEGER NOT NULL DEFAULT 0
              CHECK (settled + credited >= 0 AND typeof(settled) = 'integer'),
  held        INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0 AND typeof(held) = 'integer'),
  overrun     INTEGER NOT NULL DEFAULT 0 CHECK (overrun >= 0 AND typeof(overrun) = 'integer'),
  credited    INTEGER NOT NULL DEFAULT 0 CHECK (credited >= 0 AND typeof(credited) = 'integer'),
  seen        INTEGER NOT NULL DEFAULT 0 CHECK (seen >= 0),  -- attempts, those of no amount too
  UNIQUE (budget, scope_value, window_id)
);

CREATE TABLE reservation (
  seq             INTEGER PRIMARY KEY,
  id              TEXT NOT NULL UNIQUE,
  request_id      TEXT NOT NULL,
  number          INTEGER NOT NULL,
  state           TEXT NOT NULL
                  CHECK (state IN ('open', 'settled', 'released', 'expired', 'corrected')),
  amount          INTEGER NOT NULL CHECK (amount >= 0),  -- nano-USD
  tokens          INTEGER NOT NULL CHECK (tokens >= 0),
  actual          INTEGER CHECK (actual >= 0),
  actual_tokens   INTEGER CHECK (actual_tokens >= 0),
  actual_requests INTEGER CHECK (actual_requests IN (0, 1)),
  expires_at      REAL NOT NULL,
  changed         REAL NOT NULL,
  accounts        TEXT NOT NULL,   -- JSON: pairs of an account's id and its meter
  worst_case      TEXT,            -- the attempt row that an expiry writes, while open
  UNIQUE (request_id, number)
);
CREATE INDEX reservation_open ON reservation (expires_at) WHERE state = 'open';

CREATE TABLE entry (               -- append-only: what happened, in order
  id          INTEGER PRIMARY KEY,
  reservation INTEGER,             -- reservation.seq; null for what a person did to a budget
  budget      TEXT,
  scope_value TEXT,
  kind        TEXT NOT NULL CHECK (kind IN
              ('HOLD', 'POST', 'VOID', 'EXPIRE', 'OVERRUN', 'CORRECT', 'DRAW', 'CREDIT', 'LIMIT')),
  amount      INTEGER CHECK (amount >= 0 OR kind IN ('CORRECT', 'DRAW', 'LIMIT')),
  time        REAL NOT NULL,
  note        TEXT
);
CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
  BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
  BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;

-- Each move of a reservation enters itself.
CREATE TRIGGER reservation_is_made AFTER INSERT ON reservation BEGIN
  INSERT INTO entry (reservation, kind, amount, time)
  VALUES (new.seq, 'HOLD', new.amount, new.changed);
END;
CREATE TRIGGER reservation_ends AFTER UPDATE OF state ON reservation
WHEN new.state != 'open' BEGIN
  INSERT INTO entry (reservation, kind, amount, time) VALUES (
    new.seq,
    CASE new.state WHEN 'settled' THEN 'POST' WHEN 'released' THEN 'VOID'
      WHEN 'expired' THEN 'EXPIRE' WHEN 'corrected' THEN 'CORRECT' END,
    new.actual - coalesce(old.actual, 0), new.changed);
END;
-- A lease shrinks by what its calls took and what it gives back.
CREATE TRIGGER reservation_shrinks AFTER UPDATE OF amount ON reservation
WHEN old.state IN ('open', 'expired') BEGIN
  INSERT INTO entry (reservation, kind, amount, time)
  VALUES (new.seq, 'DRAW', new.amount - old.amount, new.changed);
  INSERT INTO entry (reservation, kind, amount, time)
  SELECT new.seq, 'CORRECT', new.actual - old.actual, new.changed WHERE old.state = 'expired';
END;
CREATE TRIGGER reservation_overruns AFTER UPDATE OF state ON reservation
WHEN new.actual > new.amount BEGIN
  INSERT INTO entry (reservation, kind, amount, time)
  VALUES (new.seq, 'OVERRUN', new.actual - new.amount, new.changed);
END;
"""

ALL_TABLES = LEDGER_TABLES + LOG_TABLES
