"""A PostgreSQL store whose server dies, hangs or refuses, or whose network does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest

from router.errors import LedgerUnavailable
from router.ledger import open_ledger, store_exists
from router.ledger.ledger import BudgetLedger
from router.ledger.matching import Account, Amounts
from router.ledger.postgres import PostgresStore
from router.ledger.postgres.database import BUSY_SECONDS
from router.types import Budget
from tests import servers
from tests.ledger_kit import NOW, TTL, counters, processes, reserve, settle
from tests.proxy import Proxy

ALL = ("all", "")
BUDGETS = [Budget("all", 1_000_000_000)]
PATIENCE = 60.0
# A refusal must come within BUSY_SECONDS; a busy machine may be late in running us.
SLACK = 0.5


@pytest.fixture
def url():
    with servers.postgres().database() as place:
        yield place


@pytest.fixture(scope="module")
def own_server():
    """A server to be killed and frozen."""
    server = servers.PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def own_url(own_server):
    with own_server.database() as place:
        yield place
        if not own_server.running:
            own_server.start()


@pytest.fixture
def proxy(url):
    between = Proxy(servers.postgres().port)
    yield between
    between.close()


def through(proxy: Proxy, url: str) -> str:
    return url.replace(f":{servers.postgres().port}/", f":{proxy.port}/")


def sql(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def refused(ledger, name: str) -> tuple[str, float]:
    """Why a reservation is refused, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable) as error:
        reserve(ledger, name, 100)
    return error.value.why, time.monotonic() - began


# ── the server ─────────────────────────────────────────────────────────────────────────────────
def test_f36_a_dead_server_denies_at_once_and_serves_again_within_two_seconds(own_server, own_url):
    ledger = open_ledger(own_url, BUDGETS)
    reserve(ledger, "before", 100)
    own_server.kill()
    for turn in range(3):
        _, seconds = refused(ledger, f"down{turn}")
        assert seconds < BUSY_SECONDS + SLACK
    settle(ledger, "before", 60)  # into the journal, until the server is back
    own_server.start()
    back = time.monotonic()
    while True:
        try:
            reserve(ledger, "after", 100)
            break
        except LedgerUnavailable:
            assert time.monotonic() - back < 2 + SLACK
    assert counters(ledger) == {ALL: (60, 100)}
    assert ledger.verify() == []


def _clerk(url, worker, told):
    """Reserve until the server is gone, and write down each id that was granted."""
    with open(told, "a", buffering=1) as file, suppress(LedgerUnavailable):
        ledger = open_ledger(url, BUDGETS, busy_seconds=5)
        for call in range(100_000):
            reserve(ledger, f"r{worker}-{call}", 10)
            file.write(f"r{worker}-{call}/1\n")


def test_f36_whatever_was_granted_is_there_after_the_server_was_killed(
    own_server, own_url, tmp_path
):
    """Locks are free before the log is on disk, and still no answer is given before it is."""
    told = tmp_path / "told"
    for kill in range(3):
        workers = [
            processes.Process(target=_clerk, args=(own_url, f"{kill}-{n}", told)) for n in range(4)
        ]
        open_ledger(own_url, BUDGETS, busy_seconds=PATIENCE).close()
        for worker in workers:
            worker.start()
        while not told.exists() or len(told.read_text().splitlines()) < 40 * (kill + 1):
            time.sleep(0.02)
        own_server.kill()
        for worker in workers:
            worker.join(30)
            assert worker.exitcode == 0
        own_server.start()
        with psycopg.connect(own_url) as connection:
            rows = connection.execute("SELECT id FROM tiered_router.reservation").fetchall()
        granted = set(told.read_text().split())
        assert len(granted) >= 40 * (kill + 1)
        assert granted - {identity for [identity] in rows} == set()
    ledger = open_ledger(own_url, BUDGETS, busy_seconds=PATIENCE)
    assert ledger.verify() == []
    ledger.expire(NOW + TTL)
    assert counters(ledger)[ALL][1] == 0


def test_f36_a_server_that_hangs_denies_within_the_deadline(own_server, own_url):
    ledger = open_ledger(own_url, BUDGETS)
    new = open_ledger(own_url, BUDGETS)
    reserve(ledger, "before", 100)
    new.store._database._idle.pop().close()  # it has to connect anew
    own_server.freeze(frozen=True)
    try:
        for each, says in ((ledger, "no answer came in time"), (new, "no connection could be")):
            why, seconds = refused(each, "frozen")
            assert says in why
            assert BUSY_SECONDS - 0.05 < seconds < BUSY_SECONDS + SLACK
    finally:
        own_server.freeze(frozen=False)
    back = time.monotonic()
    while time.monotonic() - back < 2 + SLACK:
        try:
            settle(ledger, "before", 60)
            break
        except LedgerUnavailable:
            continue
    assert counters(ledger)[ALL][0] == 60
    ledger.expire(NOW + TTL)  # what was asked for in vain may have been done, and is charged then
    assert ledger.verify() == []


