"""`router policy`: check and compare policies, print the format's JSON Schema, import limits."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.cli.output import as_written, emit, json_option
from router.cli.policy_diff import diff
from router.errors import PolicyError

if TYPE_CHECKING:
    from rich.console import Console

    from router.policy import Policy

# What nobody would call hard, and what nobody would call easy: where they go shows what an
# objective means.
TRIED = {
    "easy": "What is the capital of France?",
    "hard": "Prove that there are infinitely many primes that leave 3 when divided by 4.",
}


@click.group("policy")
def command() -> None:
    """Check policy files, and what a change of one would do."""


command.add_command(diff)


@command.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@json_option
def check(files: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Check each FILE (a path, or a shipped policy's name) and say what is wrong or unwise.

    Of a good one it says which tiers an easy and a hard request would go to.

    Exit code 1 if a file has an error, or with --strict a warning.
    """
    from router.prices import load_book

    book, now = load_book(), time.time()
    results = [_check(file, book, now) for file in files]
    emit(results, as_json, lambda console: _print(results, console))
    fatal = {"error", "warning"} if strict else {"error"}
    if any(finding["severity"] in fatal for each in results for finding in each["findings"]):
        sys.exit(1)


@command.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a policy file, for editors; it is JSON anyway."""
    from router.policy.json_schema import json_schema

    emit(json_schema(), True, lambda console: None)


@command.command("import-limits")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="A policy without budgets, or none.")
@json_option
def import_limits(file: Path, out: Path | None, as_json: bool) -> None:
    """Turn the limits of datasette-llm-limits in FILE into a policy's `budgets`.

    FILE is datasette.yaml, the plugin's part of it, or the limits alone, in YAML or JSON. They are
    printed, or with --out appended to a policy that has none (or written to a new file).

    Callers name the user in `scopes`, and the purpose as a tag.
    """
    from router.policy.import_limits import as_text, import_limits

    budgets = import_limits(file)
    text = as_text(budgets)
    if out is not None:
        _append(out, text)
    where = "" if out is None else f"{len(budgets)} budgets written to {out}"
    emit(
        {"budgets": budgets, "out": None if out is None else str(out)},
        as_json,
        lambda console: console.print(where or text.rstrip(), markup=False),
    )


def _append(policy: Path, text: str) -> None:
    """Write `budgets` at the end of a policy; whatever else is in it stays as it is."""
    from router.policy.document import read_text
    from router.policy.loader import text_of

    before = ""
    if policy.exists():
        before = text_of(policy)
        if "budgets" in read_text(before, str(policy)).data:
            raise PolicyError(str(policy), "budgets", "there are budgets already", allowed="none")
        before = before.rstrip("\n") + "\n\n"
    try:
        read_text(before + text, str(policy))
    except PolicyError as error:  # one in braces, say, or with an end marker
        raise PolicyError(
            str(policy), "budgets", f"nothing can be put at its end: {error.problem}",
            allowed="a policy in lines, or no --out: the budgets are printed then",
        ) from None  # fmt: skip
    try:
        policy.write_text(before + text, "utf-8")
    except OSError as error:
        raise PolicyError(str(policy), "", f"cannot be written: {error.strerror}") from None


def _check(file: str, book: Any, now: float) -> dict[str, Any]:
    from router.policy.lint import lint
    from router.policy.loader import policy_problems

    policy, problems = policy_problems(file, book=book, now=now)
    findings = [
        {
            "severity": "error",
            "file": problem.file,
            "line": problem.line,
            "key": problem.key,
            "message": problem.problem,
            "allowed": problem.allowed,
        }
        for problem in problems
    ]
    if policy is not None:
        findings += [
            {"severity": found.severity, "file": file, "key": found.key, "message": found.message}
            for found in lint(policy, book, now)
        ]
        findings += _retired(policy, file, now)
    good = policy is not None and not problems
    tried: dict[str, str] = {}
    if policy is not None and good:
        tried, note = _try(policy)
        if note:
            findings.append({"severity": "note", "file": file, "key": "objective", "message": note})
    return {
        "file": file,
        "ok": good,
        "policy": policy.stamp if policy is not None and good else None,
        "tried": tried,
        "arms": [arm.name for arm in policy.arms()] if policy is not None else [],
        "findings": findings,
    }


def _retired(policy: Policy, file: str, now: float) -> list[dict[str, Any]]:
    """Deployments whose models are no longer there, by litellm's map; of one's own servers, and of
    others' behind an `api_base`, it knows nothing."""
    from router.errors import ConfigurationError
    from router.prices.retired import retired

    named = {
        f"tiers.{arm.tier}.{arm.deployment}": arm.model
        for arm in policy.arms()
        if policy.deployment(arm).api_base is None
    }
    try:
        gone = retired(set(named.values()), now)
    except ConfigurationError:
        return []
    return [
        {"severity": "warning", "file": file, "key": key,
         "message": f"by litellm's map {model} was retired on {gone[model]}; name another model"}
        for key, model in named.items()
        if model in gone
    ]  # fmt: skip


def _try(policy: Policy) -> tuple[dict[str, str], str | None]:
    """The tiers that the requests of `TRIED` go to where no budget stands in the way, and what is
    to be noted of them; none where pacing moves the weight. Nothing is sent."""
    from router.errors import RouterError
    from router.pipeline import Router

    if policy.pacing is not None:
        return {}, None
    free = policy.model_copy(update={"budgets": ()})
    try:
        with Router(free, store="sqlite://") as router:
            found: dict[str, str] = {
                name: router.explain([{"role": "user", "content": text}]).arm.tier
                for name, text in TRIED.items()
            }
    except RouterError as error:
        return {}, f"an easy and a hard request cannot be tried: {error}"
    [tier, *others] = set(found.values())
    if others or len(policy.tiers.present) == 1:
        return found, None
    return found, (
        f"an easy request goes to {tier} and a hard one too; `router explain` shows what each tier "
        "is expected to be worth and to cost"
    )


_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def _print(results: list[dict[str, Any]], console: Console) -> None:
    from rich.text import Text

    for result in results:
        if result["ok"]:
            said = [result["file"], result["policy"]]
            said.append(", ".join(f"{name}: {tier}" for name, tier in result["tried"].items()))
            console.print(f"[green]ok[/] {as_written(' '.join(filter(None, said)))}")
        for finding in result["findings"]:
            line = f":{finding['line']}" if finding.get("line") else ""
            place = ": ".join(part for part in (finding["file"] + line, finding["key"]) if part)
            allowed = f"; allowed: {finding['allowed']}" if finding.get("allowed") else ""
            severity = finding["severity"]
            console.print(Text(severity, _STYLES[severity]), end=" ")
            console.print(Text(f"{place}: {finding['message']}{allowed}"))
