"""How commands speak: tables and colour on a terminal, plain text in a pipe, JSON on request."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement

from router.errors import RouterError

if TYPE_CHECKING:
    from rich.table import Table

_FOLDED = 12  # columns; a column of text is made no narrower than that
_PIPE = 1000  # columns; a pipe has no width: one line a row
# What a terminal obeys instead of showing it, and what turns the direction of a whole line.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and only JSON.")


def make_printable() -> None:
    """Have marks that the output cannot encode replaced, and a closed output swallow everything:
    no answer that was paid for is lost to either."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console() -> Console:
    """A console on standard output; rich leaves colour out where it is not a terminal, and there
    no line is folded to a terminal's width."""
    terminal = sys.stdout.isatty()
    return Console(
        highlight=False, emoji=False, soft_wrap=not terminal, width=None if terminal else 200
    )


def as_written(text: str) -> str:
    """Text that somebody else wrote, a tag or a model's name, as it is, to stand in markup: none of
    it is markup itself, and what a terminal would obey is shown as a mark."""
    return escape(_OBEYED.sub("\N{REPLACEMENT CHARACTER}", text))


def progress_console() -> Console:
    """A console on standard error, so that progress never mixes with a result that is piped."""
    return Console(stderr=True, highlight=False, emoji=False)


def emit(data: Any, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print `data` as JSON, or call `render` with a console."""
    if as_json:
        plain = not (sys.stdout.encoding or "").lower().startswith("utf")
        click.echo(json.dumps(data, indent=2, ensure_ascii=plain, allow_nan=False))
    else:
        render(console())


def print_table(console: Console, table: Table) -> None:
    """Print a table of which no figure is cut: where a terminal is narrow text is folded, and what
    is too wide all the same the terminal wraps."""
    width, least = console.width, 2 * len(table.columns)
    options = console.options.update(width=_PIPE)
    for column in table.columns:
        cells = (column.header, *column.cells)
        widest = max(Measurement.get(console, options, cell).maximum for cell in cells)
        column.no_wrap |= column.justify == "right"
        column.overflow = "fold"
        least += widest if column.no_wrap else min(widest, _FOLDED)
    console.width = max(width, least) if console.is_terminal else _PIPE
    try:
        console.print(table)
    finally:
        console.width = width


def fail(error: RouterError, *, as_json: bool) -> int:
    """Print an error and return the exit code for it."""
    if as_json:
        facts = {key: value for key, value in vars(error).items() if _plain(value)}
        click.echo(json.dumps({"error": type(error).__name__, "message": str(error), **facts}))
    else:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]{type(error).__name__}[/]: ", end=""
        )
        click.echo(str(error), err=True)
    return 1


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
