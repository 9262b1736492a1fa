"""The log's tables. Maps and lists are JSON text; money is nano-USD; times are unix seconds."""

from __future__ import annotations

LOG_TABLES = """
CREATE TABLE request (
  id              INTEGER PRIMARY KEY,
  request_id      TEXT NOT NULL UNIQUE,
  time            REAL NOT NULL,
  status          TEXT NOT NULL,
  policy          TEXT NOT NULL,
  predictor       TEXT NOT NULL,
  price_book      TEXT NOT NULL,
  scopes          TEXT NOT NULL,
  tags            TEXT NOT NULL,
  conversation_id TEXT,
  stream          INTEGER NOT NULL,
  features        TEXT NOT NULL,
  decision        TEXT NOT NULL,
  chosen          TEXT NOT NULL,
  reason          TEXT NOT NULL,
  rule            TEXT,
  baseline        INTEGER,
  content         TEXT,
  error           TEXT,
  purpose         TEXT NOT NULL,
  accepted        INTEGER,
  ended           REAL
);
CREATE INDEX request_time ON request (time);
CREATE INDEX request_open ON request (request_id) WHERE status = 'open';

CREATE TABLE attempt (
  request_id    TEXT NOT NULL,
  number        INTEGER NOT NULL,
  time          REAL NOT NULL,
  step          INTEGER NOT NULL,
  arm           TEXT NOT NULL,
  tier          TEXT NOT NULL,
  model         TEXT NOT NULL,
  propensity    REAL NOT NULL,
  status        TEXT NOT NULL,
  reserved      INTEGER NOT NULL,
  cost          INTEGER CHECK (cost >= 0),
  cost_source   TEXT NOT NULL,
  price_book    TEXT NOT NULL,
  latency       REAL NOT NULL,
  usage         TEXT,
  input_tokens  INTEGER,
  output_tokens INTEGER,
  error         TEXT,
  note          TEXT,
  answer        TEXT,
  UNIQUE (request_id, number)
);

CREATE TABLE label (
  id          INTEGER PRIMARY KEY,
  request_id  TEXT NOT NULL,
  score       REAL NOT NULL CHECK (score BETWEEN 0 AND 1),
  source      TEXT NOT NULL,
  time        REAL NOT NULL,
  rate        REAL CHECK (rate > 0 AND rate <= 1)  -- the share of requests it was sampled from
);
CREATE INDEX label_request ON label (request_id);
"""

# Made with the first look at an answer of a chain, as the next one is.
LOOK_TABLE = """
CREATE TABLE IF NOT EXISTS look (
  request_id TEXT PRIMARY KEY,
  looks      TEXT NOT NULL   -- JSON
)
"""

HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"

# Made with the first memo, in any store: what came later is no reason to refuse an older file, and
# an older release does not look at it.
MEMO_TABLE = """
CREATE TABLE IF NOT EXISTS memo (
  name    TEXT PRIMARY KEY,
  value   TEXT NOT NULL,     -- JSON
  version BIGINT NOT NULL    -- how often it was written
)
"""
