"""`router budget` and `router ledger verify` on stores that are sound, damaged, new or missing."""

from __future__ import annotations

import json
import sqlite3

import pytest

from router.cli import main
from router.ledger import open_ledger
from router.types import Budget
from tests.ledger_kit import NOW, reserve, settle, url


@pytest.fixture
def store(tmp_path):
    place = tmp_path / "l.db"
    ledger = open_ledger(
        url(place),
        [
            Budget("all", 10_000_000_000, "total"),
            Budget("open", None),
            Budget("shut", 0),
            Budget("user", 2_000_000_000, "total", scope="user", on_exceed="downgrade"),
        ],
    )
    for name, user in {"a": "ann", "b": "[red]bob[/]"}.items():
        reserve(ledger, name, 0, scopes={"user": user})
        settle(ledger, name, 1_234_567_890)
    ledger.close()
    return place


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Run the command line; its exit code, output and errors."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_budget_prints_exact_money_as_json(store, capsys):
    code, out, _ = run(capsys, "budget", store, "--json")
    budgets = {(row["budget"], row["scope_value"]): row for row in json.loads(out)}
    assert code == 0
    assert list(budgets) == [
        ("all", ""),
        ("open", ""),
        ("shut", ""),
        ("user", "[red]bob[/]"),
        ("user", "ann"),
    ]
    everyone = budgets["all", ""]
    assert (everyone["used_usd"], everyone["used_nano"]) == ("2.46913578", 2_469_135_780)
    assert (everyone["held_usd"], everyone["limit_usd"]) == ("0", "10")
    assert (everyone["remaining_nano"], everyone["overrun_nano"]) == (7_530_864_220, 2_469_135_780)
    assert budgets["open", ""]["limit_usd"] is None
    assert budgets["user", "ann"]["on_exceed"] == "downgrade"


def test_budget_prints_a_table_for_people(store, capsys):
    code, out, _ = run(capsys, "budget", url(store))
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:7] == ["budget", "for", "window", "used", "held", "limit", "%"]
    assert lines[1].split() == ["all", "all", "total", "$2.47", "$0.00", "$10.00", "25", "never"]
    assert lines[2].split() == ["open", "all", "total", "$2.47", "$0.00", "unlimited", "never"]
    assert "[red]bob[/]" in out  # a name is shown, not interpreted


def test_budget_of_a_store_without_any_says_so(tmp_path, capsys):
    open_ledger(url(tmp_path / "l.db")).close()
    assert run(capsys, "budget", tmp_path / "l.db")[:2] == (0, "This store defines no budgets.\n")


def test_budgets_that_nobody_has_used_are_named(tmp_path, capsys):
    place, each = tmp_path / "l.db", Budget("[each]", 5, scope="user")
    open_ledger(url(place), [each]).close()
    assert run(capsys, "budget", place)[:2] == (0, "[each]: not used yet\n")
    open_ledger(url(place), [each, Budget("all", 5)]).close()
    lines = run(capsys, "budget", place)[1].splitlines()
    assert [line.split()[0] for line in lines] == ["budget", "all", "[each]:"]


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    """A store with a budget of each meter, looked at on 2027-01-15 at 08:00 UTC."""
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    place = tmp_path / "kinds.db"
    ledger = open_ledger(
        url(place),
        [
            Budget("calls", 10, "day", meter="requests", when=(("tag", "bulk"),)),
            Budget("judges", 10_000_000_000, "week", purpose="judge"),
            Budget("money", 3_000_000_000, "day", scope="user"),
            Budget("rolling", None, "rolling", seconds=7200),
            Budget("share", 250_000, scope="tier", value="frontier", meter="share"),
            Budget("tokens", 5000, "month", meter="tokens"),
        ],
    )
    for name, tier in {"a": "nano", "b": "nano", "c": "nano", "d": "frontier"}.items():
        scopes = {"user": "ann", "tag": ("bulk",), "tier": (tier,)}
        reserve(ledger, name, 500_000_000, tokens=900, scopes=scopes)
        settle(ledger, name, 250_000_000, input_tokens=100, output_tokens=50)
    reserve(ledger, "j", 70_000_000, scopes={"purpose": "judge"})
    ledger.close()
    return place


