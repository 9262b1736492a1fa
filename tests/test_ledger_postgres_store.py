"""What a PostgreSQL store keeps: refused when another wrote it, read by the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg
import pytest

from router import Router
from router.cli import main
from router.errors import ConfigurationError, LedgerCorrupt, LedgerUnavailable
from router.ledger import open_ledger, store_exists
from router.types import Budget
from tests import servers
from tests.conftest import HELLO, ladder, steady_predictor
from tests.ledger_kit import NOW, counters, reserve, run_all, settle

ALL = ("all", "")
BUDGETS = [Budget("all", 1_000_000_000)]
PATIENCE = 60.0


@pytest.fixture
def url():
    with servers.postgres().database() as place:
        yield place


def sql(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("version", [0, 1, 3])
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
    leased = open_ledger(url, BUDGETS, busy_seconds=PATIENCE, lease=True)
    reserve(leased, "leased", 100)
    settle(leased, "leased", 60)
    leased.close()
    assert ledger.verify() == []
    for change in [
        "DELETE FROM entry WHERE kind = 'DRAW'",
        "UPDATE entry SET amount = amount - 1 WHERE kind = 'DRAW'",
        "UPDATE reservation SET amount = amount + 1 WHERE id LIKE 'lease/%'",
        "UPDATE reservation SET actual = 61 WHERE id = 'leased/1'",
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


def test_the_budgets_of_very_many_users_are_read_in_parts_that_the_server_answers_in_time(url):
    budget = Budget(r"each o'\ü", 1000, scope="user")
    ledger = open_ledger(url, [budget])
    reserve(ledger, "a", 100, scopes={"user": "ann"})
    settle(ledger, "a", 60)
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO tiered_router.account (budget, scope_value, window_id, meter, settled)"
            " SELECT %s, 'u' || n, 'total', 'usd', n FROM generate_series(1, 30000) AS n",
            (budget.name,),
        )
    found = {state.scope_value: state.settled for state in ledger.states(NOW)}
    assert len(found) == 30_001
    assert (found["ann"], found["u1"], found["u30000"]) == (60, 1, 30_000)
