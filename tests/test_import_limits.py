"""datasette-llm-limits' rules as budgets: each can be written, and decides alike."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router, load_policy
from router.cli import main
from router.errors import BudgetExceeded, PolicyError
from router.ledger import open_ledger
from router.policy.budgets import BudgetLimit
from router.policy.document import read_text
from router.policy.import_limits import import_limits
from tests.conftest import HELLO, MakeRouter, ladder
from tests.ledger_kit import NOW, reserve
from tests.pipeline_kit import PIN_NANO
from tests.provider import Provider

WINDOWS = {
    "rolling-24h": timedelta(hours=24),
    "rolling-7d": timedelta(days=7),
    "rolling-30d": timedelta(days=30),
    "calendar-day": None,
    "calendar-week": None,
    "calendar-month": None,
}
CONFIGURATION = {
    "day of a user": {"scope": "actor", "window": "rolling-24h", "amount_usd": 1.5},
    "month of all": {"scope": "instance", "window": "calendar-month", "amount_usd": 250},
    "nightly": {
        "scope": "actor", "window": "calendar-week", "amount_usd": 0.1, "purpose": "enrichment",
    },
    "pro": {"scope": "instance", "window": "rolling-7d", "amount_usd": 10, "model_id": "gpt-pro"},
}  # fmt: skip
BUDGETS = [
    {"name": "day of a user", "limit": "1.5", "window": "rolling", "seconds": 86_400,
     "scope": "user", "when": {"user": "*"}},
    {"name": "month of all", "limit": "250", "window": "month", "scope": "global"},
    {"name": "nightly", "limit": "0.1", "window": "week", "scope": "user",
     "when": {"user": "*", "tag": "enrichment"}},
    {"name": "pro", "limit": "10", "window": "rolling", "seconds": 604_800, "scope": "global",
     "when": {"model": "gpt-pro"}},
]  # fmt: skip


def written(tmp_path: Path, content: Any, name: str = "datasette.yaml") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    "wrapped",
    [
        {"plugins": {"datasette-llm-limits": {"limits": CONFIGURATION}}, "databases": {}},
        {"datasette-llm-limits": {"limits": CONFIGURATION}},
        {"limits": CONFIGURATION},
        CONFIGURATION,
    ],
)
def test_limits_become_budgets_wherever_they_stand(tmp_path: Path, wrapped: Any) -> None:
    assert import_limits(written(tmp_path, wrapped)) == BUDGETS
    assert import_limits(written(tmp_path, json.dumps(wrapped), "datasette.json")) == BUDGETS


# ── the same decisions ─────────────────────────────────────────────────────────────────────────
def start_of(window: str, now: float) -> float:
    """When a window of theirs began that holds `now`."""
    moment = datetime.fromtimestamp(now, UTC)
    length = WINDOWS[window]
    if length is not None:
        return (moment - length).timestamp()
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "calendar-week":
        day -= timedelta(days=day.weekday())
    return (day.replace(day=1) if window == "calendar-month" else day).timestamp()


def concerns(limit: dict[str, Any], call: dict[str, Any]) -> bool:
    """Whether a limit of theirs is about a call."""
    return (
        limit.get("purpose") in (None, call["purpose"])
        and limit.get("model_id") in (None, call["model"])
        and (limit["scope"] == "instance" or bool(call["actor"]))
    )


def used(limit: dict[str, Any], call: dict[str, Any], past: list[Any], slack: float = 0) -> int:
    since = start_of(limit["window"], call["now"]) - slack
    return sum(
        each["amount"]
        for each in past
        if each["now"] >= since
        and concerns(limit, each)
        and (limit["scope"] == "instance" or each["actor"] == call["actor"])
    )


LIMITS = st.fixed_dictionaries(
    {
        "scope": st.sampled_from(["actor", "instance"]),
        "window": st.sampled_from(list(WINDOWS)),
        "amount_usd": st.sampled_from([1e-7, 2e-7, 5e-7]),
    },
    optional={
        "purpose": st.sampled_from(["chat", "enrich"]),
        "model_id": st.sampled_from(["small", "large"]),
    },
)
CALLS = st.fixed_dictionaries(
    {
        "pause": st.sampled_from([0.0, 600.0, 21_600.0, 43_200.0, 86_400.0, 400_000.0]),
        "actor": st.sampled_from([None, "ann", "bob"]),
        "purpose": st.sampled_from([None, "chat", "enrich"]),
        "model": st.sampled_from(["small", "large"]),
        "amount": st.integers(1, 150),
    }
)


@settings(max_examples=80, deadline=None)
@given(limits=st.lists(LIMITS, min_size=1, max_size=3), calls=st.lists(CALLS, max_size=25))
def test_every_kind_of_limit_admits_and_refuses_the_same_calls(
    tmp_path_factory: pytest.TempPathFactory, limits: list[Any], calls: list[Any]
) -> None:
    """Calendar windows exactly; rolling ones never more, and less by at most a sixtieth."""
    named = {f"limit {at}": limit for at, limit in enumerate(limits)}
    file = written(tmp_path_factory.mktemp("limits"), named)
    budgets = [BudgetLimit.model_validate(each).to_budget() for each in import_limits(file)]
    ledger = open_ledger("sqlite://", budgets)
    now, past = NOW, []
    for at, call in enumerate(calls):
        now += call["pause"]
        call = {**call, "now": now}
        scopes = {
            "user": call["actor"] or "",
            "tag": (call["purpose"],) if call["purpose"] else (),
            "model": (f"openai/{call['model']}",),
        }
        about = [limit for limit in limits if concerns(limit, call)]

        def full(slack: bool, about: list[Any] = about, call: dict[str, Any] = call) -> bool:
            return any(
                used(limit, call, past, _bucket(limit) if slack else 0) + call["amount"]
                > round(limit["amount_usd"] * 1e9)
                for limit in about
            )

        try:
            reserve(ledger, f"r{at}", call["amount"], scopes=scopes, now=now, ttl=1e9)
        except BudgetExceeded:
            assert full(slack=True)
        else:
            assert not full(slack=False)
            past.append(call)
    ledger.close()


def _bucket(limit: dict[str, Any]) -> float:
    length = WINDOWS[limit["window"]]
    return 0.0 if length is None else length.total_seconds() / 60


def test_an_imported_policy_limits_real_calls(
    make_router: MakeRouter, provider: Provider, tmp_path: Path
) -> None:
    limit = {
        "scope": "actor", "window": "calendar-day", "amount_usd": 0.0001, "purpose": "enrich",
        "model_id": "t-nano",
    }  # fmt: skip
    router = make_router(budgets=import_limits(written(tmp_path, {"l": limit})), rules=[PIN_NANO])
    full = {"scopes": {"user": "ann"}, "tags": ["enrich"]}
    for free in ({"tags": ["enrich"]}, {"scopes": {"user": "ann"}}):
        router.completion(messages=HELLO, **free)
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO, **full)
    assert (caught.value.budget, caught.value.scope_value) == ("l", "ann")
    assert isinstance(router, Router)
    assert len(provider.wire) == 2


# ── what cannot be said ────────────────────────────────────────────────────────────────────────
GOOD: dict[str, Any] = {"scope": "actor", "window": "rolling-24h", "amount_usd": 1}


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        ({"scope": "team"}, "limits.x.scope", "'team'"),
        ({"scope": None}, "limits.x.scope", "null"),
        ({"window": "rolling-1h"}, "limits.x.window", "rolling-24h"),
        ({"amount_usd": 0}, "limits.x.amount_usd", "0"),
        ({"amount_usd": -1}, "limits.x.amount_usd", "-1"),
        ({"amount_usd": "5"}, "limits.x.amount_usd", "'5'"),
        ({"amount_usd": True}, "limits.x.amount_usd", "true"),
        ({"amount_usd": 1e-11}, "limits.x.amount_usd", "nano-dollar"),
        ({"amount_usd": 1e9}, "limits.x.amount_usd", "largest"),
        ({"purpose": 7}, "limits.x.purpose", "7"),
        ({"model_id": "*"}, "limits.x.model_id", "'*'"),
        ({"colour": "red"}, "limits.x.colour", "colour"),
        ({"model": "m"}, "limits.x.model", "model_id"),
    ],
)
def test_what_no_budget_can_say_is_named_with_its_key_and_line(
    tmp_path: Path, change: dict[str, Any], key: str, says: str
) -> None:
    file = written(tmp_path, {"limits": {"ok": GOOD, "x": {**GOOD, **change}}})
    with pytest.raises(PolicyError, match=r"datasette\.yaml:") as caught:
        import_limits(file)
    assert caught.value.key == key
    assert says in str(caught.value)
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"plugins": {"datasette-x": {}}}, "plugins"),
        ({"limits": [1]}, "limits"),
        ({"limits": {"x": 5}}, "limits.x"),
        ({"limits": {"x": {"scope": "actor", "window": "rolling-24h"}}}, "limits.x"),
        ({"limits": {"n" * 101: GOOD}}, "limits." + "n" * 101),
        ("limits: &a {}", "limits"),
    ],
)
def test_a_file_that_holds_no_limits_is_refused(tmp_path: Path, content: Any, key: str) -> None:
    with pytest.raises(PolicyError) as caught:
        import_limits(written(tmp_path, content))
    assert caught.value.key == key


# ── the command ────────────────────────────────────────────────────────────────────────────────
def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["policy", "import-limits", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_prints_budgets_or_appends_them_to_a_policy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, policy = written(tmp_path, CONFIGURATION), tmp_path / "mine.yaml"
    code, out, _ = run(capsys, file)
    assert (code, yaml.safe_load(out)) == (0, {"budgets": BUDGETS})
    assert json.loads(run(capsys, file, "--json")[1]) == {"budgets": BUDGETS, "out": None}
    mine = ladder("http://127.0.0.1:1/v1")
    mine["tiers"]["frontier"][0]["model"] = "openai/gpt-pro"
    before = "# mine\n" + yaml.safe_dump(mine)
    policy.write_text(before)
    code, out, _ = run(capsys, file, "--out", policy)
    assert (code, out) == (0, f"4 budgets written to {policy}\n")
    assert policy.read_text().startswith(before)
    assert [budget.name for budget in load_policy(policy).budgets] == list(CONFIGURATION)
    code, out, err = run(capsys, file, "--out", policy)
    assert (code, out) == (1, "")
    assert "budgets already" in err
    new = tmp_path / "new.yaml"
    assert run(capsys, file, "--out", new)[0] == 0
    assert yaml.safe_load(new.read_text()) == {"budgets": BUDGETS}


@pytest.mark.parametrize(
    "before",
    ["{version: 1, tiers: {nano: []}}\n", "version: 1\n...\n", "  version: 1\n  name: x\n"],
)
def test_a_policy_that_nothing_can_be_appended_to_is_left_as_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, before: str
) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text(before)
    code, out, err = run(capsys, written(tmp_path, CONFIGURATION), "--out", policy)
    assert (code, out, policy.read_text()) == (1, "", before)
    assert "mine.yaml: budgets: nothing can be put at its end" in err


@pytest.mark.parametrize(
    "name", ["1e3", "+7", ".5", "null", "0x10", "yes", "-0.0", ".inf", "=", "5."]
)
def test_a_name_that_looks_like_a_number_stays_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    file = written(tmp_path, json.dumps({"limits": {name: {**GOOD, "purpose": name}}}))
    code, out, _ = run(capsys, file)
    (budget,) = read_text(out, "budgets").data["budgets"]
    assert (code, budget["name"], budget["when"]["tag"]) == (0, name, name)


def test_the_command_says_what_is_wrong_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = written(tmp_path, {"x": {**GOOD, "window": "hourly"}})
    code, out, err = run(capsys, file)
    assert (code, out) == (1, "")
    assert "x.window" in err
    assert run(capsys, tmp_path / "none.yaml")[0] == 1
    assert run(capsys)[0] == 2
