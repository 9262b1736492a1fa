"""A SQLite store's files deleted, moved or swapped under its writer (F43), and real full disks."""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from router.errors import ConfigurationError, LedgerCorrupt, LedgerUnavailable
from router.ledger import open_ledger
from router.ledger.redis.rebuild import rebuild
from router.types import Budget
from tests.ledger_kit import NOW, TTL, counters, processes, reserve, settle, url
from tests.outage_kit import journals
from tests.servers import redis

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


# ── the log of a ledger in Redis ───────────────────────────────────────────────────────────────
@pytest.fixture
def place(tmp_path):
    (tmp_path / "log").mkdir()
    with redis("valkey").ledger(tmp_path / "log") as made:
        yield made


def spent(place: str):
    """A ledger with five settled calls, all of them in its log, and one open."""
    ledger = open_ledger(place, BUDGETS, durability="normal")
    for call in range(5):
        reserve(ledger, f"r{call}", 100)
        settle(ledger, f"r{call}", 60)
    reserve(ledger, "open", 100)
    assert sum(row.cost or 0 for row in ledger.log().attempts()) == 300
    return ledger


def denied_from_now_on(ledger) -> None:
    """What cannot be copied stops the ledger: at the latest when somebody reads the log."""
    reserve(ledger, "late", 1)
    with pytest.raises(LedgerCorrupt, match="deleted or replaced"):
        list(ledger.log().requests())
    with pytest.raises(LedgerCorrupt):
        reserve(ledger, "later", 1)


def test_f43_a_log_rotated_under_the_ledger_stops_it_until_it_is_put_back(place, tmp_path):
    ledger, log, old = spent(place), tmp_path / "log", tmp_path / "old"
    log.rename(old)
    log.mkdir()
    denied_from_now_on(ledger)
    assert list(log.iterdir()) == []  # nothing was begun in its place
    log.rmdir()
    old.rename(log)
    done = rebuild(place, durability="normal")
    assert done.open_reservations == 2  # with the one that was granted before it showed
    settle(ledger, "open", 70)
    assert counters(ledger) == {ALL: (370, 1)}
    assert sum(row.cost or 0 for row in ledger.log().attempts()) == 370
    assert ledger.verify() == []


def test_f43_a_log_deleted_under_the_ledger_stops_it_and_is_not_begun_anew(place, tmp_path):
    ledger = spent(place)
    for each in (tmp_path / "log").iterdir():
        each.unlink()
    denied_from_now_on(ledger)
    with pytest.raises(ConfigurationError, match="does not exist"):
        rebuild(place, durability="normal")
    with pytest.raises((ConfigurationError, LedgerCorrupt)):
        open_ledger(place, BUDGETS, durability="normal")
    with pytest.raises(LedgerCorrupt):
        reserve(ledger, "later", 1)


# ── a disk that is really full ─────────────────────────────────────────────────────────────────
NEW_NAMESPACE, NEW_USER, PRIVATE = 0x00020000, 0x10000000, 0x4000 | 0x40000


def _mount_small_disk(folder: Path) -> None:
    """Mount a disk of a MiB that this process alone sees, and that ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = NEW_NAMESPACE | (NEW_USER if os.geteuid() else 0)
    for failed in (
        libc.unshare(flags),
        libc.mount(b"none", b"/", None, PRIVATE, None),
        libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=1m"),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), "no disk can be mounted here")


def _fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _on_a_full_disk(folder: Path, answers) -> None:
    try:
        _mount_small_disk(folder)
    except OSError as error:
        answers.put(str(error))
        return
    try:
        path = folder / "l.db"
        ledger = direct(path)
        for name in ("a", "b"):
            reserve(ledger, name, 100)
        _fill(folder)
        held = 2
        with suppress(LedgerUnavailable):
            while held < 1000:  # until the store's log has no room left
                reserve(ledger, f"r{held}", 1)
                held += 1
        assert held < 1000
        with pytest.raises(LedgerUnavailable, match="the disk is full"):
            settle(ledger, "a", 60)  # there is no room for a journal either, and it says so
        assert journals(path) == []
        assert counters(ledger) == {ALL: (0, 198 + held)}  # nothing is given back
        with pytest.raises(LedgerUnavailable):
            open_ledger(url(folder / "new.db"), BUDGETS)
        assert not (folder / "new.db").exists()
        (folder / "filler").unlink()
        settle(ledger, "a", 60)
        assert ledger.expire(NOW + TTL) == held - 1
        assert counters(ledger) == {ALL: (60 + 98 + held, 0)}
        assert ledger.verify() == []
        answers.put("sound")
    except BaseException as error:
        answers.put(repr(error))
        raise


def test_f38_a_small_disk_filled_to_the_last_byte_denies_and_gives_nothing_back(tmp_path):
    answers = processes.Queue()
    process = processes.Process(target=_on_a_full_disk, args=(tmp_path, answers))
    process.start()
    said = answers.get(timeout=60)
    process.join()
    if "no disk can be mounted" in said:
        pytest.skip(said)  # the same rule is tested with a limit on the file's size
    assert said == "sound"
