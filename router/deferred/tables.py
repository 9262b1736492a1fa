"""The tables of a queue, beside the ledger's in a SQLite file, with a version of their own."""

from __future__ import annotations

import sqlite3

from router.errors import ConfigurationError

VERSION = 1

# Times are unix seconds. Text of requests and answers stands in `text` and `answer` alone: one is
# emptied when the request has ended, the other when it was collected or its time is up.
_TABLES = """
CREATE TABLE deferred_version (version INTEGER NOT NULL);
CREATE TABLE deferred_ticket (
  id          TEXT PRIMARY KEY,
  state       TEXT NOT NULL CHECK (state IN
              ('waiting', 'sending', 'batched', 'answered', 'failed', 'cancelled', 'collected')),
  submitted   REAL NOT NULL,
  deadline    REAL NOT NULL,
  due         REAL NOT NULL,      -- when to look at it next, while it waits
  text        TEXT,               -- JSON of the request, until it has ended
  answer      TEXT,               -- JSON of the answer, until it is collected
  kind        TEXT,               -- of the error that it ended with, or why it still waits
  why         TEXT,
  tries       INTEGER NOT NULL DEFAULT 0,
  lost        INTEGER NOT NULL DEFAULT 0,  -- tries whose worker died
  request_id  TEXT,               -- of its latest try, in the log
  batch       TEXT,               -- deferred_batch.id of its latest batch
  gather_for  TEXT,               -- the arm for whose next batch it waits
  no_batch    INTEGER NOT NULL DEFAULT 0,
  worker      TEXT,               -- who has it in hand, until `lease`
  lease       REAL NOT NULL DEFAULT 0,
  ended       REAL
) WITHOUT ROWID;
CREATE INDEX deferred_due ON deferred_ticket (state, due);
CREATE TABLE deferred_batch (
  id          TEXT PRIMARY KEY,   -- the provider has it as metadata, so that it can be found there
  state       TEXT NOT NULL CHECK (state IN ('forming', 'sending', 'sent', 'cancelling', 'ended')),
  place       TEXT NOT NULL,      -- JSON: the address and the name of the key's variable, no key
  provider_id TEXT,
  made        REAL NOT NULL,
  look        REAL NOT NULL,      -- when to ask the provider next
  worker      TEXT,
  lease       REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE deferred_line (
  request_id  TEXT PRIMARY KEY,   -- the line's custom_id, and the request's id in the log
  batch       TEXT NOT NULL,
  ticket      TEXT NOT NULL,
  terms       TEXT NOT NULL,      -- JSON: what it is settled on, no text
  done        INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX deferred_line_of ON deferred_line (batch);
"""


def storable(text: str) -> str:
    """Text that SQLite can hold: a lone surrogate, as a message may have, becomes "?"."""
    return text.encode("utf-8", "replace").decode()


def prepare(connection: sqlite3.Connection, name: str, *, create: bool) -> None:
    """Make the tables where there are none yet, inside the caller's transaction.

    Raises `ConfigurationError` for tables of another version, and for none unless `create`.
    """
    known = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'deferred_version'"
    ).fetchone()
    if known is None and not create:
        raise ConfigurationError(f"nothing was ever queued in {name}; check the path")
    if known is None:
        for statement in _statements():
            connection.execute(statement)
        connection.execute("INSERT INTO deferred_version VALUES (?)", (VERSION,))
        return
    [version] = connection.execute("SELECT version FROM deferred_version").fetchone()
    if version != VERSION:
        raise ConfigurationError(
            f"the queue in {name} has schema version {version}, and this release knows version "
            f"{VERSION}; use the release that wrote it, or name a new file (deferred: queue)"
        )


def _statements() -> list[str]:
    bare = "\n".join(line.partition("--")[0] for line in _TABLES.splitlines())
    return [statement for statement in bare.split(";") if statement.strip()]