def test_budget_shows_each_in_the_unit_of_its_meter_with_a_forecast(kinds, capsys):
    code, out, _ = run(capsys, "budget", kinds)
    assert code == 0
    rows = {line.split()[0]: " ".join(line.split()) for line in out.splitlines()[1:]}
    assert rows == {
        "calls": "calls all, tag bulk 2027-01-15 4 0 10 requests 40 12 2027-01-16 00:00",
        "judges": "judges all, judge calls 2027-W02 $0.00 $0.0700 $10.00 1 $0.1131 "
        "2027-01-18 00:00",
        "money": "money user ann 2027-01-15 $1.00 $0.00 $3.00 33 $3.00 2027-01-16 00:00",
        "rolling": "rolling all last 2 h $1.00 $0.00 unlimited 2027-01-15 10:02",
        "share": "share tier frontier total 1 of 4 0 25% 100 never",
        "tokens": "tokens all 2027-01 600 0 5,000 tokens 12 1,298 2027-02-01 00:00",
    }
    shown = {row["budget"]: row for row in json.loads(run(capsys, "budget", kinds, "--json")[1])}
    assert shown["money"]["forecast_usd"] == "3"  # a third of the day, a third of the money
    assert (shown["tokens"]["meter"], shown["tokens"]["used"]) == ("tokens", 600)
    assert (shown["share"]["used"], shown["share"]["seen"]) == (1, 4)
    assert shown["rolling"]["forecast"] is shown["share"]["forecast"] is None
    assert shown["calls"]["when"] == {"tag": "bulk"}


def test_of_many_scope_values_those_that_use_most_are_shown(tmp_path, capsys):
    place = tmp_path / "l.db"
    ledger = open_ledger(url(place), [Budget("one", None, scope="request")])
    for number in range(25):
        reserve(ledger, f"r{number}", number, scopes={"request": f"r{number}"})
    ledger.close()
    out = run(capsys, "budget", place)[1]
    assert len(out.splitlines()) == 1 + 20 + 1
    assert "request r24" in out
    assert out.splitlines()[-1] == "one: 5 more that use less"
    assert len(json.loads(run(capsys, "budget", place, "--json")[1])) == 25


@pytest.mark.parametrize(
    ("name", "written", "limit"),
    [
        ("money", "12.50", 12_500_000_000),
        ("money", "$1", 1_000_000_000),
        ("calls", "7", 7),
        ("tokens", "0", 0),
        ("share", "0.5", 500_000),
        ("share", "12.5%", 125_000),
        ("money", "none", None),
    ],
)
def test_set_puts_a_limit_in_the_meter_s_unit(kinds, capsys, name, written, limit):
    code, out, _ = run(capsys, "budget", "set", kinds, name, written, "--json")
    assert code == 0
    [state] = json.loads(out)["states"]
    assert (state["budget"], state["limit"]) == (name, limit)
    assert state["own_limit"] != limit
    [entry] = json.loads(run(capsys, "budget", "audit", kinds, "--json")[1])
    assert entry == {
        "budget": name, "scope_value": None, "kind": "limit",
        "amount": -1 if limit is None else limit, "time": NOW, "by": "ann", "note": "",
    }  # fmt: skip


def test_set_for_one_value_undo_and_what_people_read(kinds, capsys):
    code, out, _ = run(capsys, "budget", "set", kinds, "money", "0.5", "--value", "bob")
    assert (code, out) == (0, "money: limit $0.5000\n")  # bob has no counters yet
    code, out, _ = run(capsys, "budget", "set", kinds, "money", "2", "--value", "ann")
    assert out.splitlines()[0] == "money: limit $2.00"
    assert "$2.00 (set)" in out
    assert "$2.00 (set)" in run(capsys, "budget", kinds)[1]
    code, out, _ = run(capsys, "budget", "set", kinds, "money", "--undo", "--value", "ann")
    assert (code, out.splitlines()[0]) == (0, "money: its own limit again")
    assert "$3.00 " in out
    run(capsys, "budget", "set", kinds, "money", "1", "--value", "")
    run(capsys, "budget", "set", kinds, "money", "3")
    lines = run(capsys, "budget", "audit", kinds)[1].splitlines()
    assert lines[0].split() == ["when", "(UTC)", "who", "budget", "for", "what", "why"]
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "2027-01-15 08:00 ann money bob limit $0.5000",
        "2027-01-15 08:00 ann money ann limit $2.00",
        "2027-01-15 08:00 ann money ann limit taken back",
        "2027-01-15 08:00 ann money (none named) limit $1.00",
        "2027-01-15 08:00 ann money all limit $3.00",
    ]


