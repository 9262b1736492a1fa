"""How commands speak: tables and colour on a terminal, plain text in a pipe, JSON on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from router.errors import RouterError

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and only JSON.")


def console() -> Console:
    """A console on standard output; rich leaves colour out where it is not a terminal, and there
    no line is folded to a terminal's width."""
    terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not terminal, width=None if terminal else 200)


def progress_console() -> Console:
    """A console on standard error, so that progress never mixes with a result that is piped."""
    return Console(stderr=True, highlight=False)


def emit(data: Any, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print `data` as JSON, or call `render` with a console."""
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        render(console())


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
