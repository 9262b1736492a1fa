"""`router prices`: the price book, its health, and how it compares with public sources."""

from __future__ import annotations

import time
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from router.cli.output import as_written, emit, json_option, print_table
from router.errors import ConfigurationError
from router.money import usd_text
from router.prices.book import BookEntry, PriceBook, load_book, seal
from router.prices.diff import SOURCES, Row, Source, diff
from router.prices.price import Price, Rates

_book_option = click.option(
    "--book",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another price book than the shipped one.",
)
_BUCKETS = ("input", "output", "reasoning", "cache_read", "cache_write_5m", "cache_write_1h")


@click.group
def command() -> None:
    """Show, check and compare the prices that calls are budgeted and billed with."""


@command.command
@click.argument("model", required=False)
@_book_option
@json_option
def show(model: str | None, path: Path | None, as_json: bool) -> None:
    """List the prices in effect today, in USD per million tokens; of one MODEL, if named."""
    book, now = load_book(path), time.time()
    entries = book.models(now)
    if model is not None:
        entry = book.entry(model, now)
        if entry is None:
            raise ConfigurationError(f"the price book has no {model!r}; see `router prices show`")
        entries = (entry,)
    priced = [(entry, _price(book, entry, now)) for entry in entries]
    data = [_shown(entry, price) for entry, price in priced]
    emit(data, as_json, lambda console: _show_table(console, data, book))


def _price(book: PriceBook, entry: BookEntry, now: float) -> Price:
    price = book.price(entry.model, now)
    assert price is not None
    return price


def _shown(entry: BookEntry, price: Price) -> dict[str, Any]:
    written = entry.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "model": entry.model,
        **_usd_per_mtok(price.rates),
        "image_usd": written.get("image"),
        "request_usd": written.get("request"),
        "above": [{"tokens": tokens, **_usd_per_mtok(rates)} for tokens, rates in price.above],
        "multipliers": written["multipliers"],
        "off_peak": written["off_peak"],
        "gpu": written.get("gpu"),
        "context_window": entry.capabilities.context_window,
        "capabilities": written["capabilities"],
        "aliases": list(entry.aliases),
        "effective_from": written["effective_from"],
        "checked": written["checked"],
        "source": entry.source,
        "note": entry.note,
    }


def _usd_per_mtok(rates: Rates) -> dict[str, str | None]:
    named = {f"{bucket}_usd_per_mtok": usd_text(getattr(rates, bucket)) for bucket in _BUCKETS}
    audio = {
        f"{bucket}_usd_per_mtok": None if rate is None else usd_text(rate)
        for bucket, rate in (
            ("audio_input", rates.audio_input),
            ("audio_output", rates.audio_output),
        )
    }
    return named | audio


def _show_table(console: Console, data: list[dict[str, Any]], book: PriceBook) -> None:
    table = _table(f"USD per million tokens · price book {book.hash}")
    table.add_column("model", overflow="fold")
    for heading in ("input", "output", "cached"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("longer prompts", "since"):
        table.add_column(heading, no_wrap=True)
    for shown in data:
        longer = (
            f"> {step['tokens'] // 1000}k: {_short(step['input_usd_per_mtok'])} / "
            f"{_short(step['output_usd_per_mtok'])}"
            for step in shown["above"]
        )
        table.add_row(
            as_written(shown["model"]),
            *(_short(shown[f"{name}_usd_per_mtok"]) for name in ("input", "output", "cache_read")),
            "; ".join(longer),
            shown["effective_from"],
        )
    print_table(console, table)
    if len(data) == 1 and data[0]["note"]:
        console.print(data[0]["note"], markup=False)


@command.command
@click.option("--seal", "to_seal", is_flag=True, help="Take newly appended entries into the chain.")
@_book_option
@json_option
def check(to_seal: bool, path: Path | None, as_json: bool) -> None:
    """Check every entry of the price book, and that no older one was edited or removed."""
    if to_seal:
        if path is None:
            raise click.UsageError("--seal changes a file: name it with --book")
        seal(path)
    book = load_book(path)
    models = len({entry.model for entry in book.entries})
    data = {"hash": book.hash, "entries": len(book.entries), "models": models}
    emit(
        data,
        as_json,
        lambda console: console.print(
            f"price book {book.hash}: {len(book.entries)} entries, {models} models, chain intact"
        ),
    )


@command.command(name="diff")
@click.option(
    "--source",
    "sources",
    type=click.Choice(SOURCES),
    multiple=True,
    default=SOURCES,
    help="Compare with this source only.",
)
@click.option("--all", "everything", is_flag=True, help="Show what agrees, too.")
@_book_option
@json_option
def compare(
    sources: tuple[Source, ...], everything: bool, path: Path | None, as_json: bool
) -> None:
    """Compare the price book with litellm's map and genai-prices, as installed."""
    rows = diff(load_book(path), time.time(), sources)
    shown = [row for row in rows if everything or row.verdict != "agree"]
    emit(
        [asdict(row) for row in shown],
        as_json,
        lambda console: _diff_table(console, shown, len(rows), sources),
    )


def _diff_table(console: Console, rows: list[Row], total: int, sources: tuple[str, ...]) -> None:
    table = _table("USD per million tokens")
    table.add_column("model", overflow="fold")
    for heading in ("bucket", "above", "here", *sources, "verdict"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        theirs = {"litellm": row.litellm, "genai-prices": row.genai_prices}
        table.add_row(
            as_written(row.model),
            row.bucket,
            f"{row.above // 1000}k" if row.above else "",
            row.ours or "-",
            *(theirs[source] or "-" for source in sources),
            row.verdict,
        )
    print_table(console, table)
    agreed = total - sum(row.verdict != "agree" for row in rows)
    console.print(f"{agreed} of {total} rates agree with {' and '.join(sources)}")


def _short(usd: str) -> str:
    """Round what is derived from GPU-hours to a width that people read; list prices are shorter."""
    return usd if len(usd) <= 7 else f"{Decimal(usd):.4f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
