"""The tables of a SQLite store: the ledger's own, and the log's beside them.

A schema change is a new version: an older library must refuse a newer file, not guess at it.
"""

from __future__ import annotations

from router.log.schema import LOG_TABLES

APPLICATION_ID = 0x54527472  # "TRtr"
SCHEMA_VERSION = 1

# typeof(): SQLite turns an overflowing integer into a float, which would round money.
LEDGER_TABLES = """
CREATE TABLE budget (              -- what was defined last; each process enforces its own limits
  name        TEXT PRIMARY KEY,
  limit_nano  INTEGER,
  window      TEXT NOT NULL,
  zone        TEXT NOT NULL,
  scope       TEXT NOT NULL,
  on_exceed   TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE clock (               -- the latest window opened: time never goes back behind it
  budget      TEXT NOT NULL,
  window      TEXT NOT NULL,
  zone        TEXT NOT NULL,
  window_id   TEXT NOT NULL,
  resets_at   REAL,
  PRIMARY KEY (budget, window, zone)
) WITHOUT ROWID;

CREATE TABLE account (             -- the counters of one budget, scope value and window
  id          INTEGER PRIMARY KEY,
  budget      TEXT NOT NULL,
  scope_value TEXT NOT NULL,
  window_id   TEXT NOT NULL,
  limit_nano  INTEGER,             -- the highest limit that anything was admitted under
  settled     INTEGER NOT NULL DEFAULT 0 CHECK (settled >= 0 AND typeof(settled) = 'integer'),
  held        INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0 AND typeof(held) = 'integer'),
  overrun     INTEGER NOT NULL DEFAULT 0 CHECK (overrun >= 0 AND typeof(overrun) = 'integer'),
  UNIQUE (budget, scope_value, window_id)
);

CREATE TABLE reservation (
  seq         INTEGER PRIMARY KEY,
  id          TEXT NOT NULL UNIQUE,
  request_id  TEXT NOT NULL,
  number      INTEGER NOT NULL,
  state       TEXT NOT NULL
              CHECK (state IN ('open', 'settled', 'released', 'expired', 'corrected')),
  amount      INTEGER NOT NULL CHECK (amount >= 0),
  actual      INTEGER CHECK (actual >= 0),
  expires_at  REAL NOT NULL,
  accounts    TEXT NOT NULL,       -- JSON list of account ids
  worst_case  TEXT,                -- the attempt row that an expiry writes, while open
  UNIQUE (request_id, number)
);
CREATE INDEX reservation_open ON reservation (expires_at) WHERE state = 'open';

CREATE TABLE entry (               -- append-only: what happened, in order
  id          INTEGER PRIMARY KEY,
  reservation INTEGER NOT NULL,    -- reservation.seq
  kind        TEXT NOT NULL
              CHECK (kind IN ('HOLD', 'POST', 'VOID', 'EXPIRE', 'OVERRUN', 'CORRECT')),
  amount      INTEGER NOT NULL CHECK (amount >= 0 OR kind = 'CORRECT'),
  time        REAL NOT NULL
);
CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
  BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
  BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
"""

ALL_TABLES = LEDGER_TABLES + LOG_TABLES
