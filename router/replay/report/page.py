"""The page of a savings report: one HTML file with nothing outside it, not even a script."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template

from router.log.savings import Line
from router.money import format_usd
from router.replay.report.data import ReportData
from router.replay.report.drawing import style
from router.replay.report.markup import Markup, share_text
from router.replay.report.sections import sections


def page(data: ReportData, *, made: float) -> str:
    """Return the HTML page of a report that was made at a time, unix seconds."""
    title, lead = _headline(data), _lead(data)
    template = Template(files("router.replay.report").joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=f"router report: {escape(title)}",
        style=style(),
        period=escape(_period(data)),
        headline=escape(title),
        lead=lead,
        facts=f'<dl class="facts">{"".join(_facts(data))}</dl>' if _something(data) else "",
        sections="".join(sections(data)),
        footer=f"<p>Made by <code>router report</code> on {_day(made)}, {_clock(made)} UTC. All "
        "times are UTC. Whatever is predicted or unknown is called so.</p>",
    )


def _something(data: ReportData) -> bool:
    return data.period is not None or data.savings.overhead > 0


def _period(data: ReportData) -> str:
    if data.period is None:
        return "savings report"
    first, last = data.period.first, data.period.last
    if _day(first) == _day(last):
        return f"{_day(first)}, {_clock(first)} to {_clock(last)} UTC"
    return f"{_day(first)} to {_day(last)}"


def _headline(data: ReportData) -> str:
    total, saved = data.savings.total, data.net_saved
    if not _something(data):
        return "Nothing is logged in this period"
    if not total.attempts:
        own = data.savings.overhead
        return f"{format_usd(own)} spent on own calls alone" if own else "Nothing was spent"
    if saved is None:
        why = "no price is known" if data.spent is None else "no answer can be compared"
        return f"Savings unknown: {why}"
    share = f" ({abs(saved) / data.baseline:.1%})" if data.baseline else ""
    return f"{format_usd(abs(saved))} {'saved' if saved >= 0 else 'lost'}{share}"


def _lead(data: ReportData) -> str:
    """What was spent, saved and lost, in sentences; all of it numbers, so nothing to escape."""
    report, total = data.savings, data.savings.total
    if not _something(data):
        return "No request of this period is in the log, so there is nothing to compare."
    if data.period is None:
        return "No request of this period is in the log, but calls of the router’s own."
    every = total.comparable == total.requests or data.baseline is None
    of_them = "" if every else f" for {total.comparable:,} of them"
    text = (
        f"<b>{format_usd(data.spent)}</b> was spent on {_count(total.requests, 'answered request')}"
        f"; always the baseline tier would have cost <b>{format_usd(data.baseline)}</b>{of_them}."
    )
    if report.unknown_cost and data.spent is not None:
        text += (
            f" {_count(report.unknown_cost, 'attempt')} more had no known price, so the true spend "
            "is higher; the requests that they were for are not compared."
        )
    if report.unknown_baseline and data.baseline is not None:
        answers = _count(report.unknown_baseline, "answer")
        text += f" {answers} had no known baseline, and are not compared."
    if not every:
        text += f" What is saved is of {format_usd(total.compared)} of the spend."
    if report.failed or report.refused:
        failed, refused = _count(report.failed, "request"), _count(report.refused, "request")
        text += (
            f" {failed} failed, {refused} were refused."
            if report.refused
            else (f" {failed} failed.")
        )
    return text


def _facts(data: ReportData) -> Iterator[str]:
    report, total = data.savings, data.savings.total
    yield _fact("spent", format_usd(data.spent), _count(total.attempts, "attempt"))
    note = "the frontier tier, as a rule"
    if data.baseline is not None and total.comparable < total.requests:
        note = f"of {total.comparable:,} comparable answers"
    yield _fact("always baseline", format_usd(data.baseline), note)
    saved = data.net_saved
    share = f"{saved / data.baseline:.1%}, " if saved is not None and data.baseline else ""
    yield _fact(
        "saved, net", format_usd(saved), f"{share}less {format_usd(report.overhead)} of own calls"
    )
    yield _fact("per accepted answer", _per_answer(data), _judged(total))


def _per_answer(data: ReportData) -> str:
    found = data.savings.per_answer
    if found is None:
        return "unknown" if data.savings.total.requests else "–"
    return format_usd(round(found))


def _judged(total: Line) -> str:
    if total.quality is None:
        return "no answer is labelled"
    return f"{share_text(total.quality)} good, by {total.labels:,} labels"


def _fact(name: str, value: str, note: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"


def _count(number: int, noun: str) -> Markup:
    return Markup(f"{number:,} {noun}{'' if number == 1 else 's'}")


def _day(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when.day} {when:%B %Y}"


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M}"
