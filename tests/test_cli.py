"""The command line: results on standard output, JSON on request, exit codes that mean something."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from rich.console import Console
from rich.table import Table

from router import Router
from router.cli import cli, main
from router.cli.output import print_table
from router.errors import ConfigurationError, InvalidRequest, PolicyError
from router.money import format_usd
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import BUDGET, PIN_NANO, cancel_once_sent
from tests.provider import Provider, ok, status
from tests.test_streams import wait_until_settled


@pytest.fixture
def policy(provider: Provider, tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    content = ladder(provider.url, budgets=BUDGET, rules=[PIN_NANO])
    content["log"] = {"store": f"sqlite:///{tmp_path / 'cli.db'}"}
    path.write_text(yaml.safe_dump(content))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_chat_prints_the_answer_and_nothing_else(
    capsys: pytest.CaptureFixture[str], policy: Path
) -> None:
    code, out, _ = run(capsys, "chat", "Hello", "--policy", str(policy))
    assert (code, out) == (0, "a fine answer\n")


def test_chat_as_json_says_how_it_was_routed(
    capsys: pytest.CaptureFixture[str], policy: Path
) -> None:
    said = run_json(capsys, "chat", "Hello", "--policy", str(policy))
    assert said["answer"] == "a fine answer"
    assert (said["tier"], said["rule"], said["attempts"]) == ("nano", "pin", 1)
    assert said["cost_nano"] > 0


def test_chat_says_what_all_calls_of_the_request_cost(
    capsys: pytest.CaptureFixture[str], policy: Path, provider: Provider
) -> None:
    provider.script("t-nano", ok(cut=True), ok())  # the first may be billed all the same
    said = run_json(capsys, "chat", "Hello", "--policy", str(policy))
    report = run_json(capsys, "report", str(policy.parent / "cli.db"))
    assert (said["attempts"], said["answer"]) == (2, "a fine answer")
    assert said["spent_nano"] == report["realized_nano"] > said["cost_nano"] > 0


def test_explain_sends_nothing_and_gives_every_arm_a_reason(
    capsys: pytest.CaptureFixture[str], policy: Path, provider: Provider
) -> None:
    said = run_json(capsys, "explain", "Hello", "--policy", str(policy))
    assert [arm["rejected"] is None for arm in said["arms"]] == [True, False, False, False]
    code, out, _ = run(capsys, "explain", "Hello", "--policy", str(policy))
    assert code == 0
    assert "chosen" in out
    assert provider.wire == []
    assert list(policy.parent.glob("*.db*")) == []


def test_report_counts_what_the_log_holds(
    capsys: pytest.CaptureFixture[str],
    make_router: MakeRouter,
    provider: Provider,
    tmp_path: Path,
) -> None:
    router = make_router(rules=[PIN_NANO])
    provider.script("t-nano", status(503), ok())
    for tag in ("a", "a", "b"):
        router.feedback(router.completion(messages=HELLO, tags=[tag]), 1.0)
    spent = router.report().total.spent
    router.close()
    store = str(tmp_path / "router.db")
    said = run_json(capsys, "report", store)
    assert (said["requests"], said["attempts"]) == (3, 4)
    assert said["realized_nano"] == spent
    assert said["by_tag"]["a"]["requests"] == 2
    assert said["by_tier"]["nano"]["realized_usd"] == pytest.approx(spent / 1e9)
    assert said["savings_usd"] == pytest.approx(said["baseline_usd"] - said["realized_usd"])
    assert said["net_savings_usd"] == said["savings_usd"] - said["overhead_usd"]
    code, out, _ = run(capsys, "report", store)
    assert code == 0
    assert "Saved" in out
    assert said["per_answer_usd"] == said["per_good_answer_usd"] == pytest.approx(spent / 3e9)
    assert f"{format_usd(round(spent / 3))} an accepted answer" in out.replace("\n", " ")


def test_names_in_brackets_are_shown_as_they_are_written(
    capsys: pytest.CaptureFixture[str], policy: Path
) -> None:
    odd = "[red] [/no] tag"
    content = {**yaml.safe_load(policy.read_text()), "name": odd}
    content["rules"] = [{"name": odd, "when": {"regex": "."}, "tier": "nano"}]
    policy.write_text(yaml.safe_dump(content))
    code, out, _ = run(capsys, "policy", "check", str(policy))
    assert (code, f"{odd}@" in out) == (0, True)
    code, out, _ = run(capsys, "explain", "Hello", "--policy", str(policy))
    assert (code, odd in out) == (0, True)
    with Router(policy) as router:
        router.completion(messages=HELLO, tags=[odd])
    code, out, _ = run(capsys, "report", content["log"]["store"])
    assert (code, odd in out) == (0, True)


def test_a_tag_that_no_text_can_hold_ends_no_report(
    capsys: pytest.CaptureFixture[str], make_router: MakeRouter, tmp_path: Path
) -> None:
    """Half an emoji, as programs make that cut text by UTF-16: refused, and the refusal logged."""
    with pytest.raises(InvalidRequest):
        make_router().completion(messages=HELLO, tags=["\ud83d"])
    store = str(tmp_path / "router.db")
    assert run_json(capsys, "report", store)["refused"] == 1
    code, out, _ = run(capsys, "report", store)
    assert code == 0
    out.encode()


def test_an_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "explain", "Hello", "--policy", "no-such-policy")
    assert (code, out) == (1, "")
    assert "no-such-policy" in err
    assert "Traceback" not in err


def test_an_error_as_json_carries_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "report", "no-such.db", "--json")
    assert code == 1
    assert json.loads(out)["error"]
    assert not Path("no-such.db").exists()


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "report")[0] == 2
    assert run(capsys, "no-such-command")[0] == 2


@pytest.mark.parametrize("command", ["chat", "explain"])
@pytest.mark.parametrize("prompt", ["", " \n", "-"])
def test_an_empty_prompt_is_wrong_usage_and_costs_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    policy: Path,
    provider: Provider,
    command: str,
    prompt: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    code, _, err = run(capsys, command, prompt, "--policy", str(policy))
    assert code == 2
    assert "PROMPT: the prompt is empty" in err
    assert provider.wire == []


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (None, "the prompt is empty"),  # closed
        (b"caf\xe9", "standard input is not utf-8 text: byte 3 is odd"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_standard_input_without_a_text_is_wrong_usage(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    policy: Path,
    provider: Provider,
    stdin: bytes | None,
    said: str,
    errors: str,
) -> None:
    given = stdin and io.TextIOWrapper(io.BytesIO(stdin), "utf-8", errors)
    monkeypatch.setattr("sys.stdin", given)
    code, _, err = run(capsys, "chat", "-", "--policy", str(policy))
    assert code == 2
    assert said in err
    assert provider.wire == []


def test_no_colour_leaves_a_terminal(capsys: pytest.CaptureFixture[str], policy: Path) -> None:
    _, out, err = run(capsys, "explain", "Hello", "--policy", str(policy))
    assert "\x1b" not in out + err


def test_a_missing_key_of_a_real_provider_is_clear_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router.errors import AuthenticationFailed

    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    with Router("openai", store=str(tmp_path / "r.db")) as router:
        with pytest.raises(AuthenticationFailed, match="API_KEY"):
            router.completion(messages=HELLO)
        assert router.report().total.spent == 0
        assert all(state.held == state.settled == 0 for state in router.budgets())


# ── what a person reads ────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("as_json", [True, False])
def test_an_answer_that_was_paid_for_is_printed_whatever_the_output_can_encode(
    monkeypatch: pytest.MonkeyPatch, policy: Path, provider: Provider, encoding: str, as_json: bool
) -> None:
    provider.default = ok(text="42 😀 \ud83d")  # the last is half a character
    page = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(page, encoding, write_through=True))
    monkeypatch.setattr("sys.stderr", None)  # closed, as under `2>&-`
    with pytest.raises(SystemExit) as ended:
        main(["chat", "Hello", "--policy", str(policy), *["--json"] * as_json])
    assert not ended.value.code
    said = page.getvalue().decode(
        "ascii" if as_json and encoding == "ascii" else "utf-8", "replace"
    )
    assert (json.loads(said)["answer"] if as_json else said).startswith("42 ")
    assert not as_json or "😀" in json.loads(said)["answer"]


def test_a_table_is_printed_whatever_the_output_can_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(page, "ascii", write_through=True))
    with pytest.raises(SystemExit) as ended:
        main(["prices", "show"])
    assert not ended.value.code
    assert b"claude-" in page.getvalue()


def test_a_command_whose_output_is_closed_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["prices", "show"])
    assert not ended.value.code


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_figure_is_cut_where_a_terminal_is_narrow(columns: int) -> None:
    figures = ["$0.00035", "$1,234,567.89", "60 requests"]
    table = Table("model", box=None, pad_edge=False)
    for name in ("expected", "at most", "limit"):
        table.add_column(name, justify="right")
    table.add_column("why not")
    table.add_row("hosted_vllm/openai/gpt-oss-120b", *figures, "a loss that weighs $0.0092")
    page = io.StringIO()
    print_table(Console(file=page, force_terminal=True, width=columns, color_system=None), table)
    said = page.getvalue()
    assert [figure for figure in figures if figure not in said] == []
    assert "…" not in said


def test_explain_asks_the_budget_of_the_user_that_is_named(
    capsys: pytest.CaptureFixture[str], provider: Provider, tmp_path: Path
) -> None:
    content = ladder(provider.url)
    each = {"name": "each", "limit": "1", "scope": "user", "on_exceed": "downgrade"}
    content["budgets"] = [{**each, "value": "ann", "limit": "0"}, {**each, "name": "others"}]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content))
    words = ("explain", "Hello", "--policy", str(tmp_path / "p.yaml"))
    assert run(capsys, *words, "--user", "bob")[0] == 0
    code, _, err = run(capsys, *words, "--user", "ann")
    assert code == 1
    assert "budget 'each'" in err


def test_python_runs_the_package_as_the_command() -> None:
    words = [sys.executable, "-m", "router", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.endswith(f"version {version('tiered-router')}\n")


def test_every_command_that_prints_takes_json(capsys: pytest.CaptureFixture[str]) -> None:
    def leaves(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from leaves(command, *path, name)
            else:
                yield (*path, name), command

    options = {path: {each.name for each in found.params} for path, found in leaves(cli)}
    assert [path for path, names in options.items() if "as_json" not in names] == []
    assert run_json(capsys, "policy", "schema")["title"]


# ── wrong usage, and places that cannot be written ──────────────────────────────────────────────
@pytest.mark.parametrize("command", [("report",), ("export", "--out", "{folder}/out"), ("replay",)])
def test_days_in_the_wrong_order_are_wrong_usage_and_leave_nothing_behind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    words = [each.format(folder=tmp_path) for each in command]
    days = ["--since", "2026-12-01", "--until", "2026-11-01"]
    code, _, err = run(capsys, words[0], str(tmp_path / "x.db"), *words[1:], *days)
    assert code == 2
    assert "2026-11-01 is not after --since 2026-12-01" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [("--policy", "default"), ("--yes",)])
def test_the_demos_options_for_real_models_are_refused_without_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    code, _, err = run(capsys, "demo", "--html", str(tmp_path / "a.html"), *options)
    assert code == 2
    assert "go with --live" in err


def test_a_page_that_cannot_be_written_costs_the_demo_none_of_its_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, "demo", "--requests", "2", "--html", "/dev/full")
    assert code == 1
    assert "2 requests" in out
    assert "/dev/full cannot be written" in err


def test_a_log_that_does_not_exist_is_said_not_to_exist(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "replay", str(tmp_path / "nosuch.db"), "--policy", "default")
    assert code == 1
    assert "does not exist" in err


@pytest.mark.parametrize(
    ("key", "home"),
    [("vote", "a deployment"), ("stream", "`cascade`"), ("logprobs", "a deployment|`cascade`")],
)
def test_a_key_that_is_written_too_high_is_told_where_it_belongs(
    capsys: pytest.CaptureFixture[str], policy: Path, key: str, home: str
) -> None:
    policy.write_text(policy.read_text() + f"{key}: buffer\n")
    code, out, err = run(capsys, "policy", "check", str(policy))
    assert code == 1
    assert re.search(rf"unknown key '{key}'; it belongs in ({home})", out + err)


def test_a_model_that_is_not_where_the_policy_says_is_found_by_the_check(
    capsys: pytest.CaptureFixture[str], policy: Path
) -> None:
    policy.write_text(policy.read_text() + "predictor: {path: nosuch}\n")
    _, out, err = run(capsys, "policy", "check", str(policy))
    assert "predictor.path" in out + err
    assert "nosuch/model.json" in out + err


def test_a_promise_that_the_shipped_predictor_cannot_back_is_found_by_the_check(
    capsys: pytest.CaptureFixture[str], policy: Path
) -> None:
    content = yaml.safe_load(policy.read_text())
    content["objective"] = {"keep_quality": 0.98, "confidence": 0.95}
    policy.write_text(yaml.safe_dump(content))
    _, out, err = run(capsys, "policy", "check", str(policy))
    assert "nothing but always-baseline can be promised" in out + err


# ── calls that brought no answer ───────────────────────────────────────────────────────────────
def test_a_call_that_was_cancelled_before_its_answer_saved_nothing(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO], streams={"on_abandon": "abort"})
    provider.default = ok(delay=0.5)
    cancel_once_sent(provider, lambda: router.acompletion(messages=HELLO))
    provider.default = ok(chunk_delay=0.2)
    router.completion(messages=HELLO, stream=True).close()  # unread
    left = iter(router.completion(messages=HELLO, stream=True))
    next(left)
    left.close()  # a part was handed out
    wait_until_settled(router, 3)
    report = router.report()
    assert (report.total.requests, report.failed) == (1, 2)
    [served] = [each for each in router.ledger.log().requests() if each.served]
    assert report.total.baseline == served.baseline


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scopes": "ann"}, "scopes"),
        ({"tags": "support"}, "tags"),
        ({"tags": 5}, "tags"),
        ({"metadata": "sales"}, "metadata"),
        ({"metadata": 5}, "metadata"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(
    make_router: MakeRouter, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        make_router().completion(messages=HELLO, **arguments)
    with pytest.raises(ConfigurationError, match="checks"):
        make_router(checks=lambda request, answer: True)


def test_a_router_says_what_a_policy_and_a_store_may_be(
    make_router: MakeRouter, provider: Provider, tmp_path: Path
) -> None:
    for policy in (None, 5):
        with pytest.raises(PolicyError, match="a shipped policy, or a mapping"):
            Router(policy)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="store 5 is neither a URL nor a path"):
        make_router(store=5)
    router = make_router(store=tmp_path / "here.db", rules=[PIN_NANO])
    router.completion(messages=HELLO, tags=None, metadata=None, scopes=None)
    assert (tmp_path / "here.db").exists()
