"""The sections of a report's page: each a heading, a sentence, a figure and the table behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from router.drift.record import moment
from router.ledger.wording import amount_text, limit_text
from router.log.savings import Line, shown_name
from router.money import format_usd
from router.replay.report.budgets import BudgetPace
from router.replay.report.changes import Change
from router.replay.report.charts import (
    all_tiers,
    calibration_chart,
    change_bar,
    curve_chart,
    fill_of,
    full_moment,
    over_time,
    pace_bar,
    tier_mix,
)
from router.replay.report.data import Price, ReportData
from router.replay.report.drawing import bar, key
from router.replay.report.markup import (
    Markup,
    behind,
    figure,
    section,
    share_text,
    table,
    two_lines,
)

_KINDS = {"model": "models", "tag": "tags", "day": "days"}


def sections(data: ReportData) -> Iterator[str]:
    """The page's sections that there is something to say in."""
    yield _changes(data)
    if data.period is not None:
        if data.savings.total.attempts:
            yield from _time(data)
            yield _prices(data)
            yield _curve(data)
            yield _calibration(data)
            yield _movers(data)
        yield _failures(data)
    yield _budgets(data)
    yield _own_hardware(data)
    if data.period is not None:
        yield _lines(data)
        items = "".join(f"<li>{escape(note)}</li>" for note in data.notes)
        yield section("Notes", f'<ul class="notes">{items}</ul>')


def _changes(data: ReportData) -> str:
    if not data.changes:
        return ""
    rows = [
        (
            two_lines(each.what, f"policy {each.policy}"),
            moment(each.since),
            each.reference,
            each.now,
            _done(each),
            _state(each),
        )
        for each in data.changes
    ]
    columns = ("what", "since about", "before", "then", "what was done", "state")
    soft = (
        '<p class="soft">What is no longer as it was, found by the tests of the policy’s '
        "<code>drift</code>. A change stays open until somebody accepts it with <code>router drift "
        "accept</code>.</p>"
    )
    return section("Changes found", soft + table(columns, rows))


def _done(change: Change) -> str:
    if not change.requests:
        return "no request was decided otherwise"
    many = change.requests != 1
    return (
        f"{change.requests:,} request{'s' if many else ''} kept to the baseline tier, where "
        f"{'they' if many else 'it'} could"
    )


def _state(change: Change) -> str:
    if change.accepted is None:
        return "open"
    by = f" by {change.by}" if change.by else ""
    return two_lines(f"accepted {moment(change.accepted)}{by}", change.note)


def _time(data: ReportData) -> Iterator[str]:
    assert data.period is not None
    bins, unit = data.bins, data.period.bin_seconds
    rows = [
        (
            full_moment(each.start, unit),
            f"{each.requests:,}",
            *_sums(each.spent, each.baseline, each.unknown, each.requests),
        )
        for each in bins
    ]
    body = "<p>No price is known, so there is no spend to draw.</p>"
    if any(each.spent or each.baseline for each in bins):
        legend = key(("was-spent", "spent"), ("was-baseline", "always the baseline tier"))
        caption = "Spend counts retries and failures; the baseline counts answers of known cost."
        body = legend + figure(over_time(bins, data.period), caption)
    columns = ("from", "#answered", "#spent", "#baseline", "#saved", "#without a price")
    yield section("Spend over time", body + behind(table(columns, rows, whole=True)))

    tiers = all_tiers(bins)
    if not tiers:
        return
    body = key(*((fill_of(tier), shown_name(tier)) for tier in tiers)) + figure(
        tier_mix(bins, data.period), "Which tier gave the answers that were accepted."
    )
    rows = [
        (
            full_moment(each.start, unit),
            *(f"{each.tiers.get(tier, 0):,}" for tier in tiers),
        )
        for each in bins
    ]
    shown = table(("from", *(f"#{shown_name(tier)}" for tier in tiers)), rows, whole=True)
    yield section("Tier mix over time", body + behind(shown))


def _sums(spent: int, baseline: int, unknown: int, requests: int) -> tuple[str, ...]:
    if unknown and not spent and not baseline:
        return "unknown", "unknown", "unknown", f"{unknown:,}"
    # Where a part is unknown, so is the difference: half a sum says nothing about savings.
    saved = "unknown" if unknown else format_usd(baseline - spent)
    return format_usd(spent), format_usd(baseline), saved, f"{unknown:,}" if unknown else "–"


