"""What was done on a server is copied to the log: by whom, when, and what is said of the rest."""

from __future__ import annotations

import itertools
import os
import re
import sqlite3
import threading
import time
from contextlib import suppress

import pytest

from router.errors import LedgerCorrupt, LedgerUnavailable
from router.ledger.redis import outbox as redis_outbox
from router.ledger.redis import scripts
from router.ledger.redis import server as redis_server
from router.ledger.redis.rebuild import rebuild
from router.ledger.redis.server import Server
from router.ledger.redis.turn import Turn
from router.ledger.redis.url import parse
from router.ledger.sqlite import mirror as sqlite_mirror
from tests.ledger_kit import NOW, counters, processes, reserve
from tests.redis_kit import ALL, forget_everything, opened, place_of, spent
from tests.redis_kit import own as own  # a fixture
from tests.servers import redis


def test_f44_a_copier_that_dies_between_commit_and_removal_makes_no_duplicate(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    place = place_of(redis("valkey"), tmp_path)
    ledger = opened(place)
    spent(ledger, 10)
    ledger.credit("all", 100, now=NOW)
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(redis_outbox.Outbox, "_forget", lambda *_: os._exit(9))
        with suppress(BaseException):
            list(ledger.log().requests())
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 9 << 8
    assert redis("valkey").ask("XLEN", f"{{router:{parse(place).ledger}}}:outbox") == ":22"
    assert sum(row.cost or 0 for row in ledger.log().attempts()) == 600
    assert len(list(ledger.log().requests())) == 10
    assert redis("valkey").ask("XLEN", f"{{router:{parse(place).ledger}}}:outbox") == ":0"
    assert counters(ledger) == {ALL: (500, 0)}
    assert ledger.verify() == []


def test_f44_many_copiers_at_once_make_no_duplicate(tmp_path):
    place = place_of(redis("valkey"), tmp_path)
    ledger = opened(place)
    stop = threading.Event()

    def copy() -> None:
        mine = opened(place)
        while not stop.is_set():
            list(mine.log().requests())

    copiers = [threading.Thread(target=copy) for _ in range(3)]
    for each in copiers:
        each.start()
    spent(ledger, 60)
    stop.set()
    for each in copiers:
        each.join()
    assert sum(row.cost or 0 for row in ledger.log().attempts()) == 3600
    assert ledger.verify() == []


def _die_in_turn(place, copying) -> None:
    Turn(Server(parse(place), "normal", 20), turn_key(place)).take(0)
    copying.set()
    time.sleep(60)


def turn_key(place) -> str:
    return f"{{router:{parse(place).ledger}}}:turn"


def test_nobody_waits_long_for_a_copier_that_died(tmp_path):
    place = place_of(redis("valkey"), tmp_path)
    ledger = opened(place)
    spent(ledger, 3)
    copying = processes.Event()
    copier = processes.Process(target=_die_in_turn, args=(place, copying))
    copier.start()
    assert copying.wait(20)
    copier.kill()
    copier.join()
    assert redis("valkey").ask("EXISTS", turn_key(place)) == ":1"
    began = time.monotonic()
    assert ledger.verify() == []
    assert time.monotonic() - began < 4
    assert redis("valkey").ask("EXISTS", turn_key(place)) == ":0"


def test_a_turn_lasts_as_long_as_its_copier_works_and_no_longer(tmp_path):
    place = place_of(redis("valkey"), tmp_path)
    opened(place)
    server = Server(parse(place), "normal", 20)
    mine, others = (Turn(server, turn_key(place)) for _ in range(2))
    mine.take(0)
    for _ in range(15):  # half as long again as it lasts by itself
        time.sleep(0.1)
        mine.keep()
        others.take(0)
        assert (mine.mine, others.mine) == (True, False)
    others.take(20)  # nobody keeps it any more
    assert others.mine
    mine.give_up()  # which is not its to give
    assert redis("valkey").ask("EXISTS", turn_key(place)) == ":1"
    others.give_up()
    assert redis("valkey").ask("EXISTS", turn_key(place)) == ":0"


def test_a_log_that_cannot_be_written_stops_nobody_and_catches_up(tmp_path, monkeypatch):
    place = place_of(redis("valkey"), tmp_path)
    monkeypatch.setattr(sqlite_mirror, "_BUSY_SECONDS", 0.1)
    monkeypatch.setattr(redis_outbox, "_PAUSE", 0.01)
    ledger = opened(place)
    other = sqlite3.connect(parse(place).log.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    spent(ledger, 20)
    with pytest.raises(LedgerUnavailable):
        list(ledger.log().requests())
    other.execute("ROLLBACK")
    other.close()
    assert len(list(ledger.log().attempts())) == 20
    assert ledger.verify() == []


def slow_copying(monkeypatch, seconds):
    """Each step is copied by itself, and takes its time."""
    apply = sqlite_mirror.SqliteMirror.apply

    def slow(self, *arguments):
        time.sleep(seconds)
        return apply(self, *arguments)

    monkeypatch.setattr(redis_outbox, "_AT_ONCE", 1)
    monkeypatch.setattr(redis_outbox, "_PAUSE", 0.01)
    monkeypatch.setattr(sqlite_mirror.SqliteMirror, "apply", slow)


def calls_copied(place):
    """Calls that the log has, without asking the server for the others."""
    with sqlite3.connect(parse(place).log.removeprefix("sqlite:///")) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM attempt").fetchall()
    return count


def test_closing_ends_the_copying_first_however_much_is_left(tmp_path, monkeypatch, caplog):
    place = place_of(redis("valkey"), tmp_path)
    ledger = opened(place)
    monkeypatch.setattr(redis_outbox, "_STEP_SECONDS", 0.5)
    slow_copying(monkeypatch, 0.05)  # a second in all
    spent(ledger, 10)
    while not calls_copied(place):  # the thread is in the midst of it
        time.sleep(0.02)
    ledger.close()
    assert calls_copied(place) == 10
    assert said_of(place, caplog) == []


def said_of(place, caplog):
    """What was said of this ledger: threads of other tests' ledgers miss their servers."""
    name = re.search(r"ledger=\w+", place)[0]
    mine = ("the log is", f"{name} ")
    return [each for each in caplog.messages if any(word in each for word in mine)]


def test_closing_gives_up_in_time_and_says_how_much_is_left_to_the_next(
    tmp_path, monkeypatch, caplog
):
    others = set(threading.enumerate())
    place = place_of(redis("valkey"), tmp_path)
    ledger = opened(place)
    slow_copying(monkeypatch, 0.2)
    monkeypatch.setattr(redis_outbox, "_CLOSE_SECONDS", 0.3)
    spent(ledger, 10)
    threads = [each for each in set(threading.enumerate()) - others if each.name == "router-outbox"]
    assert threads
    while not calls_copied(place):
        time.sleep(0.02)
    began = time.monotonic()
    ledger.close()
    assert time.monotonic() - began < 2
    assert calls_copied(place) < 10
    for each in threads:
        each.join(5)
    [said] = said_of(place, caplog)
    assert re.search(r"the log is \d+ steps behind; who opens the ledger next copies them", said)
    monkeypatch.undo()
    again = opened(place)
    assert len(list(again.log().attempts())) == 10
    assert again.verify() == []


def test_who_attaches_while_others_go_on_raises_no_false_alarm(tmp_path, monkeypatch):
    """Between the server's answer and a look at the log, others do steps and copy them."""
    place = place_of(redis("valkey"), tmp_path)
    busy = opened(place)
    spent(busy, 1)
    call, done = redis_server.Server.call, itertools.count()

    def overtaken(self, script, *arguments, **options):
        answer = call(self, script, *arguments, **options)
        if script is scripts.ATTACH:
            monkeypatch.setattr(redis_server.Server, "call", call)
            spent(busy, 2, name=f"meanwhile{next(done)}-")
            assert len(list(busy.log().requests())) >= 3  # which copies them
            monkeypatch.setattr(redis_server.Server, "call", overtaken)
        return answer

    monkeypatch.setattr(redis_server.Server, "call", overtaken)
    late = opened(place)
    monkeypatch.setattr(redis_server.Server, "call", call)
    assert counters(late) == {ALL: (60 * (1 + 2 * next(done)), 0)}
    assert late.verify() == []


def test_a_process_whose_copying_stopped_goes_on_once_the_ledger_is_rebuilt(own, tmp_path):
    place = place_of(own, tmp_path)
    ledger = opened(place)
    spent(ledger, 2)
    assert ledger.verify() == []
    forget_everything(own, parse(place).ledger)
    outbox = ledger.budget_ledger.store._outbox
    assert not outbox.drain_if_free()
    with pytest.raises(LedgerCorrupt):
        reserve(ledger, "x", 1)
    rebuild(place, durability="normal")
    reserve(ledger, "y", 1)
    assert counters(ledger) == {ALL: (120, 1)}
