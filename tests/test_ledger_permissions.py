"""A store that may not be written, or not be read: what can be read is, and the rest is refused."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from router.errors import LedgerUnavailable
from router.ledger import open_ledger
from router.types import Budget
from tests.ledger_kit import NOW, closed_store, counters, in_child, reserve, url

BUDGETS = [Budget("all", 1_000_000_000)]
ALL = ("all", "")


@pytest.fixture
def path(tmp_path) -> Path:
    return closed_store(tmp_path, BUDGETS)


def _let_others_in(folder: Path) -> None:
    """Pytest's folders are for their owner alone; the child that gave up root must get there."""
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o555)


def test_f39_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    _let_others_in(tmp_path)
    answer = in_child(lambda: str(open_ledger(url(folder / "l.db"), BUDGETS)))
    assert answer.startswith("LedgerUnavailable: ")
    assert "Permission denied" in answer


@pytest.mark.parametrize(("mode", "says"), [(0o444, "it is read-only"), (0, "Permission denied")])
def test_f39_a_file_that_cannot_be_written_or_read_is_refused_at_the_start(path, mode, says):
    path.chmod(mode)
    path.parent.chmod(0o777)
    _let_others_in(path.parent)
    answer = in_child(lambda: str(open_ledger(url(path), BUDGETS)))
    assert answer.startswith("LedgerUnavailable: ")
    assert says in answer


def test_f39_a_store_that_becomes_read_only_denies_and_serves_again_afterwards(path):
    ledger = open_ledger(url(path), BUDGETS, busy_seconds=1)
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA journal_mode")  # an open reader keeps the file's state on disk
    _let_others_in(path.parent)
    for name in ("l.db", "l.db-wal", "l.db-shm"):
        if path.with_name(name).exists():
            path.with_name(name).chmod(0o444)
    answer = in_child(lambda: reserve(open_ledger(url(path), create=False), "a", 100))
    assert answer.startswith("LedgerUnavailable: ")
    for name in ("l.db", "l.db-wal", "l.db-shm"):
        if path.with_name(name).exists():
            path.with_name(name).chmod(0o600)
    reserve(ledger, "a", 100)
    assert counters(ledger) == {ALL: (3000, 100)}
    raw.close()


def _read_only(place) -> str:
    with closing(open_ledger(url(place), create=False)) as ledger:
        [state] = ledger.states(NOW)
        answered = sum(1 for _ in ledger.log().requests())
        try:
            reserve(ledger, "more", 1)
        except LedgerUnavailable as error:
            return f"{state.settled} settled, {answered} requests, {ledger.verify()}; {error}"
    return "written"


@pytest.mark.parametrize(("file", "folder"), [(0o444, 0o777), (0o444, 0o555), (0o666, 0o555)])
def test_a_store_that_can_only_be_read_is_read_and_not_written(path, file, folder):
    path.chmod(file)
    _let_others_in(path.parent)
    path.parent.chmod(folder)
    answer = in_child(_read_only, path)
    path.parent.chmod(0o755)
    assert answer.startswith("3000 settled, 50 requests, []; ")
    assert "it is read-only" in answer
    assert [each.name for each in path.parent.glob("l.db*")] == ["l.db"]


def test_a_log_that_cannot_be_read_is_never_left_out_but_named(path):
    """What a process that was killed left in the log is in no report without it."""
    raw = sqlite3.connect(path)
    raw.execute("UPDATE account SET limit_n = 1")
    raw.commit()
    log = path.with_name("l.db-wal").read_bytes()
    raw.close()
    path.with_name("l.db-wal").write_bytes(log)
    for each in path.parent.glob("l.db*"):
        each.chmod(0o444)
    _let_others_in(path.parent)
    path.parent.chmod(0o555)
    answer = in_child(_read_only, path)
    path.parent.chmod(0o755)
    assert answer.startswith("LedgerUnavailable: ")
    assert "copy the file and its log to a folder that can be written" in answer


def test_a_store_that_is_written_to_while_it_can_only_be_read_is_read_again(path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
    with closing(open_ledger(url(path), create=False)) as ledger:
        assert len(ledger.states(NOW)) == 1
        raw = sqlite3.connect(path)
        raw.execute("UPDATE account SET limit_n = 1")
        raw.commit()
        with pytest.raises(LedgerUnavailable, match="was written to meanwhile"):
            ledger.states(NOW)
        raw.close()
        with pytest.raises(LedgerUnavailable, match="was written to meanwhile"):
            ledger.states(NOW)