def _prices(data: ReportData) -> str:
    labelled = any(price.labels for price in data.prices)
    dearest = max((price.per_answer or 0.0 for price in data.prices), default=0.0)

    def row(price: Price) -> tuple[str, ...]:
        share = (price.per_answer or 0.0) / dearest if dearest else 0.0
        tier = price.kind == "tier"
        kind = fill_of(price.name) if tier else "was-spent"
        line = (data.savings.by_tier if tier else data.savings.by_model)[price.name]
        cells: tuple[str, ...] = (
            shown_name(price.name),
            f"{price.answers:,}",
            format_usd(line.known_spent),
            _usd(price.per_answer),
            "" if price.per_answer is None else Markup(bar(share, kind)),
        )
        if labelled:
            judged = f"{share_text(price.quality)} by {price.labels:,}", _usd(price.per_good)
            cells += judged if price.labels else ("–", "–")
        return cells

    body = (
        '<p class="soft">All that was paid to a tier or model, failed attempts and answers not '
        "taken included, over the answers of it that were accepted."
    )
    if data.savings.unknown_cost:
        body += " Attempts without a known price are left out, and the answers that they gave."
    body += (
        " Per good answer: over the share that labels call good, each weighed by how many answers "
        "it stands for.</p>"
        if labelled
        else " No answer has a label, so what a good answer costs is unknown.</p>"
    )
    for kind in ("tier", "model"):
        columns = [kind, "#accepted", "#spent", "#per accepted answer", ""]
        columns += ["#good, by labels", "#per good answer"] if labelled else []
        rows = [row(price) for price in data.prices if price.kind == kind]
        body += table(columns, rows)
    return section("What an accepted answer costs", body)


def _curve(data: ReportData) -> str:
    curve = data.curve
    title = "Cost and quality, predicted"
    if curve is None:
        return section(
            title, "<p>No answered request has both a known prediction and a known price.</p>"
        )
    sample = (
        f"a random {curve.requests:,} of {curve.answered:,} answered requests"
        if curve.requests < curve.answered - curve.left_out
        else f"{curve.requests:,} answered requests"
    )
    left_out = (
        f" {curve.left_out:,} were left out: their prediction or price is unknown."
        if curve.left_out
        else ""
    )
    caption = (
        f"Predicted, not measured: what the router expected of {sample} when it decided. The line "
        "is every cost weight, budgets and promises aside; “this log” is what was really chosen."
        + left_out
    )
    rows = [
        ("this log", "–", f"{curve.operating.quality:.1%}", _usd(curve.operating.cost * 1000)),
        *(
            (f"always {tier}", "–", f"{point.quality:.1%}", _usd(point.cost * 1000))
            for tier, point in curve.always.items()
        ),
        *(
            ("cost weight", f"{point.cost_weight:.4g}", f"{point.quality:.1%}",
             _usd(point.cost * 1000))
            for point in curve.points
        ),
    ]  # fmt: skip
    columns = ("choice", "#cost weight", "#predicted good", "#per 1,000 requests")
    return section(title, figure(curve_chart(curve), caption) + behind(table(columns, rows)))


def _calibration(data: ReportData) -> str:
    found, title = data.calibration, "Were the predictions right?"
    if not found.labels:
        why = (
            f"The {found.unpredicted:,} labelled answers have no logged prediction, so"
            if found.unpredicted
            else "No answer of this period has a label, so"
        )
        return section(
            title,
            f"<p>{why} nothing can be said. Label answers with <code>router.feedback(request_id, "
            "score)</code>.</p>",
        )
    caption = (
        f"{found.labels:,} labelled answers, by the P(good) that was predicted of the arm that "
        "answered, each weighed by how many answers it stands for; bars are 95% Wilson intervals. "
        f"On average a prediction is off by {found.error:.1%}."
    )
    if found.unpredicted:
        caption += f" {found.unpredicted:,} labelled answers have no prediction."
    rows = [
        (
            f"{100 * each.low:.0f}–{each.high:.0%}",
            f"{each.count:,}",
            f"{each.predicted:.1%}",
            f"{each.observed:.1%}",
            f"{100 * each.interval[0]:.1f}–{each.interval[1]:.1%}",
        )
        for each in found.bins
    ]
    columns = ("predicted", "#answers", "#mean", "#good", "#95% interval")
    pair = figure(calibration_chart(found), caption) + f"<div>{table(columns, rows)}</div>"
    return section(title, f'<div class="pair">{pair}</div>')


def _movers(data: ReportData) -> str:
    title = "What changed most"
    if not data.movers:
        return section(title, "<p>Nothing changed that could be told by this log.</p>")
    body = (
        '<p class="soft">Models and tags: the second half of the period against the first. Days: '
        "each against the day before, of which the first and the last may not be whole.</p>"
    )
    for kind, plural in _KINDS.items():
        most = max((abs(mover.change) for mover in data.movers if mover.kind == kind), default=0)
        rows = [
            (
                shown_name(mover.name),
                format_usd(mover.before),
                format_usd(mover.after),
                f"{'+' if mover.change > 0 else ''}{format_usd(mover.change)}",
                Markup(change_bar(mover.change / most)),
            )
            for mover in data.movers
            if mover.kind == kind
        ]
        names = ("#day before", "#that day") if kind == "day" else ("#first half", "#second half")
        if rows:
            body += table((plural, *names, "#change", ""), rows)
    return section(title, body)


