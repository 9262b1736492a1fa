"""`router chat PROMPT`: one routed call."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from router.cli.explain import as_dict, messages_of
from router.cli.output import as_written, emit, json_option, progress_console
from router.money import format_usd
from router.pipeline import Router


@click.command("chat")
@click.argument("prompt")
@click.option("--policy", default="default", show_default=True, help="A file or shipped policy.")
@click.option("--store", help="Where budgets and log live; the policy's own store by default.")
@click.option("--system", help="A system prompt.")
@click.option("--max-tokens", type=int, help="The answer's cap in tokens.")
@click.option("--user", help="Whose budget pays, where the policy has budgets by user.")
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
    """Send PROMPT ('-' reads standard input) to the tier that the policy chooses."""
    messages = messages_of(prompt, system)
    with Router(policy, store=store) as router, progress_console().status("waiting…"):
        response = router.completion(
            messages=messages,
            max_tokens=max_tokens,
            scopes={"user": user} if user else None,
        )
    routing = router.decision(response)
    # What all calls cost; of an answer of unknown cost it is not known.
    spent = None if routing.cost is None else routing.spent
    text = response.choices[0].message.content or ""
    data = {
        "request_id": routing.request_id,
        "answer": text,
        "cost_nano": routing.cost,
        "spent_nano": spent,
        "attempts": routing.attempts,
        **as_dict(routing.decision),
    }

    def render(console: Console) -> None:
        click.echo(text)
        if sys.stderr.isatty():
            progress_console().print(
                f"[dim]{as_written(routing.decision.reason)}; cost {format_usd(spent)}[/]"
            )

    emit(data, as_json, render)
