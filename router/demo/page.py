"""The demo's page: one HTML file with nothing outside it, not even a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from importlib.resources import files
from string import Template

from router.demo.charts import mix_chart, quality_chart, spend_chart
from router.demo.result import DemoResult, DemoRow
from router.demo.simulation import curves
from router.log.savings import Line
from router.money import format_usd, usd_text
from router.replay.report.drawing import bar, key, style
from router.types import TIERS

LANGUAGES = {"en": "English", "es": "Spanish", "zh": "Chinese"}

# Each picks one example that shows something; the first row that fits is taken.
EXAMPLES: tuple[Callable[[DemoRow], bool], ...] = (
    lambda row: row.tier == "nano" and not row.tools,
    lambda row: row.tier == "mini" and row.language == "en",
    lambda row: row.tier == "mini" and row.language == "es",
    lambda row: row.tier == "mid" and row.language == "zh",
    lambda row: row.tier == "mid" and row.tools > 0,
    lambda row: row.tier == "frontier" and row.difficulty > 0.6,
    lambda row: row.tier == "frontier" and row.turns > 1,
    lambda row: row.turns > 2,
    lambda row: row.task == "medicine",
    lambda row: row.attempts > 1,
    lambda row: row.streamed,
    lambda row: "budget_downgrade" in row.reason,
    lambda row: row.good is False,
    lambda row: row.status == "refused",
)


def page(result: DemoResult) -> str:
    """Return the HTML page of a demo run."""
    total = result.report.total
    share = total.saved_share or 0.0
    verb = "less" if share >= 0 else "more"
    template = Template(files("router.demo").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=style(),
        title=f"router demo: {abs(share):.0%} {verb} than always frontier",
        notice="live run: real models, real money"
        if result.live
        else "simulated provider: no model was called, no money was spent",
        headline=f"{abs(share):.1%} {verb} than always&nbsp;frontier",
        lead=_lead(result),
        facts="".join(_facts(result)),
        spend_chart=spend_chart(result.rows, result.budget_limit),
        spend_caption=_spend_caption(result),
        tier_rows="".join(_tier_rows(result)),
        difficulty="" if result.live else _difficulty(result),
        checks="".join(_checks(result)),
        examples="".join(_example(row) for row in examples(result)),
        footer=_footer(result),
    )


def examples(result: DemoResult) -> list[DemoRow]:
    """Choose rows that between them show the tiers, languages, tools, retries and the budget."""
    chosen: list[DemoRow] = []
    for shows in EXAMPLES:
        chosen += [row for row in result.rows if shows(row) and row not in chosen][:1]
    return sorted(chosen, key=lambda row: row.ended)


def _lead(result: DemoResult) -> str:
    total = result.report.total
    text = (
        f"{len(result.answered)} requests were answered for <b>{format_usd(total.spent)}</b>; "
        f"the frontier tier alone would have cost <b>{format_usd(total.baseline)}</b>."
    )
    if result.good_share is not None and result.frontier_good_share is not None:
        text += (
            f" {result.good_share:.1%} of the answers were judged good; of the frontier's answers "
            f"to the same prompts it would have been {result.frontier_good_share:.1%}."
        )
    return text


def _facts(result: DemoResult) -> Iterator[str]:
    total = result.report.total
    wire = result.provider.wire_requests if result.provider else result.reservations
    yield _fact("realised", format_usd(total.spent), f"{total.attempts} wire attempts")
    yield _fact("always frontier", format_usd(total.baseline), "predicted tokens at its price")
    yield _fact(
        "budget used",
        f"{result.budget_settled / result.budget_limit:.1%}",
        f"of {format_usd(result.budget_limit)}, a hard limit",
    )
    yield _fact("wire requests", f"{wire}", f"{result.reservations} reservations")


def _fact(name: str, value: str, note: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"


def _spend_caption(result: DemoResult) -> str:
    downgraded = sum("budget_downgrade" in row.reason for row in result.rows)
    refused = result.report.refused
    text = (
        "Before each call the router reserves the most that it can cost, so that requests in "
        "flight can never overspend together. "
    )
    if downgraded or refused:
        text += (
            "Requests for which the room ran short: "
            f"{downgraded} given a cheaper tier, {refused} refused."
        )
    else:
        text += "The limit was never in the way of this run."
    return text


def _tier_rows(result: DemoResult) -> Iterator[str]:
    total = result.report.total
    for tier in TIERS:
        line = result.report.by_tier.get(tier, Line())
        shares = (line.requests / (total.requests or 1), line.spent / (total.spent or 1))
        yield (
            f"<tr><td>{tier}</td>"
            f'<td class="number">{line.requests}</td><td>{bar(shares[0], f"fill-{tier}")}</td>'
            f'<td class="number">{format_usd(line.spent)}</td>'
            f"<td>{bar(shares[1], f'fill-{tier}')}</td>"
            f'<td class="number">{format_usd(line.baseline)}</td>'
            f'<td class="number">{_percent(line.quality)}</td></tr>'
        )
    yield (
        f'<tr class="total"><td>all</td><td class="number">{total.requests}</td><td></td>'
        f'<td class="number">{format_usd(total.spent)}</td><td></td>'
        f'<td class="number">{format_usd(total.baseline)}</td>'
        f'<td class="number">{_percent(total.quality)}</td></tr>'
    )


def _difficulty(result: DemoResult) -> str:
    return f"""