def _budgets(data: ReportData) -> str:
    if not data.budgets:
        return ""
    rows: list[Sequence[str]] = []
    for pace in data.budgets:
        rows.append(_budget_row(pace))
        if pace.left_out:
            rows.append((f"{pace.name}: {pace.left_out:,} more that use less", *[""] * 5))
    body = (
        '<p class="soft">As they stand now, whatever period the report is about. The line in a bar '
        "is the time: a bar that has not reached it spends slower than its window passes.</p>"
        + key(("was-spent", "used"), ("was-held", "held for calls under way"))
        + table(
            ("budget", "window", "#used", "#held", "#limit", "used, time gone"),
            rows,
        )
    )
    return section("Budgets", body)


def _budget_row(pace: BudgetPace) -> tuple[str, ...]:
    marks: str = "no limit" if pace.limit is None else "nothing is allowed"
    if pace.room:
        drawn = pace_bar(pace.used / pace.room, pace.held / pace.room, pace.share_gone)
        words = f"{pace.share_used:.0%} used"
        if pace.share_gone is not None:
            words += f", {pace.share_gone:.0%} of time"
        marks = Markup(f"{drawn}<small>{escape(words)}</small>")
    return (
        two_lines(pace.name, pace.whose),
        two_lines(pace.window, _until(pace)),
        amount_text(pace.meter, pace.used),
        amount_text(pace.meter, pace.held),
        limit_text(pace.meter, pace.limit),
        marks,
    )


def _until(pace: BudgetPace) -> str:
    if pace.resets_at is None:
        return "no end"
    when = datetime.fromtimestamp(pace.resets_at, UTC)
    word = "until" if pace.share_gone is not None else "falls"  # a rolling window has no end
    return f"{word} {when.day} {when:%b %H:%M}"


def _failures(data: ReportData) -> str:
    if not data.failures:
        return ""
    rows = [(each.status, each.error, f"{each.requests:,}") for each in data.failures]
    return section("Requests without an answer", table(("how", "why", "#requests"), rows))


def _lines(data: ReportData) -> str:
    """The terminal's tables, for who wants every sum."""
    body = ""
    for title, lines in (
        ("tier", data.savings.by_tier),
        ("model", data.savings.by_model),
        ("day", data.savings.by_day),
        ("tag", data.savings.by_tag),
    ):
        rows = [_line(shown_name(name), line) for name, line in lines.items()]
        columns = (title, "#requests", "#attempts", "#spent", "#baseline", "#saved", "#quality",
                   "#bill/quote")  # fmt: skip
        if rows:
            body += table(columns, rows, whole=title == "day")
    return section("All sums", behind(body), on_paper=False) if body else ""


def _line(name: str, line: Line) -> tuple[str, ...]:
    return (
        name,
        f"{line.requests:,}",
        f"{line.attempts:,}",
        format_usd(line.known_spent),
        format_usd(line.known_baseline),
        share_text(line.saved_share),
        share_text(line.quality),
        "–" if line.bill_over_quote is None else f"{line.bill_over_quote:.2f}",
    )


def _usd(nano: float | None) -> str:
    return format_usd(None if nano is None else round(nano))


def _own_hardware(data: ReportData) -> str:
    if not data.break_even:
        return ""
    first = data.break_even[0]
    share = share_text(first.prompt_share)
    mix = f"{share} of the tokens are prompts" + (
        "" if first.mix_measured else ", which is assumed"
    )
    rows = [
        (
            each.own_model,
            each.api_model,
            each.verdict,
            format_usd(each.own_full),
            format_usd(each.api),
            "–" if each.measured_utilisation is None else share_text(each.measured_utilisation),
            share_text(each.utilisation),
            "–" if each.measured_writing is None else f"{each.measured_writing:,.0f}",
            f"{each.writing:,.0f}",
        )
        for each in data.break_even
    ]
    columns = ("own", "against", "is cheaper", "#own, full load", "#API", "#busy", "#assumed",
               "#tokens/s", "#assumed")  # fmt: skip
    soft = (
        f'<p class="soft">Prices of a million tokens; {escape(mix)}. Tokens a second: the most '
        "that were written in a minute.</p>"
    )
    return section("Own hardware", soft + table(columns, rows))
