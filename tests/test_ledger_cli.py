"""`router budget` and `router ledger verify` on stores that are sound, damaged, new or missing."""

from __future__ import annotations

import json
import sqlite3

import pytest

from router.cli import main
from router.ledger import open_ledger
from router.types import Budget
from tests.ledger_kit import reserve, settle, url


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
