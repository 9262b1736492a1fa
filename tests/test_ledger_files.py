"""A SQLite store's files deleted, moved or swapped under its writer (F43), and real full disks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from router.errors import LedgerCorrupt, LedgerUnavailable
from router.ledger import open_ledger
from router.types import Budget
from tests.ledger_kit import NOW, counters, processes, reserve, settle, url

ALL = ("all", "")
BUDGETS = [Budget("all", 10_000)]


def direct(path: Path):
    return open_ledger(url(path), BUDGETS, durability="normal")


def _write_on(path, ready, resume, answers):
    """Hold 100, let the files be taken away, and try to go on."""
    ledger = direct(path)
    reserve(ledger, "a", 100)
    ready.set()
    resume.wait(60)
    said = []
    for step in (
        lambda: reserve(ledger, "b", 100),
        lambda: settle(ledger, "a", 60),
        lambda: open_ledger(url(path), BUDGETS),
    ):
        try:
            step()
            said.append("done")
        except LedgerCorrupt as refused:
            said.append(refused.why)
    ledger.close()
    answers.put(said)


def _hold_and_die(path, answers):
    """Another program on the same store: three holds that were acknowledged, then a crash."""
    try:
        ledger = direct(path)
        for call in range(3):
            reserve(ledger, f"other{call}", 100)
        answers.put("held")
    except LedgerCorrupt as refused:
        answers.put(refused.why)
    answers.close()
    answers.join_thread()
    os._exit(0)


def taken_from_under_a_writer(path: Path, take) -> tuple[list[str], str]:
    """What the writer and then another process say once `take` took files away."""
    ready, resume = processes.Event(), processes.Event()
    answers = processes.Queue()
    writer = processes.Process(target=_write_on, args=(path, ready, resume, answers))
    writer.start()
    assert ready.wait(60)
    take()
    others = processes.Queue()
    other = processes.Process(target=_hold_and_die, args=(path, others))
    other.start()
    told = others.get(timeout=60)
    other.join()
    resume.set()
    said = answers.get(timeout=60)
    writer.join()
    return said, told


def test_f43_an_index_deleted_under_the_writer_loses_no_hold_of_another(tmp_path):
    """Without the check both have an index of their own to one log, and the first writes over what
    the second has committed."""
    path = tmp_path / "l.db"
    said, told = taken_from_under_a_writer(path, path.with_name("l.db-shm").unlink)
    assert told == "held"
    assert all("deleted or replaced" in each for each in said)
    after = direct(path)
    assert counters(after) == {ALL: (0, 400)}
    assert after.verify() == []


def test_f43_a_store_rotated_under_the_writer_is_not_written_to_nor_its_successor(tmp_path):
    path, old = tmp_path / "l.db", tmp_path / "old"
    old.mkdir()

    def rotate() -> None:
        for each in list(tmp_path.glob("l.db*")):
            each.rename(old / each.name)

    said, told = taken_from_under_a_writer(path, rotate)
    assert told == "held"  # a new store, begun beside the old one's writer
    assert all("deleted or replaced" in each for each in said[:2])
    for place, held in ((path, 300), (old / "l.db", 100)):
        ledger = direct(place)
        assert counters(ledger) == {ALL: (0, held)}
        assert ledger.verify() == []


def test_f43_a_store_put_back_from_a_copy_under_the_writer_stops_it(tmp_path):
    path, copy = tmp_path / "l.db", tmp_path / "copy.db"
    direct(path).close()
    shutil.copy(path, copy)

    def put_back() -> None:
        for each in list(tmp_path.glob("l.db*")):
            each.unlink()
        shutil.copy(copy, path)

    said, told = taken_from_under_a_writer(path, put_back)
    assert told == "held"
    assert all("deleted or replaced" in each for each in said[:2])
    after = direct(path)
    assert counters(after) == {ALL: (0, 300)}
    assert after.verify() == []


def test_f43_a_deleted_file_is_not_begun_anew_beside_its_log(tmp_path):
    """SQLite would replay the old file's log into the new one."""
    path = tmp_path / "l.db"
    said, told = taken_from_under_a_writer(path, path.unlink)
    assert "its write-ahead log" in told
    assert all("deleted" in each or "write-ahead log" in each for each in said)
    assert not path.exists()
