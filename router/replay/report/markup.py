"""The pieces of a report's page: sections, figures and tables, and text that is safe in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from router.log.savings import MOST_LINES


class Markup(str):
    """Text that is HTML already; any other text is escaped where it enters the page."""

    __slots__ = ()


def two_lines(first: str, second: str) -> Markup:
    """A cell of two lines, the second one smaller."""
    return Markup(f"{escape(first)}<small>{escape(second)}</small>")


def share_text(share: float | None) -> str:
    """A share in percent; a dash for none."""
    return "–" if share is None else f"{share:.1%}"


def section(title: str, body: str, *, on_paper: bool = True) -> str:
    """A heading and what stands under it, which is HTML."""
    kind = "" if on_paper else ' class="on-screen"'
    return f"<section{kind}><h2>{escape(title)}</h2>{body}</section>\n"


def figure(chart: str, caption: str) -> str:
    """A chart, which is SVG, over a caption."""
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def behind(shown: str) -> str:
    """A table that is behind a click."""
    return f"<details><summary>The figures as a table</summary>{shown}</details>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, whole: bool = False) -> str:
    """A table; columns that begin with # hold numbers. Cells are escaped but for `Markup`. Rows
    beyond `MOST_LINES` are only counted, unless it is `whole`."""
    every = list(rows)
    most = len(every) if whole else MOST_LINES
    kinds = [' class="number"' if name.startswith("#") else "" for name in columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name.removeprefix("#"))}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{cell if isinstance(cell, Markup) else escape(cell)}</td>"
            for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in every[:most]
    )
    more = len(every) - most
    caption = f"<caption>{more:,} more are in the JSON.</caption>" if more > 0 else ""
    return (
        f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
