"""`router import`: what comes in agrees with the books, comes once, and says what it lacks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from router import load_policy
from router.errors import ImportFileError, LedgerUnavailable
from router.ledger import open_ledger, open_log
from router.log import LoggedRequest
from router.log.savings import savings
from router.prices import load_book
from router.replay.imports import import_files, read_files
from router.replay.imports.chat import usage_of
from router.replay.imports.planned import ELSEWHERE, Planner
from router.replay.imports.record import ImportedCall
from router.replay.imports.tally import OTHERWISE, Tally
from router.replay.imports.writer import LATENCY_UNKNOWN, Writer
from router.types import AttemptRow, Budget
from tests.import_kit import lines, run
from tests.stores import FreshStore

START = 1777629600.0  # 2026-05-01 10:00:00 UTC
NOW = START + 86_400 * 30
POLICY = {
    "version": 1,
    "objective": {"cost_weight": 5},
    "tiers": {
        "mini": [
            {"model": "openai/gpt-5.4-mini", "effort": "none"},
            {"model": "openai/gpt-5.4-mini", "effort": "high"},
        ],
        "frontier": [{"model": "openai/gpt-5.4"}, {"model": "anthropic/claude-sonnet-4-6"}],
    },
}


def line(at: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"r{at}", "time": START + at, "model": "openai/gpt-5.4-mini",
        "prompt": f"Why is {at} odd?", "input_tokens": 100, "output_tokens": 20,
        "cost_usd": "0.00123", "latency": 1.5, **changes,
    }  # fmt: skip


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(POLICY))
    return file


def logged(store: Path) -> tuple[list[LoggedRequest], list[AttemptRow]]:
    log = open_log(f"sqlite:///{store}")
    try:
        return list(log.requests()), list(log.attempts())
    finally:
        log.close()


def brought(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: list[Any], *more: object
) -> dict[str, Any]:
    """Import lines of our own into a store; what the command says."""
    file = lines(tmp_path / "in.jsonl", rows)
    code, out, err = run(
        capsys, "import", "jsonl", file, "--out", tmp_path / "s.db", "--json", *more
    )
    assert (code, err) == (0, "")
    said: dict[str, Any] = json.loads(out)
    return said


# ── from end to end ────────────────────────────────────────────────────────────────────────────
def test_import_then_report_then_verify(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
) -> None:
    rows = [
        *(line(at, label=at % 2) for at in range(8)),
        line(8, model="openai/gpt-5.4", cost_usd=None, tags=["hard"]),
        line(9, error="Timeout (504)", cost_usd=None, input_tokens=None, output_tokens=None),
    ]
    said = brought(capsys, tmp_path, rows, "--policy", policy)
    assert (said["added"], said["already_there"], said["failed_calls"]) == (10, 0, 1)
    assert said["labels_added"] == 8
    assert said["cost"] == {"reported": 8, "computed": 2, "unknown": 0}
    book = load_book().price("openai/gpt-5.4", START)
    assert book is not None
    store = tmp_path / "s.db"
    code, out, _ = run(capsys, "report", store, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["realized_nano"] == said["known_cost_nano"] > 8 * 1_230_000
    assert (report["requests"], report["failed"], report["labels"]) == (9, 1, 8)
    assert report["quality"] == 0.5
    assert set(report["by_tier"]) == {"mini", "frontier"}
    assert report["by_tier"]["frontier"]["savings_usd"] == 0  # its bill is the baseline
    assert report["unknown_baselines"] == 0
    assert json.loads(run(capsys, "ledger", "verify", store, "--json")[1])["sound"]


def test_an_imported_log_is_replayed_by_the_model_alone_and_unknown_times_stay_unknown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
) -> None:
    rows = [line(at, label=at % 2, latency=None) for at in range(60)]
    brought(capsys, tmp_path, rows, "--policy", policy)
    asked = ("replay", tmp_path / "s.db", "--policy", policy, "--json")
    code, out, _ = run(capsys, *asked)
    assert code == 1
    assert "60 rows have no propensities" in json.loads(out)["policies"][0]["refused"][0]
    code, out, _ = run(capsys, *asked, "--model-only")
    [found] = json.loads(out)["policies"]
    assert code == 0
    assert "cost" in found["figures"]
    assert "latency" not in found["figures"]
    assert "direct model alone" in found["warnings"][0]


def test_what_is_logged_of_a_call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
) -> None:
    asked = line(user="ann", tags=["x"], conversation_id="c", answer="Because.")
    brought(capsys, tmp_path, [asked], "--policy", policy, "--content")
    [request], [attempt] = logged(tmp_path / "s.db")
    assert request.request_id == "jsonl:r1"
    assert (request.policy, request.purpose, request.status) == (
        "imported:jsonl",
        "serve",
        "answered",
    )
    assert (request.scopes, request.tags) == ({"user": "ann"}, ("x",))
    assert (request.conversation_id, request.accepted) == ("c", 1)
    assert request.content is not None
    assert json.loads(request.content) == [{"role": "user", "content": "Why is 1 odd?"}]
    assert attempt.answer is not None
    assert json.loads(attempt.answer) == [{"role": "assistant", "content": "Because."}]
    assert request.features["input_tokens"] > 0
    assert (request.time, request.ended) == (START + 1, START + 2.5)
    assert (attempt.time, attempt.latency, attempt.cost) == (START + 1, 1.5, 1_230_000)
    assert (attempt.cost_source, attempt.reserved) == ("reported", 1_230_000)
    assert attempt.price_book == load_book().hash
    arms = [arm.name for arm in load_policy(policy).arms()]
    assert [view["arm"] for view in request.decision] == arms
    for view in request.decision:
        assert view["propensity"] is None
        assert math.isfinite(view["quality"])
        assert view["expected"] > 0
        assert view["upper"] > view["expected"]
        assert view["rejected"] == (None if view["arm"] == request.chosen else ELSEWHERE)
    assert attempt.propensity == 0.0
    assert (attempt.arm, attempt.tier) == (request.chosen, "mini")
    assert request.baseline == request.decision[2]["expected"]


def test_without_a_policy_and_content_nothing_of_the_prompt_is_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = brought(capsys, tmp_path, [line(answer="Because.")])
    [request], [attempt] = logged(tmp_path / "s.db")
    assert (request.content, attempt.answer, request.features, request.decision) == (
        None, None, {}, (),
    )  # fmt: skip
    assert (request.chosen, attempt.tier) == ("openai/gpt-5.4-mini", "")
    assert "odd" not in (tmp_path / "s.db").read_bytes().decode("latin-1")
    assert "a policy" in [each["what"] for each in said["missing"]]


def test_a_log_of_labelled_imports_can_be_trained_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
) -> None:
    pytest.importorskip("sklearn")
    rows = [line(at, label=int(at % 3 > 0)) for at in range(40)]
    brought(capsys, tmp_path, rows, "--policy", policy, "--content")
    code, out, err = run(
        capsys, "train", "--from-log", f"sqlite:///{tmp_path}/s.db", "--out", tmp_path / "model",
        "--force", "--json",
    )  # fmt: skip
    said = json.loads(out)
    assert (code in (0, 1), err) == (True, "")
    assert said["rows"] == 40
    assert said["with_text"] == 40


# ── once ───────────────────────────────────────────────────────────────────────────────────────
def test_importing_again_adds_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
) -> None:
    rows = [line(1, label=1), line(2), line(2)]
    first = brought(capsys, tmp_path, rows, "--policy", policy)
    assert (first["added"], first["already_there"]) == (2, 1)
    before = logged(tmp_path / "s.db")
    again = brought(capsys, tmp_path, rows, "--policy", policy)
    assert (again["added"], again["already_there"], again["labels_added"]) == (0, 3, 0)
    assert logged(tmp_path / "s.db") == before


def test_an_import_s_cost_is_what_the_store_s_spend_grows_by_and_another_cost_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spent = 0
    for rows, added, otherwise in (
        ([line(1), line(1), line(2, cost_usd=None)], 2, 0),
        ([line(1), line(2, cost_usd=None), line(3)], 1, 0),
        ([line(1, cost_usd="9"), line(2), line(4, cost_usd="0.5"), line(4)], 1, 3),
    ):
        said = brought(capsys, tmp_path, rows)
        spent += said["known_cost_nano"]
        report = json.loads(run(capsys, "report", tmp_path / "s.db", "--json")[1])
        assert report["realized_nano"] == spent
        assert (said["added"], sum(said["cost"].values())) == (added, added)
        assert said["notes"].get(OTHERWISE, 0) == otherwise


CALLS = st.lists(
    st.builds(
        ImportedCall,
        id=st.text(max_size=3),
        time=st.floats(1.0, 4e9),
        model=st.sampled_from(["openai/gpt-5.4-mini", "gpt-5.4", "someone/else"]),
        usage=st.none()
        | st.builds(
            usage_of, st.integers(0, 10**6), st.integers(0, 10**6), cached=st.integers(0, 9)
        ),
        cost=st.none() | st.integers(0, 10**12),
        latency=st.none() | st.floats(0, 1e5),
        error=st.none() | st.text(max_size=5),
        label=st.none() | st.floats(0, 1),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(calls=CALLS)
def test_whatever_comes_the_books_agree_with_the_log_and_again_changes_nothing(
    calls: list[ImportedCall],
) -> None:
    ledger = open_ledger("sqlite://")
    writer = Writer(ledger, format="x", book=load_book(), now=NOW)
    written = [writer.write(call) for call in calls]
    assert ledger.verify() == []
    report = savings(ledger.log())
    new = [each for each in written if each.new]
    assert len(new) == len({call.id for call in calls})
    assert report.total.spent == sum(each.cost or 0 for each in new)
    assert report.unknown_cost == sum(each.cost is None for each in new)
    before = list(ledger.log().attempts())
    assert not any(writer.write(call).new for call in calls)
    assert list(ledger.log().attempts()) == before
    assert ledger.verify() == []
    ledger.close()


def test_a_label_that_came_later_is_added_and_somebody_elses_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    brought(capsys, tmp_path, [line(1), line(2)])
    log = open_log(f"sqlite:///{tmp_path}/s.db")
    log.feedback("jsonl:r2", 0.25, "user", now=NOW)
    log.close()
    said = brought(capsys, tmp_path, [line(1, label=1), line(2, label=1)])
    assert (said["added"], said["labels_added"]) == (0, 1)
    requests, _ = logged(tmp_path / "s.db")
    assert [request.label for request in requests] == [1.0, 0.25]


def test_a_label_is_looked_up_by_its_call_however_many_were_made_at_that_moment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [line(at, time=START, label=1) for at in range(5)]
    brought(capsys, tmp_path, rows)
    monkeypatch.setattr(
        "router.ledger.sqlite.log.SqliteLog._page", None
    )  # reads the calls of a moment
    again = brought(capsys, tmp_path, [*rows[:4], line(4, time=START, label=0)])
    assert (again["added"], again["labels_added"]) == (0, 1)


def test_an_interrupted_import_is_gone_on_with(tmp_path: Path) -> None:
    """Dead between reservation and settlement, or swept since: the call ends as it was."""
    for swept in (False, True):
        store = f"sqlite:///{tmp_path}/{swept}.db"
        ledger = open_ledger(store)
        writer = Writer(ledger, format="jsonl", book=load_book(), now=NOW)
        call = ImportedCall("x", START, "m", cost=5000, latency=1.0)

        def dies(*args: Any) -> None:
            raise LedgerUnavailable("store", "killed")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "settle", dies)
            with pytest.raises(LedgerUnavailable):
                writer.write(call)
        if swept:
            assert ledger.expire(NOW + 86_400) == 1
        assert writer.write(call).new != swept
        assert not writer.write(call).new
        assert ledger.verify() == []
        [request] = ledger.log().requests()
        assert (request.status, request.cost, request.ended) == ("answered", 5000, START + 1)
        assert ledger.expire(NOW + 86_400) == 0
        ledger.close()


def test_imported_spending_is_in_no_budget(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/s.db"
    budget = Budget("all", 1, "total", scope="global")
    with_budget = open_ledger(store, [budget])
    with_budget.close()
    ledger = open_ledger(store)
    Writer(ledger, format="x", book=load_book(), now=NOW).write(
        ImportedCall("x", START, "m", cost=5000)
    )
    assert [(state.settled, state.held) for state in ledger.states(NOW)] == [(0, 0)]
    assert ledger.verify() == []
    ledger.close()


# ── costs ──────────────────────────────────────────────────────────────────────────────────────
TOKENS = {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}}


@pytest.mark.parametrize(
    ("call", "cost", "source"),
    [
        ({"cost": 7}, 7, "reported"),
        ({"cost": 0}, 0, "reported"),
        (TOKENS, "priced", "computed"),
        ({**TOKENS, "params": {"service_tier": "batch"}}, "half", "computed"),
        ({**TOKENS, "params": {"service_tier": "made-up"}}, None, "computed"),
        ({**TOKENS, "model": "m"}, None, "computed"),
        ({**TOKENS, "time": 1.0}, None, "computed"),
        ({}, None, "computed"),
        ({"error": "failure"}, 0, "computed"),
        ({"error": "failure", "cost": 9}, 9, "reported"),
    ],
)  # fmt: skip
def test_a_cost_is_reported_computed_or_unknown_and_never_a_guess(
    tmp_path: Path, call: dict[str, Any], cost: Any, source: str
) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/s.db")
    book = load_book()
    price = book.price("openai/gpt-5.4-mini", START)
    assert price is not None
    written = Writer(ledger, format="x", book=book, now=NOW).write(
        ImportedCall(**{"id": "x", "time": START, "model": "openai/gpt-5.4-mini", **call})
    )
    whole = (1000 * price.rates.input + 100 * price.rates.output) // 1_000_000
    assert written.cost == {"priced": whole, "half": whole // 2}.get(cost, cost)
    assert written.source == source
    [attempt] = ledger.log().attempts()
    assert (attempt.cost, attempt.cost_source) == (written.cost, source)
    assert LATENCY_UNKNOWN in (attempt.note or "")
    assert ledger.verify() == []
    ledger.close()


# ── models and arms ────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("model", "effort", "arm", "several"),
    [
        ("openai/gpt-5.4", None, "frontier/0:openai/gpt-5.4", False),
        ("gpt-5.4", None, "frontier/0:openai/gpt-5.4", False),
        ("claude-sonnet-4-6", None, "frontier/1:anthropic/claude-sonnet-4-6", False),
        ("gpt-5.4-mini", "high", "mini/1:openai/gpt-5.4-mini@high", False),
        ("gpt-5.4-mini", "none", "mini/0:openai/gpt-5.4-mini@none", False),
        ("gpt-5.4-mini", None, "mini/0:openai/gpt-5.4-mini@none", True),
        ("gpt-5.4-mini", "low", "mini/0:openai/gpt-5.4-mini@none", True),
        ("openrouter/openai/gpt-5.4", None, None, False),
        ("groq/gpt-5.4", None, None, False),
        ("gpt-5.4-nano", None, None, False),
    ],
)
def test_the_arm_is_the_one_of_the_recorded_model(
    policy: Path, model: str, effort: str | None, arm: str | None, several: bool
) -> None:
    from router.predict import load_predictor

    planner = Planner(load_policy(policy), load_book(), load_predictor())
    params = {"reasoning_effort": effort} if effort else {}
    planned = planner.plan("x", ImportedCall("x", START, model, params=params))
    assert (planned.arm.name if planned.arm else None, planned.several) == (arm, several)


# ── what is wrong, and what is missing ─────────────────────────────────────────────────────────
def test_a_bad_line_stops_the_import_or_is_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = lines(tmp_path / "in.jsonl", [line(1), line(2, label=3), line(3)])
    with file.open("a") as end:
        end.write('{"id": "r4", "ti')
    store = tmp_path / "s.db"
    code, out, err = run(capsys, "import", "jsonl", file, "--out", store)
    assert (code, out) == (1, "")
    assert f"{file}:2: label: must be from 0 (bad) to 1 (good) (found 3)" in err
    assert "1 calls before it are in the store" in err
    code, out, _ = run(capsys, "import", "jsonl", file, "--out", store, "--skip-bad", "--json")
    said = json.loads(out)
    assert (code, said["added"], said["already_there"], said["bad_lines"]) == (0, 1, 1, 2)
    assert said["truncated"]
    assert [f"{file}:{number}" in text for number, text in zip((2, 4), said["bad"], strict=True)]
    code, out, _ = run(capsys, "import", "jsonl", file, "--out", store, "--skip-bad")
    assert "2 lines could not be read" in out
    assert "ends too early" in out


def test_an_error_as_json_has_its_fields(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = lines(tmp_path / "in.jsonl", [line(1, label=3)])
    code, out, _ = run(capsys, "import", "jsonl", file, "--out", tmp_path / "s.db", "--json")
    said = json.loads(out)
    assert (code, said["error"], said["file"]) == (1, "ImportFileError", str(file))
    assert (said["line"], said["field"], said["value"]) == (1, "label", "3")


def test_what_is_missing_is_said_with_counts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
) -> None:
    rows = [
        line(1, label=1),
        line(2, prompt=None, latency=None),
        line(3, model="someone/else", cost_usd=None),
        line(4, cost_usd=None, input_tokens=None, model="gpt-5.4"),
    ]
    said = brought(capsys, tmp_path, rows, "--policy", policy)
    assert {each["what"]: each["count"] for each in said["missing"]} == {
        "propensities": 4,
        "prompt text": 1,
        "labels": 3,
        "token counts": 1,
        "cost": 2,
        "latency": 1,
        "models of the policy": 1,
        "effort": 2,
    }
    means = {each["what"]: each["means"] for each in said["missing"]}
    assert "direct model" in means["propensities"]
    assert "someone/else (1)" in means["models of the policy"]
    assert "someone/else (1), gpt-5.4 (1)" in means["cost"]
    code, out, _ = run(
        capsys, "import", "jsonl", tmp_path / "in.jsonl", "--out", tmp_path / "s.db",
        "--policy", policy,
    )  # fmt: skip
    assert code == 0
    assert "missing for replay" in out
    assert "4 calls read: 0 added" in out


def test_an_import_names_models_as_they_are_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = lines(tmp_path / "in.jsonl", [line(1, model="who[/x]", cost_usd=None)])
    store = tmp_path / "s[b].db"
    code, out, _ = run(capsys, "import", "jsonl", file, "--out", store)
    assert (code, "of models: who[/x] (1)" in out, str(store) in out) == (0, True, True)


def test_requests_that_a_policy_cannot_take_are_imported_without_a_plan(tmp_path: Path) -> None:
    policy = load_policy({**POLICY, "budgets": [{"name": "b", "limit": "1", "window": "day"}]})
    from router.predict import load_predictor

    planner = Planner(policy, load_book(), load_predictor())
    call = ImportedCall(
        "x", START, "gpt-5.4", ({"role": "user", "content": "hi"},),
        params={"tools": [{"type": "web_search"}]},
    )  # fmt: skip
    planned = planner.plan("x", call)
    assert (planned.problem, planned.decision) == ("InvalidRequest", ())
    assert planned.arm is not None


def test_nothing_to_import_and_wrong_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = lines(tmp_path / "in.jsonl", [])
    assert run(capsys, "import", "jsonl", file, "--out", tmp_path / "s.db")[0] == 1
    assert run(capsys, "import", "jsonl", file)[0] == 2
    assert run(capsys, "import", "csv", file, "--out", tmp_path / "s.db")[0] == 2
    code, _, err = run(capsys, "import", "jsonl", tmp_path / "no.jsonl", "--out", tmp_path / "s.db")
    assert code == 1
    assert "no.jsonl: cannot be read" in err


def test_only_asked_for_bad_lines_are_skipped_in_the_library(tmp_path: Path) -> None:
    file = lines(tmp_path / "in.jsonl", [line(1), {"id": "x"}])
    ledger = open_ledger("sqlite://")
    writer, tally = Writer(ledger, format="jsonl", book=load_book(), now=NOW), Tally()
    with pytest.raises(ImportFileError):
        import_files(read_files("jsonl", [file]), writer, tally)
    assert tally.added == 1
    import_files(read_files("jsonl", [file]), writer, tally, skip_bad=True)
    assert (tally.added, tally.already, tally.bad) == (1, 1, 1)
    ledger.close()


def test_every_store_takes_an_import_once(store: FreshStore) -> None:
    """With its label, whether it is asked at once or by another process."""
    call = ImportedCall("x", START + 0.123456, "m", cost=5000, latency=1.0, label=0.5)
    for added in (True, False, False):
        ledger = store.open()
        written = Writer(ledger, format="jsonl", book=load_book(), now=NOW).write(call)
        assert (written.new, written.labelled) == (added, added)
        assert ledger.verify() == []
        [request] = ledger.log().requests()
        assert (request.cost, request.label) == (5000, 0.5)
        ledger.close()


@pytest.mark.parametrize("source", ["no.jsonl", "."])
def test_a_source_that_is_no_file_begins_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    out = tmp_path / "log.db"
    code, _, err = run(capsys, "import", "llm", str(tmp_path / source), "--out", str(out))
    assert code == 1
    assert ("it is a folder" if source == "." else "no such file") in err
    assert list(tmp_path.iterdir()) == []
