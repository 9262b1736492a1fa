"""What several commands read from their options, and how they write a page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from router.errors import ConfigurationError

if TYPE_CHECKING:
    from router.types import Tier

_SQLITE = b"SQLite format 3\0"

since_option = click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day (UTC).")
until_option = click.option(
    "--until", type=click.DateTime(["%Y-%m-%d"]), help="Day after the last (UTC)."
)


class Days(NamedTuple):
    """A stretch of days, from the beginning of one to that of another, in unix seconds."""

    since: float | None
    until: float | None


def period(since: datetime | None, until: datetime | None) -> Days:
    """The days of `--since` and `--until`; wrong usage where none is in between."""
    if since is not None and until is not None and since >= until:
        raise click.BadParameter(
            f"{until:%Y-%m-%d} is not after --since {since:%Y-%m-%d}", param_hint="--until"
        )
    return Days(_unix(since), _unix(until))


def _unix(day: datetime | None) -> float | None:
    return None if day is None else day.replace(tzinfo=UTC).timestamp()


def models_of(ladder: str) -> Mapping[Tier, str]:
    """The models of `--ladder`; wrong usage where it names none."""
    from router.replay.recorded.ladder import parse_ladder

    try:
        return parse_ladder(ladder)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--ladder") from None


def ladder_callback(ctx: click.Context, param: click.Parameter, value: str) -> Mapping[Tier, str]:
    """`models_of`, as the callback of an option that is required."""
    return models_of(value)


def check_page(html: Path) -> None:
    """Wrong usage where a page could not be written, or would be written over a database, said
    before the work is done."""
    if not html.parent.is_dir():
        raise click.BadParameter(f"there is no folder {html.parent}", param_hint="--html")
    try:
        with html.open("rb") as file:
            begin = file.read(len(_SQLITE))
    except OSError:  # mostly since it is not there yet; else writing says why
        return
    if begin == _SQLITE:
        problem = f"{html} is a database, which a page would replace; name another file"
        raise click.BadParameter(problem, param_hint="--html")


def write_page(html: Path, text: str) -> None:
    """Raises `ConfigurationError` where the page cannot be written."""
    try:
        html.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigurationError(f"{html} cannot be written: {error.strerror or error}") from None