def test_credit_takes_back_what_is_settled_and_says_how_much(kinds, capsys):
    code, out, _ = run(
        capsys, "budget", "credit", kinds, "money", "0.75", "--value", "ann", "--note", "an outage",
        "--json",
    )  # fmt: skip
    said = json.loads(out)
    assert (code, said["credited"], said["states"][0]["used"]) == (0, 750_000_000, 250_000_000)
    for name, asked, says in [
        ("tokens", "9999", "tokens: credited 600 tokens"),
        ("calls", "1", "calls: credited 1 requests"),
        ("share", "1", "share: credited 1 requests"),
    ]:
        code, out, _ = run(capsys, "budget", "credit", kinds, name, asked, "--note", "x")
        assert (code, out.splitlines()[0]) == (0, says)
    code, out, _ = run(capsys, "budget", "credit", kinds, "judges", "1", "--note", "x")
    assert (code, out.splitlines()[0]) == (1, "judges: credited $0.00")  # it is held, not settled
    audit = json.loads(run(capsys, "budget", "audit", kinds, "--json")[1])
    assert [(each["budget"], each["amount"], each["note"]) for each in audit] == [
        ("money", 750_000_000, "an outage"),
        ("tokens", 600, "x"),
        ("calls", 1, "x"),
        ("share", 1, "x"),
        ("judges", 0, "x"),
    ]
    assert run(capsys, "ledger", "verify", kinds)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("set", "STORE", "money"), 2, "--undo"),
        (("set", "STORE", "money", "5", "--undo"), 2, "--undo"),
        (("set", "STORE", "money", "cheap"), 2, "cheap"),
        (("set", "STORE", "money", "0.0000000001"), 2, "nano-dollar"),
        (("set", "STORE", "calls", "1.5"), 2, "1.5"),
        (("set", "STORE", "share", "101%"), 2, "101%"),
        (("set", "STORE", "share", "half"), 2, "half"),
        (("set", "STORE", "honey", "5"), 1, "money"),
        (("set", "STORE", "calls", "5", "--value", "ann"), 1, "'ann'"),
        (("credit", "STORE", "money", "5"), 2, "--note"),
        (("credit", "STORE", "money", "-5", "--note", "x"), 2, "-5"),
        (("credit", "STORE", "honey", "5", "--note", "x"), 1, "money"),
        (("audit", "none.db"), 1, "does not exist"),
        ((), 2, "STORE"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(kinds, capsys, arguments, code, says):
    arguments = [str(kinds) if each == "STORE" else each for each in arguments]
    result, out, err = run(capsys, "budget", *arguments)
    assert (result, out) == (code, "")
    assert says in err
    assert run(capsys, "budget", "audit", kinds)[1].startswith("Nobody")


def test_verify_says_sound_and_exits_with_0(store, capsys):
    assert run(capsys, "ledger", "verify", store)[:2] == (0, "sound\n")
    code, out, _ = run(capsys, "ledger", "verify", store, "--json")
    assert (code, json.loads(out)) == (0, {"sound": True, "problems": []})


def test_verify_lists_what_is_wrong_and_exits_with_1(store, capsys):
    raw = sqlite3.connect(store)
    raw.execute("UPDATE account SET settled = settled + 1 WHERE budget = 'all'")
    raw.commit()
    raw.close()
    code, out, _ = run(capsys, "ledger", "verify", store)
    assert code == 1
    assert "budget all" in out
    assert out.splitlines()[-1] == "not sound"
    code, out, _ = run(capsys, "ledger", "verify", store, "--json")
    assert (code, json.loads(out)["sound"]) == (1, False)


@pytest.mark.parametrize("command", [("budget",), ("ledger", "verify")])
def test_a_store_that_is_missing_or_none_is_one_clear_line(tmp_path, capsys, command):
    (tmp_path / "text.db").write_text("hello, this is not a database")
    for name, says in {"none.db": "does not exist", "text.db": "not a SQLite file"}.items():
        code, out, err = run(capsys, *command, tmp_path / name)
        assert (code, out) == (1, "")
        assert says in err
        code, out, _ = run(capsys, *command, tmp_path / name, "--json")
        assert code == 1
        assert says in json.loads(out)["message"]
    assert [each.name for each in tmp_path.iterdir()] == ["text.db"]
