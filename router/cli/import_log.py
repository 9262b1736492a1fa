"""`router import`: other tools' logs become a log of the router's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.cli.output import as_written, emit, json_option, print_table, progress_console
from router.errors import ImportFileError
from router.ledger import open_ledger
from router.ledger.url import store_url
from router.money import format_usd
from router.replay.imports import FORMATS, import_files, read_files
from router.replay.imports.tally import Tally
from router.replay.imports.writer import Writer

if TYPE_CHECKING:
    from router.prices import PriceBook
    from router.replay.imports.planned import Planner

_SHOWN_EVERY = 0.2  # seconds


@click.command("import")
@click.argument("format", metavar="FORMAT", type=click.Choice(sorted(FORMATS)))
@click.argument(
    "sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--out", required=True, metavar="STORE", help="A store's URL, or a SQLite file.")
@click.option(
    "--policy",
    help="Log what this policy (a file or a shipped one) would have seen of each call.",
)
@click.option("--content", is_flag=True, help="Keep prompts and answers.")
@click.option("--score", metavar="NAME", help="Which of several scores is the label.")
@click.option("--skip-bad", is_flag=True, help="Count what cannot be read, and go on.")
@json_option
def command(
    format: str,
    sources: tuple[Path, ...],
    out: str,
    policy: str | None,
    content: bool,
    score: str | None,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Import the calls that another tool logged in SOURCE... into STORE, to report on and replay.

    FORMAT is litellm-spend (the table LiteLLM_SpendLogs as CSV, JSON, SQLite or a dump),
    litellm-callback (StandardLoggingPayload), openai-batch (input and output files), langfuse
    (observations and scores), helicone, llm (logs.db), otel-genai (OTLP JSON), or jsonl: plain
    lines with id, time, model, messages or prompt, input_tokens, output_tokens, cached_tokens,
    reasoning_tokens, cost_usd, latency, label, conversation_id, user, team, tags, max_tokens,
    reasoning_effort, answer, error.

    Importing a file again adds nothing. Imported spending counts in no budget. A store that serves
    requests is better left to them: pacing learns from whatever its log has.
    """
    from router.prices import load_book

    for source in sources:  # a name that is mistyped begins no store
        if not source.exists() or source.is_dir():
            why = "it is a folder" if source.is_dir() else "no such file"
            raise ImportFileError(str(source), None, "", f"cannot be read: {why}")
    book = load_book()
    planner = _planner(policy, book)
    tally = Tally(planned=planner is not None)
    # An import that a power cut takes part of can be repeated: no commit waits for the disk.
    with closing(open_ledger(store_url(out), durability="normal")) as ledger:
        writer = Writer(
            ledger, format=format, book=book, planner=planner, content=content, now=time.time()
        )
        try:
            with _progress() as show:
                found = read_files(format, sources, score=score)
                import_files(found, writer, tally, skip_bad=skip_bad, progress=show)
        except ImportFileError:
            if tally.calls:
                click.echo(
                    f"{tally.calls:,} calls before it are in the store; repeating the import adds "
                    "none of them twice",
                    err=True,
                )
            raise
    data = {"format": format, "out": out, "policy": policy, **tally.as_dict()}
    emit(data, as_json, lambda console: _render(tally, out, console))
    if not tally.calls:
        sys.exit(1)


def _planner(policy: str | None, book: PriceBook) -> Planner | None:
    if policy is None:
        return None
    from router.pipeline import Router
    from router.replay.imports.planned import Planner

    # The router checks that the predictor is the policy's own and knows its tiers; it opens no
    # store until it is used.
    with Router(policy, prices=book) as router:
        return Planner(router.policy, book, router.predictor)


def _render(tally: Tally, out: str, console: Console) -> None:
    if not tally.calls:
        console.print("No call of a chat model was found.")
    else:
        console.print(
            f"[bold]{tally.calls:,}[/] calls read: [bold]{tally.added:,}[/] added to {escape(out)},"
            f" {tally.already:,} already there; {tally.labels:,} labels added."
        )
        data = tally.as_dict()
        console.print(
            f"From {data['first']} to {data['last']}; {tally.failed:,} of them failed. The known "
            f"cost of those added is {format_usd(tally.cost)}: reported for "
            f"{tally.costs['reported']:,}, computed for {tally.costs['computed']:,}, unknown for "
            f"{tally.costs['unknown']:,}."
        )
    for title, counts in (("left out", tally.left_out), ("note", tally.notes)):
        for why, count in counts.most_common():
            console.print(as_written(f"{title}: {count:,}, {why}"))
    if tally.bad:
        console.print(f"[yellow]{tally.bad:,} lines could not be read:[/]")
        for line in tally.listed:
            console.print(as_written(f"  {line}"))
        if tally.bad > len(tally.listed):
            console.print(f"  and {tally.bad - len(tally.listed):,} more")
    if tally.truncated:
        console.print("[bold yellow]A file ends too early: what it lost is not here.[/]")
    missing = tally.missing()
    if missing:
        print_table(console, _table(missing))


def _table(missing: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, title="missing for replay", title_justify="left")
    table.add_column("what", style="bold", no_wrap=True)
    table.add_column("requests", justify="right")
    table.add_column("what that means", overflow="fold")
    for each in missing:
        table.add_row(each["what"], f"{each['count']:,}", as_written(each["means"]))
    return table


@contextmanager
def _progress() -> Iterator[Callable[[Tally], None]]:
    """Shows on standard error how far an import is; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda tally: None
        return
    shown = 0.0
    with progress_console().status("reading") as status:

        def show(tally: Tally) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= _SHOWN_EVERY:
                shown = now
                status.update(f"{tally.added:,} added, {tally.already:,} already there")

        yield show
