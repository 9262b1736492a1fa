"""One transaction for all who wait: what one does, or fails at, is nobody else's."""

from __future__ import annotations

import threading
import time

from router.errors import LedgerUnavailable
from router.ledger.sqlite.database import Database, Undo


def in_memory(busy_seconds: float = 30.0) -> Database:
    return Database(None, durability="full", busy_seconds=busy_seconds, create=True)


def note(name: str):
    """Work that leaves a row behind."""

    def work(connection):
        connection.execute("INSERT INTO clock VALUES (?, 'k', 'w', NULL)", (name,))
        return name

    return work


def noted(database: Database) -> list[str]:
    with database.read() as connection:
        return [name for [name] in connection.execute("SELECT budget FROM clock ORDER BY 1")]


def together(database: Database, works) -> list[object]:
    """Submit works from a thread each, so that all wait before one is done; what each got."""
    answers: list[object] = [None] * len(works)
    begun, go = threading.Event(), threading.Event()

    def block(connection) -> None:
        begun.set()
        go.wait(20)

    def submit(at: int) -> None:
        try:
            answers[at] = database.submit(works[at])
        except Exception as error:
            answers[at] = error

    threads = [threading.Thread(target=database.submit, args=(block,))]
    threads[0].start()
    assert begun.wait(20)
    for at in range(len(works)):
        threads.append(threading.Thread(target=submit, args=(at,)))
        threads[-1].start()
    deadline = time.monotonic() + 20
    while len(database._jobs) < len(works) and time.monotonic() < deadline:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()
    return answers


def test_one_that_fails_or_undoes_its_work_takes_nothing_from_the_others():
    database = in_memory()

    def fail(connection):
        note("failed")(connection)
        raise ValueError("no")

    def undo(connection):
        note("undone")(connection)
        raise Undo("never mind")

    def repeat(connection):  # a row that is there already
        note("a")(connection)

    got = together(database, [note("a"), fail, note("b"), undo, note("c"), repeat])
    assert [got[0], got[2], got[3], got[4]] == ["a", "b", "never mind", "c"]
    assert isinstance(got[1], ValueError)
    assert "UNIQUE" in str(got[5])
    assert noted(database) == ["a", "b", "c"]


def test_many_at_once_are_all_done_once():
    database = in_memory()
    names = [f"n{at:03d}" for at in range(150)]  # more than fit one transaction
    assert together(database, [note(name) for name in names]) == names
    assert noted(database) == names


def test_who_runs_out_of_time_while_another_thread_does_the_work_learns_that_it_was_done():
    """An answer of "unavailable" for work that is then committed would be a hold of nobody's."""
    database = in_memory(busy_seconds=1.5)

    def slow(connection):
        time.sleep(2.5)
        return note("slow")(connection)

    got = together(database, [slow, note("a"), note("b"), note("c")])
    answered = sorted(each for each in got if isinstance(each, str))
    assert answered == noted(database)
    assert all(isinstance(each, str | LedgerUnavailable) for each in got)


def test_a_transaction_that_an_interrupt_left_open_is_undone_by_whoever_comes_next(tmp_path):
    path = str(tmp_path / "store.db")
    database = Database(path, durability="normal", busy_seconds=5, create=True)
    database.submit(note("first"))
    assert noted(database) == ["first"]
    for slot in database._slots():
        slot.connection.execute("BEGIN")
    note("half")(database._writer.connection)
    assert noted(database) == ["first"]
    database.submit(note("second"))
    assert noted(database) == ["first", "second"]
