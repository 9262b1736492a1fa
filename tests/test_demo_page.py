"""The demo's page: one file, nothing outside it, and the figures of the run."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.demo.page import examples, page
from router.demo.result import DemoResult, DemoRow, ProviderBooks
from router.log.savings import Line, Savings
from router.replay.report.drawing import ticks
from router.types import TIERS

CENT = 10_000_000


def _row(number: int, **changes: object) -> DemoRow:
    tier = TIERS[number % 4]
    row = DemoRow(
        prompt_id=f"en-{number:03d}",
        language="en",
        task="math",
        difficulty=number % 10 / 10,
        question=f"Question {number}?",
        turns=1,
        tools=0,
        streamed=False,
        status="answered",
        tier=tier,
        reason=f"{tier}: best value",
        cost=CENT,
        baseline=4 * CENT,
        attempts=1,
        seconds=0.1,
        good=number % 3 != 0,
        ended=float(number),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def _result(*rows: DemoRow, live: bool = False, held: int = 0) -> DemoResult:
    spent, baseline = sum(row.cost for row in rows), sum(row.baseline for row in rows)
    total = Line(requests=len(rows), attempts=len(rows), spent=spent, baseline=baseline)
    total.comparable, total.compared = len(rows), spent
    if rows and not live:
        total.labels = len(rows)
        total.quality = sum(row.good is True for row in rows) / len(rows)
    books = ProviderBooks(len(rows), spent, {"429": 1}, len(rows), baseline, len(rows) // 2, 25)
    return DemoResult(
        rows=rows,
        report=Savings(total=total, by_tier={"nano": total}),
        budget_limit=2 * spent + CENT,
        budget_settled=spent,
        budget_held=held,
        reservations=len(rows),
        provider=None if live else books,
        seed=0,
        seconds=12.0,
        policy="demo@0123456789ab",
        predictor="default@0",
        store=None,
        models={tier: f"openai/sim-{tier}" for tier in TIERS},
    )


ROWS = tuple(_row(number) for number in range(40))


def test_the_page_needs_nothing_but_itself() -> None:
    html = page(_result(*ROWS))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<(script|link|img|iframe|object)\b", html)
    assert not re.search(r"\b(src|href|srcset|action)\s*=", html)


def test_every_chart_is_well_formed_and_says_what_it_shows() -> None:
    charts = re.findall(r"<svg.*?</svg>", page(_result(*ROWS)), flags=re.S)
    titles = [ElementTree.fromstring(chart).get("aria-label") for chart in charts]
    assert len([title for title in titles if title]) == 3


def test_every_tag_is_closed() -> None:
    class Checker(HTMLParser):
        open: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None: ...

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page(_result(*ROWS)))
    assert checker.open == []


def test_the_headline_is_the_reports_saving() -> None:
    assert "<h1>75.0% less than" in page(_result(*ROWS))
    dearer = [replace(row, baseline=CENT // 2) for row in ROWS]
    assert "<h1>100.0% more than" in page(_result(*dearer))


def test_a_simulated_run_says_so_and_a_live_one_claims_no_verdicts() -> None:
    assert "simulated provider: no model was called" in page(_result(*ROWS))
    live = page(_result(*(replace(row, good=None) for row in ROWS), live=True))
    assert "real models, real money" in live
    assert "simulated" not in live
    assert "judged good; of the frontier" not in live


def test_a_prompts_text_cannot_become_markup() -> None:
    html = page(_result(_row(1, question='<script>alert("x")</script>', reason="a < b & c")))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "a &lt; b &amp; c" in html


def test_a_check_that_does_not_hold_is_shown_as_failed() -> None:
    result = _result(*ROWS)
    assert '<li class="no">' not in page(result)
    assert '<li class="no">Settled' in page(replace(result, budget_limit=result.budget_settled - 1))
    assert '<li class="no">40 requests' in page(replace(result, reservations=39))


def test_the_examples_show_what_is_rare() -> None:
    rare = [
        _row(50, status="refused", tier="", reason="BudgetExceeded: no room", good=None),
        _row(51, attempts=3),
        _row(52, reason="nano: budget_downgrade"),
    ]
    chosen = examples(_result(*ROWS, *rare))
    assert set(rare) <= set(chosen)
    assert len(chosen) == len(set(chosen))


@pytest.mark.parametrize("rows", [(), (_row(0, status="refused", tier="", cost=0, baseline=0),)])
def test_a_run_without_answers_has_a_page_too(rows: tuple[DemoRow, ...]) -> None:
    assert "0.0% less than" in page(_result(*rows))


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_ticks_are_even_round_and_reach_the_top(top: float) -> None:
    values = ticks(top)
    assert values[0] == 0
    assert values[-1] >= top * (1 - 1e-6)
    assert 3 <= len(values) <= 8
    steps = [after - before for before, after in pairwise(values)]
    assert max(steps) == pytest.approx(min(steps))
    assert f"{steps[0]:.0e}"[0] in "125"
