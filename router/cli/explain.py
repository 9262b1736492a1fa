"""`router explain PROMPT`: the decision, without a call."""

from __future__ import annotations

import io
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from router.cli.output import as_written, emit, json_option, print_table
from router.money import format_usd
from router.pipeline import Router
from router.types import Decision


@click.command("explain")
@click.argument("prompt")
@click.option("--policy", default="default", show_default=True, help="A file or shipped policy.")
@click.option("--store", help="Where the budgets live; the policy's own store by default.")
@click.option("--system", help="A system prompt.")
@click.option("--max-tokens", type=int, help="The answer's cap in tokens.")
@click.option("--user", help="Whose budget would pay, where the policy has budgets by user.")
@json_option
def command(
    prompt: str,
    policy: str,
    store: str | None,
    system: str | None,
    max_tokens: int | None,
    user: str | None,
    as_json: bool,
) -> None:
    """Show how PROMPT ('-' reads standard input) would be routed. Nothing is sent or reserved."""
    messages, scopes = messages_of(prompt, system), {"user": user} if user else None
    with Router(policy, store=store) as router:
        decision = router.explain(messages, max_tokens=max_tokens, scopes=scopes)
    emit(as_dict(decision), as_json, lambda console: _render(decision, console))


def messages_of(prompt: str, system: str | None) -> list[dict[str, str]]:
    """The messages of a prompt from the command line; "-" is standard input. An empty one, as an
    unset variable or a pipe without output leaves it, is wrong usage: an answer to it costs too."""
    text = _standard_input() if prompt == "-" else prompt
    if not text.strip():
        raise click.BadParameter("the prompt is empty", param_hint="PROMPT")
    said = [{"role": "system", "content": system}] if system else []
    return [*said, {"role": "user", "content": text}]


def _standard_input() -> str:
    """All of it; "" where it is closed. Wrong usage where it is not text."""
    if sys.stdin is None:
        return ""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")  # by some locales odd bytes become odd characters
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        problem = f"standard input is not {error.encoding} text: byte {error.start} is odd"
        raise click.BadParameter(problem, param_hint="PROMPT") from None


def as_dict(decision: Decision) -> dict[str, Any]:
    """A decision as JSON; money in nano-USD."""
    return {
        "tier": decision.arm.tier,
        "model": decision.arm.model,
        "arm": decision.arm.name,
        "reason": decision.reason,
        "rule": decision.rule,
        "baseline_nano": decision.baseline,
        "arms": [
            {
                "arm": view.arm.name,
                "quality": view.quality,
                "expected_nano": view.quote.expected,
                "upper_nano": view.quote.upper,
                "per_good_answer_nano": view.per_good_answer,
                "output_cap": view.quote.output_cap,
                "utility": view.utility,
                "propensity": view.propensity,
                "rejected": view.rejected,
            }
            for view in decision.arms
        ],
    }


def _render(decision: Decision, console: Console) -> None:
    console.print(f"[bold green]{as_written(decision.arm.model)}[/]  {as_written(decision.reason)}")
    table = Table(box=None, pad_edge=False)
    table.add_column("arm", style="bold", no_wrap=True)
    for name in ("P(good)", "expected", "a good answer", "at most"):
        table.add_column(name, justify="right")
    table.add_column("why not")
    for view in decision.arms:
        table.add_row(
            as_written(view.arm.name),
            f"{view.quality:.3f}",
            format_usd(view.quote.expected),
            "-" if view.per_good_answer is None else format_usd(view.per_good_answer),
            format_usd(view.quote.upper),
            as_written(view.rejected) if view.rejected else "[green]chosen[/]",
        )
    print_table(console, table)