def test_f36_nobody_there_is_said_at_once():
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="refused"):
        open_ledger(f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x", BUDGETS)
    assert time.monotonic() - began < BUSY_SECONDS + SLACK


def test_f36_a_lock_that_another_program_keeps_denies_at_the_deadline(url):
    ledger = open_ledger(url, BUDGETS)
    reserve(ledger, "a", 100)
    with psycopg.connect(url) as other:
        other.execute("SELECT 1 FROM tiered_router.account FOR UPDATE")
        why, seconds = refused(ledger, "b")
        assert why == "others kept what it needs locked for too long"
        assert seconds < BUSY_SECONDS + SLACK
        assert ledger.room({}, NOW).remaining() == 999_999_900  # reading needs no lock
    reserve(ledger, "b", 100)
    assert counters(ledger) == {ALL: (0, 200)}


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_f36_a_step_that_the_server_undid_for_others_sake_is_asked_again(url, code):
    ledger = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    fail_first(url, 3, code)
    reserve(ledger, "a", 100)
    fail_first(url, 100, code)
    with pytest.raises(LedgerUnavailable):
        reserve(ledger, "b", 100)
    sql(url, "DROP TRIGGER fail ON tiered_router.reservation")
    assert counters(ledger) == {ALL: (0, 100)}
    assert ledger.verify() == []


def fail_first(url: str, times: int, code: str) -> None:
    """Make the first so many reservations fail with an SQLSTATE; a sequence is never undone."""
    sql(
        url,
        "DROP SEQUENCE IF EXISTS failures CASCADE",
        "CREATE SEQUENCE failures",
        "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('public.failures') <= {times} THEN"
        f" RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END IF; RETURN new; END $$",
        "CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON tiered_router.reservation"
        " FOR EACH ROW EXECUTE FUNCTION fail()",
    )


def test_f36_a_real_deadlock_with_another_program_ends_in_one_hold(url):
    ledger = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    reserve(ledger, "a", 100)
    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("SET deadlock_timeout = '20s'")  # so that it is the ledger's step that ends
        other.execute("SELECT 1 FROM tiered_router.account FOR UPDATE")
        waiting = thread.submit(reserve, ledger, "b", 100)
        until_waiting(url)
        other.execute(
            "SELECT pg_advisory_xact_lock(classid::int, objid::int) FROM pg_locks"
            " WHERE locktype = 'advisory' AND granted AND objsubid = 2"
        )
        other.rollback()
        assert waiting.result().amount == 100
    assert counters(ledger) == {ALL: (0, 200)}


def until_waiting(url: str) -> None:
    """Wait until somebody waits for a lock."""
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(1000):
            [count] = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted"
            ).fetchone() or [0]
            if count:
                return
            time.sleep(0.01)
    raise AssertionError("nobody waits")


def test_f36_a_pool_whose_connections_are_all_busy_denies_at_the_deadline(url):
    ledger = BudgetLedger(PostgresStore(url, connections=2, busy_seconds=1.0), BUDGETS)
    reserve(ledger, "a", 100)
    with psycopg.connect(url) as other, ThreadPoolExecutor(3) as threads:
        other.execute("SELECT 1 FROM tiered_router.account FOR UPDATE")
        answers = [threads.submit(refused, ledger, f"r{n}") for n in range(3)]
        assert max(answer.result()[1] for answer in answers) < 1.0 + SLACK
    assert open_ledger(url, BUDGETS, busy_seconds=PATIENCE).verify() == []
    held = ledger.store._database
    assert held._free.acquire(timeout=0)
    assert held._free.acquire(timeout=0)
    assert refused(ledger, "late")[0] == (
        "all 2 connections of this process were busy for too long"
    )


def test_f36_a_server_without_a_connection_left_denies(url):
    sql(url, "ALTER ROLE postgres CONNECTION LIMIT 0", "CREATE ROLE small LOGIN SUPERUSER")
    try:
        sql(url, "CREATE ROLE guest LOGIN CONNECTION LIMIT 0")
        with pytest.raises(LedgerUnavailable, match="too many connections"):
            open_ledger(url.replace("postgres@", "guest@"), BUDGETS)
    finally:
        sql(
            url.replace("postgres@", "small@"),
            "ALTER ROLE postgres CONNECTION LIMIT -1",
            "DROP ROLE IF EXISTS guest",
        )
        sql(url, "DROP ROLE small")


def test_connections_that_the_server_ended_are_made_again_unnoticed(url):
    ledger = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: reserve(ledger, f"a{n}", 100), range(40)))
    sql(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
        " current_database() AND pid <> pg_backend_pid()")  # fmt: skip
    for call in range(5):
        reserve(ledger, f"b{call}", 100)
    assert counters(ledger) == {ALL: (0, 4500)}


