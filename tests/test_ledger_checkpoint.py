"""SQLite's write-ahead log is moved into the file by chance, and nothing depends on its luck."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import LedgerCorrupt
from router.ledger.sqlite import database as module
from router.ledger.sqlite.database import Database

ROW = 3000  # characters: a page and more each


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "a.db"), durability="normal", busy_seconds=5, create=True)
    yield opened
    opened.close()


def write(database: Database, names: range) -> None:
    for name in names:
        database.submit(
            lambda connection, name=name: connection.execute(
                "INSERT INTO clock VALUES (?, 'k', ?, NULL)", (f"{name:04d}", "w" * ROW)
            )
        )


def rows(database: Database) -> int:
    with database.read() as connection:
        return connection.execute("SELECT count(*) FROM clock").fetchone()[0]


def log_bytes(database: Database) -> int:
    return os.path.getsize(f"{database.name}-wal")


def test_the_log_does_not_grow_with_what_is_written(database, monkeypatch):
    monkeypatch.setattr(module, "_COMMITS_A_CHECKPOINT", 10)
    module._CHANCE.seed(1)
    write(database, range(600))
    assert rows(database) == 600
    assert log_bytes(database) < 600 * ROW / 2


def test_who_reads_an_old_state_holds_up_the_log_and_no_writer(database, monkeypatch):
    monkeypatch.setattr(module, "_COMMITS_A_CHECKPOINT", 1)
    write(database, range(1))
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM clock").fetchone() == (1,)
        began = time.monotonic()
        write(database, range(1, 11))
        assert time.monotonic() - began < 10 * (module._CHECKPOINT_WAIT / 1000 + 0.3)
        assert connection.execute("SELECT count(*) FROM clock").fetchone() == (1,)
    held_up = log_bytes(database)
    write(database, range(11, 60))
    assert rows(database) == 60
    assert log_bytes(database) < 2 * held_up  # 49 more, and it begins anew with each


def test_a_checkpoint_that_fails_takes_back_nothing(database, monkeypatch):
    monkeypatch.setattr(module, "_COMMITS_A_CHECKPOINT", 1)
    write(database, range(1))
    writer = database._writer.connection
    assert writer is not None
    refuse = "wal_checkpoint"
    writer.set_authorizer(lambda _, name, *__: int(name == refuse))  # 1: denied
    write(database, range(1, 5))
    assert rows(database) == 5
    assert writer.execute("PRAGMA busy_timeout").fetchone() == (0,)


def test_a_log_that_was_taken_away_is_not_moved_into_the_file(database, monkeypatch):
    monkeypatch.setattr(module, "_COMMITS_A_CHECKPOINT", 10**9)
    write(database, range(3))
    os.unlink(f"{database.name}-wal")
    before = Path(database.name).read_bytes()
    monkeypatch.setattr(module, "_COMMITS_A_CHECKPOINT", 1)
    with pytest.raises(LedgerCorrupt, match="deleted or replaced"):
        write(database, range(3, 4))
    assert Path(database.name).read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_children_do_not_all_move_the_log_at_once():
    drawn = set()
    for _ in range(5):
        reads, writes = os.pipe()
        if os.fork() == 0:
            os.write(writes, str(module._CHANCE.random()).encode())
            os._exit(0)
        os.wait()
        drawn.add(os.read(reads, 100))
        os.close(reads)
        os.close(writes)
    assert len(drawn) == 5
