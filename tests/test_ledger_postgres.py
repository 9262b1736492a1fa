"""A PostgreSQL store whose server dies, hangs, refuses, is slow, or was written by another."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest

from router import Router
from router.cli import main
from router.errors import ConfigurationError, LedgerCorrupt, LedgerUnavailable
from router.ledger import open_ledger, store_exists
from router.ledger.ledger import BudgetLedger
from router.ledger.matching import Account, Amounts
from router.ledger.postgres import PostgresStore
from router.ledger.postgres.database import BUSY_SECONDS
from router.types import Budget
from tests import servers
from tests.conftest import HELLO, ladder, steady_predictor
from tests.ledger_kit import NOW, TTL, counters, processes, reserve, run_all, settle
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
    with pytest.raises(LedgerUnavailable):
        settle(ledger, "before", 60)
    own_server.start()
    back = time.monotonic()
    while True:
        try:
            settle(ledger, "before", 60)
            break
        except LedgerUnavailable:
            assert time.monotonic() - back < 2 + SLACK
    reserve(ledger, "after", 100)
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


def test_f45_a_network_that_swallows_everything_denies_at_the_deadline(url, proxy):
    ledger = open_ledger(through(proxy, url), BUDGETS)
    proxy.silent = True
    assert refused(ledger, "a")[1] < BUSY_SECONDS + SLACK
    assert refused(ledger, "a")[1] < BUSY_SECONDS + SLACK  # connecting anew is no slower
    proxy.silent = False
    reserve(ledger, "b", 100)


# ── the store ──────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("version", [0, 2])
def test_f41_a_store_of_another_schema_version_is_refused(url, version):
    ledger = open_ledger(url, BUDGETS)
    sql(url, f"UPDATE tiered_router.meta SET version = {version}")
    with pytest.raises(ConfigurationError, match=f"schema version {version}"):
        open_ledger(url, BUDGETS)
    ledger.store._database._idle.pop().close()
    with pytest.raises(ConfigurationError, match=f"schema version {version}"):
        reserve(ledger, "a", 100)  # one that was open before notices when it connects anew


def test_f41_a_schema_of_another_program_is_refused_and_left_as_it_is(url):
    sql(url, "CREATE SCHEMA tiered_router", "CREATE TABLE tiered_router.note (text text)")
    with pytest.raises(ConfigurationError, match="another program"):
        open_ledger(url, BUDGETS)
    sql(url, "SELECT text FROM tiered_router.note")


@pytest.mark.parametrize("damage", ["TABLE account", "TABLE meta", "FUNCTION open_account"])
def test_f40_a_store_with_a_part_missing_is_refused(url, damage):
    open_ledger(url, BUDGETS).close()
    sql(url, f"DROP {damage.replace(' ', ' tiered_router.')} CASCADE")
    with pytest.raises((LedgerCorrupt, ConfigurationError)):
        reserve(open_ledger(url, BUDGETS), "a", 100)


def test_f40_no_number_that_was_changed_passes_verify(url):
    ledger = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    for call in range(10):
        reserve(ledger, f"r{call}", 100)
        settle(ledger, f"r{call}", 60)
    assert ledger.verify() == []
    for change in [
        "UPDATE account SET settled = settled + 1",
        "UPDATE account SET held = held + 64",
        "UPDATE account SET overrun = 4",
        "UPDATE account SET limit_n = 128",
        "UPDATE account SET credited = 1",
        "UPDATE reservation SET actual = 124 WHERE id = 'r7/1'",
        "UPDATE reservation SET amount = 101 WHERE id = 'r7/1'",
        "UPDATE reservation SET state = 'open' WHERE id = 'r7/1'",
        "UPDATE reservation SET accounts = '{9}' WHERE id = 'r7/1'",
        "UPDATE attempt SET cost = 61 WHERE request_id = 'r7'",
        "UPDATE attempt SET cost = NULL WHERE request_id = 'r7'",
        "DELETE FROM attempt WHERE request_id = 'r7'",
        "DELETE FROM reservation WHERE id = 'r7/1'",
        "DELETE FROM request WHERE request_id = 'r7'",
        "DELETE FROM account",
        "INSERT INTO entry (reservation, kind, amount, time) SELECT seq, 'CORRECT', -60, 0"
        " FROM reservation WHERE id = 'r7/1'",
        "INSERT INTO entry (reservation, kind, amount, time) VALUES (999999, 'POST', 60, 0)",
        "UPDATE request SET accepted = 2 WHERE request_id = 'r7'",
        "UPDATE attempt SET number = 2 WHERE request_id = 'r7'",
    ]:
        whole = ("clock", "account", "reservation", "entry", "request", "attempt")
        sql(url, "DROP SCHEMA IF EXISTS copy CASCADE", "CREATE SCHEMA copy",
            *(f"CREATE TABLE copy.{name} AS TABLE tiered_router.{name}" for name in whole),
            f"SET search_path = copy; {change}")  # fmt: skip
        seen = verify_in(url, "copy")
        assert seen != [], change


def verify_in(url: str, schema: str) -> list[str]:
    """What `verify` finds in a copy of the tables that lacks their constraints."""
    from router.ledger.postgres import verify

    found = []
    with psycopg.connect(url) as connection:
        connection.execute(f"SET search_path = {schema}")
        for check in verify._CHECKS:
            found += [row[0] for row in connection.execute(check).fetchall()]
    return found


def test_entries_are_append_only(url):
    reserve(open_ledger(url, BUDGETS), "a", 100)
    for change in ("UPDATE %s SET amount = 0", "DELETE FROM %s", "TRUNCATE %s"):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
            sql(url, change % "tiered_router.entry")


def _begin(url, name, answers):
    ledger = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    answers.put(reserve(ledger, name, 100).amount)


def test_of_processes_that_make_one_store_at_once_all_get_the_same(url):
    assert run_all(_begin, [(url, f"r{n}") for n in range(8)]) == [100] * 8
    assert counters(open_ledger(url, BUDGETS)) == {ALL: (0, 800)}


def test_a_store_that_must_exist_is_not_made(url):
    assert not store_exists(url)
    with pytest.raises(ConfigurationError, match="does not exist"):
        open_ledger(url, BUDGETS, create=False)
    assert not store_exists(url)
    open_ledger(url, BUDGETS).close()
    assert store_exists(url)


def test_tables_are_in_a_schema_of_their_own_which_others_may_not_enter(url):
    open_ledger(url, BUDGETS).close()
    with psycopg.connect(url) as connection:
        made = connection.execute(
            "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class WHERE oid >= 16384"
            " AND relnamespace::regnamespace::text !~ '^pg_'"
        ).fetchall()
        entered = connection.execute(
            "SELECT has_schema_privilege('pg_monitor', 'tiered_router', 'USAGE')"
        ).fetchone()
    assert made == [("tiered_router",)]
    assert entered == (False,)


# ── the library ────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "option",
    [{"durability": "maybe"}, {"busy_seconds": 0}, {"busy_seconds": float("nan")}],
)
def test_an_option_that_makes_no_sense_is_refused(url, option):
    with pytest.raises(ConfigurationError):
        open_ledger(url, **option)


@pytest.mark.parametrize("tail", ["?nonsense=1", "?port=%zz"])
def test_a_url_that_is_none_is_refused_without_its_password(tail):
    with pytest.raises(ConfigurationError) as error:
        open_ledger(f"postgresql://ann:secret@127.0.0.1/x{tail}")
    assert "secret" not in str(error.value)
    assert "postgresql://user" in str(error.value)


def test_no_error_shows_the_password():
    port = servers.free_port()
    with pytest.raises(LedgerUnavailable) as error:
        open_ledger(f"postgresql://ann:secret@127.0.0.1:{port}/x")
    assert "secret" not in str(error.value)
    assert error.value.store == f"postgresql://127.0.0.1:{port}/x"
    with pytest.raises(ConfigurationError) as wrong:
        open_ledger("postgres://ann:secret@127.0.0.1/x")
    assert "secret" not in str(wrong.value)


def test_without_psycopg_what_to_install_is_said():
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from router.ledger import open_ledger\n"
        "open_ledger('sqlite://')\n"
        "from router.errors import ConfigurationError\n"
        "try: open_ledger('postgresql://127.0.0.1/x')\n"
        "except ConfigurationError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tiered-router[postgres]" in done.stdout


def run(capsys, *arguments) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_the_command_line_reads_a_store_by_its_url(url, capsys):
    ledger = open_ledger(url, BUDGETS, busy_seconds=PATIENCE)
    reserve(ledger, "a", 100)
    settle(ledger, "a", 60)
    code, out = run(capsys, "budget", url, "--json")
    assert (code, json.loads(out)[0]["used_nano"]) == (0, 60)
    assert run(capsys, "budget", "set", url, "all", "1", "--json")[0] == 0
    assert run(capsys, "budget", "credit", url, "all", "0.00000001", "--note", "x")[0] == 0
    code, out = run(capsys, "budget", "audit", url, "--json")
    assert [(row["kind"], row["amount"]) for row in json.loads(out)] == [
        ("limit", 10**9),
        ("credit", 10),
    ]
    assert run(capsys, "ledger", "verify", url) == (0, "sound\n")
    sql(url, "UPDATE tiered_router.account SET settled = 61")
    code, out = run(capsys, "ledger", "verify", url)
    assert code == 1
    assert "settled 61" in out


def test_a_router_spends_from_it_and_explains_without_making_it(url, provider, capsys):
    policy = ladder(provider.url, budgets=[{"name": "all", "limit": "1"}])
    with Router(policy, store=url, predictor=steady_predictor()) as router:
        assert router.explain(HELLO).arm
        assert not store_exists(url)
        router.completion(messages=HELLO)
        assert router.explain(HELLO).arm
        [state] = router.budgets()
        assert state.settled > 0
        code, out = run(capsys, "report", url, "--json")
        assert (code, json.loads(out)["realized_nano"]) == (0, state.settled)
        assert router.ledger.verify() == []
