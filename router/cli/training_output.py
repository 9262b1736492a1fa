"""What the commands that train have in common: the bar, the verdict, the tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from router.cli.output import progress_console
from router.errors import ConfigurationError

if TYPE_CHECKING:
    from router.predict.model_file import ModelFile
    from router.replay.training.train import Progress

SHIPPED = "shipped"


def check_out(out: Path, option: str) -> None:
    """Refuse a place whose files a model would mix with."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "model.json").exists()):
        raise ConfigurationError(f"{option} {out}: is there already and is no model's folder")


@contextmanager
def progress(as_json: bool) -> Iterator[Progress]:
    """A bar on standard error; silent with --json and where that is no terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = [
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    ]
    console, quiet = progress_console(), as_json or not sys.stderr.isatty()
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task("starting", total=1)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield show


def write_model(model: ModelFile, promoted: bool, out: Path, force: bool) -> dict[str, Any]:
    """Save the model if it may be; say where it is and by which hash a policy can pin it."""
    from router.predict.model_file import save_model

    if not promoted and not force:
        return {"written": None, "sha256": None}
    try:
        digest = save_model(out, model.name, model.arrays, model.facts)
    except OSError as error:
        raise ConfigurationError(f"{out}: cannot be written: {error}") from error
    return {"written": str(out), "sha256": digest}


def verdict(data: Mapping[str, Any], good: bool, console: Console) -> None:
    """Print the plain sentence, and what was written."""
    console.print(f"[bold {'green' if good else 'yellow'}]{data['sentence']}[/]")
    if data["written"] is None:
        console.print("Nothing was promoted: no model was written. --force writes it all the same.")
        return
    forced = "" if good else " (by --force)"
    console.print(f"written{forced}: [bold]{data['written']}[/], sha256 {data['sha256']}")


def widen(console: Console) -> None:
    """Fold no line of a pipe."""
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width: one line a row


def table(*headings: str) -> Table:
    """A table whose first column is text and the rest numbers."""
    found = Table(box=None, padding=(0, 2, 0, 0))
    for at, heading in enumerate(headings):
        found.add_column(heading, justify="left" if at == 0 else "right", no_wrap=True)
    return found