def test_a_database_that_is_read_only_denies(url):
    ledger = open_ledger(url, BUDGETS)
    database = url.rpartition("/")[2]
    sql(url, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    try:
        assert store_exists(url)
        reading = open_ledger(url, create=False)
        assert counters(reading) == {ALL: (0, 0)}
        with pytest.raises(LedgerUnavailable, match="read-only"):
            open_ledger(url, BUDGETS)
    finally:
        sql(url, "SET default_transaction_read_only = off",
            f"ALTER DATABASE {database} RESET default_transaction_read_only")  # fmt: skip
    reserve(ledger, "a", 100)


# ── the network ────────────────────────────────────────────────────────────────────────────────
def test_f45_f07_an_answer_lost_on_its_way_is_asked_for_again_and_counts_once(url, proxy):
    ledger = open_ledger(through(proxy, url), BUDGETS, busy_seconds=PATIENCE)
    reserve(ledger, "warm", 100)
    proxy.swallow = 1
    reserve(ledger, "a", 300)
    proxy.swallow = 1
    settle(ledger, "a", 120)
    assert proxy.swallowed == 2
    assert counters(ledger) == {ALL: (120, 100)}
    proxy.swallow = 1
    ledger.set_limit("all", 5000, now=NOW, note="raised")
    assert ledger.room({}, NOW).remaining() == 4780
    assert [change.note for change in ledger.audit()] == ["raised"]
    assert ledger.verify() == []


def test_f45_a_credit_whose_answer_was_lost_is_not_given_twice(url, proxy):
    ledger = open_ledger(through(proxy, url), BUDGETS, busy_seconds=PATIENCE)
    reserve(ledger, "a", 300)
    settle(ledger, "a", 300)
    take = Account(BUDGETS[0], "").take(Amounts(), NOW)
    assert ledger.store.credit(take, 1, NOW, "warm") == 1
    proxy.swallow = 1
    with pytest.raises(LedgerUnavailable, match="may have been done"):
        ledger.store.credit(take, 100, NOW, "goodwill")
    assert counters(ledger) == {ALL: (199, 0)}
    assert ledger.verify() == []


def test_f45_connections_reset_in_use_lose_and_double_nothing(url, proxy):
    ledger = open_ledger(through(proxy, url), BUDGETS, busy_seconds=PATIENCE)
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(0.03):
            proxy.reset_all()

    disturber = threading.Thread(target=disturb)
    disturber.start()

    def work(thread: int) -> int:
        settled = 0
        for call in range(25):
            try:
                reserve(ledger, f"r{thread}-{call}", 100)
                settle(ledger, f"r{thread}-{call}", 40)
                settled += 1
            except LedgerUnavailable:
                continue
        return settled

    try:
        with ThreadPoolExecutor(4) as threads:
            settled = sum(threads.map(work, range(4)))
    finally:
        done.set()
        disturber.join()
    direct = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    direct.expire(NOW + TTL)
    spent, held = counters(direct)[ALL]
    assert settled > 0
    assert held == 0
    assert spent >= settled * 40
    assert direct.verify() == []


def test_f45_a_slow_network_is_waited_for_up_to_the_deadline(url, proxy):
    ledger = open_ledger(through(proxy, url), BUDGETS)
    reserve(ledger, "a", 100)
    proxy.latency = 0.05
    reserve(ledger, "b", 100)
    proxy.latency = 1.0
    assert refused(ledger, "c")[1] < BUSY_SECONDS + SLACK
    proxy.latency = 0.0
    reserve(ledger, "c", 100)  # whether or not it was done before
    assert counters(ledger) == {ALL: (0, 300)}
    proxy.latency = 1.0
    assert refused(ledger, "never sent")[1] < BUSY_SECONDS + SLACK
    proxy.latency = 0.0
    assert counters(ledger) == {ALL: (0, 400)}
    ledger.expire(NOW)
    assert counters(ledger) == {ALL: (0, 300)}
    assert ledger.verify() == []


def test_f45_a_network_that_swallows_everything_denies_at_the_deadline(url, proxy):
    ledger = open_ledger(through(proxy, url), BUDGETS)
    proxy.silent = True
    assert refused(ledger, "a")[1] < BUSY_SECONDS + SLACK
    assert refused(ledger, "a")[1] < BUSY_SECONDS + SLACK  # connecting anew is no slower
    proxy.silent = False
    reserve(ledger, "b", 100)


def _reserve_once(place: str) -> None:
    reserve(open_ledger(place, BUDGETS, busy_seconds=PATIENCE), "a", 300)


def test_f03_a_step_that_its_sender_did_not_live_to_see_is_charged_by_the_sweep_after_it(url):
    ledger = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    others = servers.sessions(url)
    worker = processes.Process(target=_reserve_once, args=(url,))
    with psycopg.connect(url) as blocker:
        blocker.execute("LOCK TABLE tiered_router.account IN EXCLUSIVE MODE")
        worker.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        deadline = time.monotonic() + PATIENCE
        while blocker.execute(waiting).fetchone() == (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        worker.kill()
        worker.join()
        assert ledger.expire(NOW + TTL) == 0  # nobody holds anything yet
    servers.until_ended(url, others)  # the server ends what it was asked for
    assert counters(ledger) == {ALL: (0, 300)}
    assert ledger.expire(NOW + TTL) == 1
    assert counters(ledger) == {ALL: (300, 0)}
    assert ledger.verify() == []