<h2>Easy prompts, hard prompts</h2>
<p class="soft">The difficulty is the prompt authors' judgement. The simulated provider draws from
it; the router never sees it.</p>
{key(*((f"fill-{tier}", tier) for tier in TIERS))}
<div class="pair">
<figure>{mix_chart(result.answered)}<figcaption>Which tier answered.</figcaption></figure>
<figure>{quality_chart(result.answered)}<figcaption>Answers judged good. Lines: curves fitted on
recorded answers of real models. Dots: this run, larger for more answers.</figcaption></figure>
</div>"""


def _checks(result: DemoResult) -> Iterator[str]:
    settled, limit = result.budget_settled, result.budget_limit
    yield _check(
        settled + result.budget_held <= limit,
        f"Settled ${usd_text(settled)} never went above the limit of ${usd_text(limit)}; "
        f"{format_usd(result.budget_held)} is still held.",
    )
    books = result.provider
    if books is None:
        return
    yield _check(
        books.wire_requests == result.reservations,
        f"{books.wire_requests} requests reached the provider, each with a reservation of its own "
        f"({result.reservations}): nothing went out unreserved, or was retried unseen.",
    )
    total = result.report.total.spent
    yield _check(
        total >= books.bill,
        f"The provider's own bill is ${usd_text(books.bill)}, the router's books say "
        f"${usd_text(total)}"
        + (", to the nano-dollar the same." if total == books.bill else "; the difference is "
           "attempts whose bill is unknown, charged as reserved."),
    )  # fmt: skip
    if books.faults:
        faults = ", ".join(f"{count} × HTTP {code}" for code, count in sorted(books.faults.items()))
        yield _check(True, f"The provider failed on purpose ({faults}); {result.retries} retries.")
    accepted = sum(row.baseline for row in result.answered)
    yield _check(
        True,
        f"The baseline is a prediction: {format_usd(accepted)}. The simulated frontier would "
        f"really have billed {format_usd(books.frontier_bill)} for the same prompts.",
    )


def _check(holds: bool, text: str) -> str:
    return f'<li class="{"yes" if holds else "no"}">{escape(text)}</li>'


def _example(row: DemoRow) -> str:
    marks = [LANGUAGES.get(row.language, row.language), row.task]
    marks += [f"{row.turns} turns"] if row.turns > 1 else []
    marks += [f"{row.tools} tool{'s' if row.tools > 1 else ''}"] if row.tools else []
    marks += ["streamed"] if row.streamed else []
    marks += [f"{row.attempts} attempts"] if row.attempts > 1 else []
    verdicts = {True: '<span class="good">yes</span>', False: '<span class="bad">no</span>'}
    return (
        f"<tr><td>{escape(row.question)}<small>{escape(', '.join(marks))}</small></td>"
        f"<td>{row.tier or row.status}<small>{escape(row.reason)}</small></td>"
        f'<td class="number">{format_usd(row.cost)}</td>'
        f'<td class="number">{verdicts[row.good] if row.good is not None else "–"}</td></tr>'
    )


def _footer(result: DemoResult) -> str:
    run = (
        f"<p>{len(result.rows)} prompts in {result.seconds:.0f} seconds, seed {result.seed}. "
        f"Policy <code>{escape(result.policy)}</code>, predictor "
        f"<code>{escape(result.predictor)}</code>.</p>"
    )
    if result.provider is None:
        return run
    fitted = curves()
    queries = " and ".join(f"{count:,} of {name}" for name, count in fitted["queries"].items())
    return run + (
        "<p>Success and answer length follow curves fitted on recorded answers of real models "
        f"({queries}; {fitted['date']}). Speeds and reasoning tokens are assumptions; latencies "
        f"are {result.provider.latency_scale} times shorter than simulated. Prices are the demo's "
        "own, shaped like a real ladder. What it shows is the machinery; what a router saves on "
        "your traffic, your own log says: <code>router report</code>.</p>"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
