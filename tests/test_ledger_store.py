"""A store that is busy, full, damaged or foreign: refused by name, never remade."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from router.errors import BudgetExceeded, ConfigurationError, LedgerCorrupt, LedgerUnavailable
from router.ledger import open_ledger, open_log
from router.ledger.place import identity, journal_folder
from router.ledger.sqlite.verify import _CHECKS
from router.ledger.url import sqlite_path, store_url
from router.types import Budget
from tests.ledger_kit import NOW, closed_store, counters, in_child, processes, reserve, settle, url

BUDGETS = [Budget("all", 1_000_000_000)]
ALL = ("all", "")


@pytest.fixture
def path(tmp_path) -> Path:
    return closed_store(tmp_path, BUDGETS)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///a.db", "a.db"),
        ("sqlite:////tmp/a b.db", "/tmp/a b.db"),
        ("sqlite:///dir/a?b#c%20.db", "dir/a?b#c%20.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_a_url_names_a_relative_an_absolute_or_no_file(text, path):
    assert sqlite_path(text) == path


@pytest.mark.parametrize(
    "text",
    ["", "a.db", "mysql://x", "sqlite:a.db", "sqlite://a.db", "sqlite:///", "SQLITE:///a", "://"],
)
def test_any_other_url_is_refused_and_what_is_allowed_is_named(text):
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        open_ledger(text)


def test_a_plain_path_becomes_a_url():
    assert store_url("a/b.db") == "sqlite:///a/b.db"
    assert store_url("/a/b.db") == "sqlite:////a/b.db"
    assert store_url("redis://x") == "redis://x"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:se:cr@et@db:5432/x",
        "postgresql://ann@db:5432/x?password=se:cr@et",
        "postgresql://ann:old@db:5432/x?sslpassword=secret",
        "postgresql://ann@db:5432/x",
    ],
)
def test_a_server_s_journals_lie_in_the_state_directory_whatever_its_password(url, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert identity(url) == "postgresql://ann@db:5432/x"
    folder = journal_folder(url)
    assert folder.parent == Path("/state/tiered-router")
    assert folder == journal_folder("postgresql://ann:new@db:5432/x")
    assert folder != journal_folder("postgresql://ann@db:5432/y")
    assert journal_folder(url, "/given") == Path("/given")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/ann")
    assert journal_folder(url) == Path("/home/ann/.local/state/tiered-router") / folder.name


def test_a_file_s_journals_lie_beside_it_and_a_store_in_memory_has_none(path):
    assert journal_folder(url(path)) == Path(f"{path}.journal")
    assert journal_folder("sqlite://", "/given") is None


def test_without_a_home_a_folder_for_the_journal_is_asked_for(monkeypatch):
    def none() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(ConfigurationError, match="journal"):
        journal_folder("postgresql://db/x")


def test_a_path_with_odd_characters_is_that_file(tmp_path):
    place = tmp_path / "a b?mode=memory#x%20é.db"
    ledger = open_ledger(url(place), BUDGETS)
    reserve(ledger, "a", 100)
    ledger.close()
    assert place.exists()
    assert counters(open_ledger(url(place), create=False)) == {ALL: (0, 100)}


def test_a_relative_path_stays_that_file_when_the_working_directory_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = open_ledger("sqlite:///l.db", BUDGETS)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    reserve(ledger, "a", 100)
    ledger.close()
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["l.db", "other"]


def test_a_new_store_can_be_read_by_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        ledger = open_ledger(url(tmp_path / "l.db"), BUDGETS)
        reserve(ledger, "a", 100)
    finally:
        os.umask(before)
    for name in ("l.db", "l.db-wal", "l.db-shm"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 3  # nothing else is left behind


def test_of_processes_that_make_one_store_at_once_all_get_the_same(tmp_path):
    place = url(tmp_path / "l.db")

    def begin(name: str) -> None:
        reserve(open_ledger(place, BUDGETS, durability="normal"), name, 100)

    running = [processes.Process(target=begin, args=(f"r{n}",)) for n in range(12)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 12
    assert counters(open_ledger(place, BUDGETS)) == {ALL: (0, 1200)}


@pytest.mark.parametrize("budgets", [[], BUDGETS])
def test_a_store_that_must_exist_is_not_made(tmp_path, budgets):
    with pytest.raises(ConfigurationError, match="does not exist"):
        open_ledger(url(tmp_path / "l.db"), budgets, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_or_a_path_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="none does not exist"):
        open_ledger(url(tmp_path / "none" / "l.db"))
    with pytest.raises(ConfigurationError, match="is a folder"):
        open_ledger(url(tmp_path))


@pytest.mark.parametrize(
    "option", [{"durability": "maybe"}, {"busy_seconds": -1}, {"busy_seconds": float("nan")}]
)
def test_an_option_that_makes_no_sense_is_refused(option):
    with pytest.raises(ConfigurationError):
        open_ledger("sqlite://", **option)


def test_f37_a_store_kept_busy_by_another_program_denies_at_the_deadline(path):
    ledger = open_ledger(url(path), BUDGETS, busy_seconds=0.3)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="locked for too long"):
        reserve(ledger, "a", 100)
    assert 0.25 < time.monotonic() - began < 3
    assert ledger.room({}, NOW).remaining() is not None  # reading needs no turn
    other.execute("ROLLBACK")
    reserve(ledger, "a", 100)
    other.close()


def test_f37_a_thread_waits_for_other_threads_no_longer_than_the_deadline(path):
    ledger = open_ledger(url(path), BUDGETS, busy_seconds=1.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waited = []

    def attempt(name: str) -> None:
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            reserve(ledger, name, 100)
        waited.append(time.monotonic() - began)

    threads = [threading.Thread(target=attempt, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert len(waited) == 6
    assert max(waited) < 4  # one after another they would have waited for six seconds


def _fill_the_disk(place: str) -> str:
    ledger = open_ledger(place, BUDGETS, durability="normal")
    reserve(ledger, "open", 100)
    wal = os.path.getsize(sqlite_path(place) + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 20_000, resource.RLIM_INFINITY))
    held, denied = 1, 0
    for call in range(50):
        try:
            reserve(ledger, f"full{call}", 100)
            held += 1
        except LedgerUnavailable:
            denied += 1
    settle(ledger, "open", 70)  # it was paid for: parked in the journal
    settle(ledger, "open", 70)
    if counters(ledger) != {ALL: (0, 100 * held)}:
        return f"{counters(ledger)} with {held} held"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.expire(NOW)
    if counters(ledger) != {ALL: (70, 100 * (held - 1))}:
        return f"{counters(ledger)} after"
    return f"{ledger.verify()} {denied > 0}"


def test_f38_a_full_disk_denies_and_parks_settlements_and_keeps_what_is_held_until_there_is_room():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        assert in_child(_fill_the_disk, f"sqlite:///{folder}/l.db") == "[] True"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"SQLite", "not a SQLite file"),
        (b"id,cost\n1,2\n" * 1000, "not a SQLite file"),
        (b"SQLite format 3\0", "not a SQLite file"),
    ],
)
def test_f40_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path, content, says):
    place = tmp_path / "l.db"
    place.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match=says):
        open_ledger(url(place), BUDGETS)
    assert place.read_bytes() == content


@pytest.mark.parametrize("keep", [100, 4096, 0.3, 0.6, 0.95])
def test_f40_a_truncated_store_is_refused_and_left_as_it_is(path, keep):
    whole = path.read_bytes()
    cut = whole[: keep if isinstance(keep, int) else int(len(whole) * keep)]
    path.write_bytes(cut)
    with pytest.raises(LedgerCorrupt):
        open_ledger(url(path), BUDGETS)
    assert path.read_bytes() == cut


def test_f40_no_flipped_bit_in_money_passes_verify(path):
    """Each counter, amount and cost is stored at least twice, so any one that changes shows."""
    for change in [
        "UPDATE account SET settled = settled + 1",
        "UPDATE account SET held = held + 64",
        "UPDATE account SET overrun = 4",
        "UPDATE account SET limit_n = 128",
        "UPDATE account SET credited = 1",
        "UPDATE reservation SET actual = 124 WHERE seq = 7",
        "UPDATE reservation SET amount = 101 WHERE seq = 7",
        "UPDATE reservation SET state = 'open' WHERE seq = 7",
        "UPDATE reservation SET accounts = '[[9,\"usd\"]]' WHERE seq = 7",
        "UPDATE attempt SET cost = 61 WHERE rowid = 7",
        "UPDATE attempt SET cost = NULL WHERE rowid = 7",
        "DELETE FROM attempt WHERE rowid = 7",
        "DELETE FROM reservation WHERE seq = 7",
        "DELETE FROM request WHERE id = 7",
        "DELETE FROM account",
        "INSERT INTO entry (reservation, kind, amount, time) VALUES (7, 'CORRECT', -60, 0)",
        "INSERT INTO entry (reservation, kind, amount, time) VALUES (999, 'POST', 60, 0)",
        "UPDATE request SET accepted = 2 WHERE id = 7",
        "UPDATE attempt SET number = 2 WHERE rowid = 7",
    ]:
        copy = path.with_name("copy.db")
        shutil.copy(path, copy)
        raw = sqlite3.connect(copy)
        raw.execute(change)
        raw.commit()
        raw.close()
        ledger = open_ledger(url(copy), create=False)
        assert ledger.verify() != [], change
        ledger.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE account SET settled = settled + 1 WHERE budget = 'tokens'",
        "UPDATE account SET held = held + 1 WHERE budget = 'rolling'",
        "UPDATE account SET settled = 0 WHERE budget = 'share'",
        "UPDATE account SET seen = 1 WHERE budget = 'share'",
        "UPDATE account SET limit_n = 200 WHERE budget = 'rolling'",
        "UPDATE account SET credited = credited + 1, settled = settled - 1 WHERE budget = 'tokens'",
        "UPDATE reservation SET tokens = 1 WHERE state = 'open'",
        "UPDATE reservation SET actual_tokens = 0 WHERE state = 'settled'",
        "UPDATE reservation SET actual_requests = 0 WHERE state = 'settled'",
        "DELETE FROM account WHERE budget = 'share'",
        "INSERT INTO entry (budget, scope_value, kind, amount, time) "
        "VALUES ('tokens', '', 'CREDIT', 5, 0)",
        "INSERT INTO entry (kind, amount, time) VALUES ('LIMIT', 5, 0)",
    ],
)
def test_f40_no_change_of_other_meters_and_windows_passes_verify(tmp_path, change):
    place = tmp_path / "l.db"
    ledger = open_ledger(
        url(place),
        [
            Budget("rolling", 250, "rolling", seconds=3600),
            Budget("share", 500_000, scope="tier", value="frontier", meter="share"),
            Budget("tokens", 1000, meter="tokens"),
        ],
    )
    for call, tier in enumerate(["nano", "frontier", "nano", "frontier"]):
        reserve(ledger, f"r{call}", 60, tokens=50, scopes={"tier": (tier,)}, now=NOW + 600 * call)
        if call:
            settle(ledger, f"r{call}", 60, now=NOW + 600 * call)
    ledger.credit("tokens", 3, now=NOW)
    assert ledger.verify() == []
    ledger.close()
    raw = sqlite3.connect(place)
    raw.execute(change)
    raw.commit()
    raw.close()
    assert open_ledger(url(place), create=False).verify() != []


def test_the_checks_are_in_sql_that_the_oldest_sqlite_knows_that_is_let_in():
    """3.35: `->` and `->>` came with 3.38, and a machine with 3.37 could verify nothing."""
    assert [check for check in _CHECKS if "->" in check] == []


def test_f40_random_damage_is_refused_or_shown_or_harmless_to_money(path):
    """Whatever byte changes: an error by name, a problem found, or every counter still right."""
    whole = path.read_bytes()
    for place in range(0, len(whole), 1361):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            ledger = open_ledger(url(path), BUDGETS, durability="normal")
            if not ledger.verify():
                assert counters(ledger)[ALL] == (50 * 60, 0)
            ledger.close()
        except (LedgerCorrupt, ConfigurationError):
            pass


def test_f40_a_write_ahead_log_that_was_taken_away_is_noticed_at_the_start(path):
    ledger = open_ledger(url(path), BUDGETS)
    reserve(ledger, "a", 100)
    copy = path.parent / "copy"
    copy.mkdir()
    for name in ("l.db", "l.db-shm"):  # as after a crash, then someone tidied up
        shutil.copy(path.with_name(name), copy / name)
    with pytest.raises(LedgerCorrupt, match="write-ahead log"):
        open_ledger(url(copy / "l.db"), BUDGETS)
    ledger.close()


@pytest.mark.parametrize("name", ["l.db", "l.db-wal"])
def test_f40_a_file_deleted_in_use_denies_and_is_not_made_again(path, name):
    ledger = open_ledger(url(path), BUDGETS)
    reserve(ledger, "a", 100)
    path.with_name(name).unlink()
    with pytest.raises(LedgerCorrupt, match="deleted or replaced"):
        reserve(ledger, "b", 100)
    with pytest.raises(LedgerCorrupt):
        settle(ledger, "a", 50)
    assert not path.with_name(name).exists()


def test_opening_a_store_again_in_one_process_keeps_the_locks_of_the_first(path):
    """A lost lock would let another process, when it closes, delete the log that is in use."""
    ledger = open_ledger(url(path), BUDGETS)
    reserve(ledger, "a", 100)
    for _ in range(2):
        open_ledger(url(path), BUDGETS).close()
        open_log(url(path)).close()
    other = subprocess.run(
        [sys.executable, "-c", f"import sqlite3; sqlite3.connect({str(path)!r}).execute("
         "'SELECT count(*) FROM request').connection.close()"],
        check=True,
    )  # fmt: skip
    assert other.returncode == 0
    assert path.with_name("l.db-wal").exists()
    settle(ledger, "a", 50)
    assert counters(open_ledger(url(path), create=False)) == {ALL: (3050, 0)}


def test_entries_are_append_only(path):
    raw = sqlite3.connect(path)
    for change in ("UPDATE entry SET amount = 0", "DELETE FROM entry"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(change)
    raw.close()


@pytest.mark.parametrize("version", [0, 3, 5])
def test_f41_a_store_of_another_schema_version_is_refused(path, version):
    raw = sqlite3.connect(path)
    raw.execute(f"PRAGMA user_version = {version}")
    raw.close()
    with pytest.raises(ConfigurationError, match=f"schema version {version}"):
        open_ledger(url(path), BUDGETS)


def test_f41_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path):
    place = tmp_path / "notes.db"
    raw = sqlite3.connect(place)
    raw.execute("CREATE TABLE note (text)")
    raw.close()
    before = place.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        open_ledger(url(place), BUDGETS)
    assert place.read_bytes() == before


def test_what_is_committed_is_there_when_the_store_is_opened_again(path):
    ledger = open_ledger(url(path), [Budget("all", 3100)])
    assert counters(ledger) == {ALL: (3000, 0)}
    reserve(ledger, "a", 100)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "b", 1)
