"""A report's page: one file, whatever the log holds, with nothing of the user's as markup."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from router.replay.report.data import report_data
from router.replay.report.drawing import Frame, key, style, ticks_between, usd_labels
from router.replay.report.page import page
from router.types import Budget
from tests.report_kit import (
    BUDGETS,
    CENT,
    DAY,
    HOSTILE,
    MODELS,
    MONDAY,
    NOW,
    log_request,
    month,
    opened,
    views,
)
from tests.test_cli import run


def page_of(ledger: Any, **options: Any) -> str:
    data = report_data(ledger.log(), ledger.states(NOW), now=NOW, **options)
    ledger.close()
    return page(data, made=NOW)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    ledger = opened(tmp_path_factory.mktemp("month"), BUDGETS)
    month(ledger, 300)
    return page_of(ledger)


def test_the_page_needs_nothing_but_itself(html: str) -> None:
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<(script|link|img|iframe|object)\b", html)
    assert not re.search(r"\b(src|href|srcset|action)\s*=", html)


def test_both_pages_have_the_same_style_sheet(html: str) -> None:
    assert style() in html
    demo = Path(__file__).parents[1] / "router" / "demo" / "page.html"
    assert "$style" in demo.read_text(encoding="utf-8")
    assert "{" not in demo.read_text(encoding="utf-8")


def test_every_tag_is_closed(html: str) -> None:
    class Checker(HTMLParser):
        open: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None: ...

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(html)
    assert checker.open == []


def test_every_chart_says_in_words_what_it_shows_and_has_a_table(html: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", html, flags=re.S)
    assert len(figures) == 4
    for figure in figures:
        chart = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", figure, flags=re.S)[0])
        assert chart.get("role") == "img"
        assert chart.get("aria-label") == chart[0].text
        assert [each.tag for each in chart[:2]] == ["title", "desc"]
        assert "<figcaption>" in figure
        assert "<table>" in html[html.index(figure) :].partition("</section>")[0]
    assert 'scope="col"' in html


def test_every_part_is_there(html: str) -> None:
    for title in (
        "Spend over time", "Tier mix over time", "What an accepted answer costs",
        "Cost and quality, predicted", "Were the predictions right?", "What changed most",
        "Requests without an answer", "Budgets", "All sums", "Notes",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    assert "Predicted, not measured" in html
    assert "95% Wilson intervals" in html
    assert re.search(r"\d+% used, 40% of time", html)  # 9:30 of a day


def test_nothing_that_users_name_becomes_markup(tmp_path: Path) -> None:
    budget = Budget(HOSTILE, 10 * CENT, window="day", scope="user")
    ledger = opened(tmp_path, [budget])
    more: dict[str, Any] = {
        "tags": (HOSTILE,),
        "scopes": {"user": HOSTILE},
        "reason": HOSTILE,
        "decision": views("mini", model=HOSTILE),
    }
    log_request(ledger, "a", NOW - DAY, CENT, attempt={"model": HOSTILE}, label=1.0, **more)
    log_request(ledger, "b", NOW, CENT, attempt={"tier": HOSTILE, "model": HOSTILE}, **more)
    log_request(ledger, "c", NOW, 0, status="failed", **{**more, "error": HOSTILE})
    html = page_of(ledger)
    assert not re.search(r"<(script|img)\b", html)
    assert html.count("&lt;script&gt;") > 5
    # Whatever tag there is has no attribute that came with a name.
    assert not re.search(r"<[^>]*onerror[^>]*>", html)


@pytest.mark.parametrize(
    "name", ["[/red]", "[bold]x", ":fire:", "\x1b[31mred", "a\nb", "\u202eabc"]
)
def test_a_terminal_shows_names_as_they_are_written_and_obeys_none_of_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT, tags=(name,), attempt={"model": name})
    ledger.close()
    code, out, _ = run(capsys, "report", str(tmp_path / "report.db"))
    shown = re.sub(r"[\x00-\x1f\u202e]", "\ufffd", name)
    assert code == 0
    assert sum(line.startswith(f"{shown} ") for line in out.split("\n")) == 2  # model and tag


@pytest.mark.parametrize(
    "fill",
    [
        lambda ledger: None,
        lambda ledger: log_request(ledger, "a", NOW, CENT),
        lambda ledger: log_request(ledger, "a", NOW, 0, baseline=0),
        lambda ledger: log_request(ledger, "a", NOW, None, baseline=None),
        lambda ledger: log_request(ledger, "a", NOW, 0, status="failed", error="Timeout: x"),
        lambda ledger: log_request(ledger, "a", NOW, status="refused", error="BudgetExceeded"),
        lambda ledger: log_request(ledger, "a", NOW, CENT, decision=(), chosen=""),
        lambda ledger: log_request(ledger, "a", NOW, CENT, purpose="judge"),
        lambda ledger: log_request(ledger, "a", NOW, 2**50, baseline=2**52, label=0.0),
        lambda ledger: log_request(ledger, "a", NOW, 1, baseline=1, label=1.0),
    ],
    ids=["empty", "one", "free", "unknown", "failed", "refused", "no decision", "judge", "huge",
         "tiny"],
)  # fmt: skip
def test_any_small_log_has_a_page_of_whole_charts(fill: Any, tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    fill(ledger)
    html = page_of(ledger)
    charts = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    for chart in charts:
        ElementTree.fromstring(chart)
    assert not re.search(r"\b(nan|inf|None)\b", html)


def headline(html: str) -> str:
    [title] = re.findall(r"<h1>(.*?)</h1>", html)
    return title


def test_page_and_terminal_say_what_was_saved_net_of_the_router_s_own_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT * 40, baseline=CENT * 200)
    log_request(ledger, "b", NOW, CENT * 20, purpose="judge")
    html = page_of(ledger)
    assert headline(html) == "$1.40 saved (70.0%)"
    assert "70.0%, less $0.2000 of own calls" in html
    said = run(capsys, "report", str(tmp_path / "report.db"))[1]
    assert "Saved $1.40 (70.0%), net of $0.2000" in said


def test_a_loss_is_called_a_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT * 50, baseline=CENT * 200)
    log_request(ledger, "b", NOW, CENT * 250, purpose="judge")
    assert headline(page_of(ledger)) == "$1.00 lost (50.0%)"
    assert (
        "Lost $1.00 (50.0%), net of $2.50" in run(capsys, "report", str(tmp_path / "report.db"))[1]
    )


def test_what_is_unknown_is_called_unknown_and_never_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, store = opened(tmp_path), str(tmp_path / "report.db")
    log_request(ledger, "a", NOW, None, baseline=None, decision=views("mini", expected=None))
    html = page_of(ledger)
    assert headline(html) == "Savings unknown: no price is known"
    assert "<b>unknown</b> was spent" in html
    assert "$0.00" not in html.replace("less $0.00 of own calls", "")
    terminal = run(capsys, "report", store)[1]
    assert terminal.startswith("unknown spent on 1 answered requests; of none of them both")
    assert re.search(r"^openai/t-mini +1 +1 +unknown +unknown +- ", terminal, flags=re.M)
    report = json.loads(run(capsys, "report", store, "--json")[1])
    for line in (report, report["by_tier"]["mini"], report["by_model"]["openai/t-mini"]):
        assert (line["realized_usd"], line["baseline_usd"], line["savings_usd"]) == (None,) * 3
        assert line["unpriced_attempts"] == 1
    assert (report["realized_nano"], report["net_savings_usd"]) == (None, None)


def test_what_an_own_call_of_unknown_price_cost_says_nothing_of_an_answer_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, store = opened(tmp_path), str(tmp_path / "report.db")
    log_request(ledger, "a", NOW, CENT)
    log_request(ledger, "judged", NOW, None, purpose="judge")
    assert headline(page_of(ledger)) == "$0.0100 saved (50.0%)"
    report = json.loads(run(capsys, "report", store, "--json")[1])
    assert (report["per_answer_usd"], report["unknown_costs"]) == (0.01, 1)


def test_failures_of_unknown_cost_alone_leave_what_was_saved_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, store = opened(tmp_path), str(tmp_path / "report.db")
    log_request(ledger, "a", NOW, None, status="failed", error="Timeout: x")
    assert headline(page_of(ledger)) == "Savings unknown: no price is known"
    said = run(capsys, "report", store)[1]
    assert said.startswith("unknown spent on 0 answered requests.\nWhat was saved is not known")


def test_a_model_whose_calls_all_failed_for_nothing_cost_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT)
    log_request(ledger, "b", NOW, 0, tier="mid", status="failed", error="Timeout: x")
    html = page_of(ledger)
    assert re.search(r"<td>openai/t-mid</td><td[^>]*>0</td><td[^>]*>\$0\.00<", html)


def test_a_part_that_is_unknown_is_said_beside_the_headline(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT)
    log_request(ledger, "b", NOW, None)
    log_request(ledger, "c", NOW, CENT, baseline=None)
    html = page_of(ledger)
    assert "1 attempt more had no known price, so the true spend is higher" in html
    assert "1 answer had no known baseline" in html
    # Of mini's three answers two have a price: $0.02 over three is not what one of them cost.
    assert re.search(r"<td>mini</td>.*?>3<.*?>\$0\.0200<.*?>\$0\.0100<", html)
    assert "Attempts without a known price are left out, and the answers that they gave." in html


def test_page_and_terminal_say_what_they_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path)
    for at in range(10):
        log_request(ledger, f"r{at}", NOW, CENT, baseline=2 * CENT if at < 2 else None)
    html = page_of(ledger)
    assert headline(html) == "$0.0200 saved (50.0%)"
    assert "<b>$0.0400</b> for 2 of them. 8 answers had no known baseline, and are not" in html
    assert "What is saved is of $0.0200 of the spend." in html
    assert "and $0.0400 for the baseline" in html  # in the chart
    said = " ".join(run(capsys, "report", str(tmp_path / "report.db"))[1].split())
    assert "would have cost $0.0400 for 2 of them. Saved $0.0200 (50.0%)" in said
    assert "$0.0800 of the spend is of requests whose baseline or cost is not known" in said


def test_without_any_baseline_what_was_saved_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT, baseline=None)
    assert headline(page_of(ledger)) == "Savings unknown: no answer can be compared"
    said = " ".join(run(capsys, "report", str(tmp_path / "report.db"))[1].split())
    assert "$0.0100 spent on 1 answered requests; of none of them both a baseline" in said
    assert "What was saved is not known" in said


def test_own_calls_alone_are_spend_on_the_page_as_json_and_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "judged", NOW, 5 * CENT, purpose="judge")
    html = page_of(ledger)
    assert headline(html) == "$0.0500 spent on own calls alone"
    assert "but calls of the router’s own" in html
    assert "less $0.0500 of own calls" in html
    store = str(tmp_path / "report.db")
    assert json.loads(run(capsys, "report", store, "--json")[1])["overhead_usd"] == 0.05
    said = " ".join(run(capsys, "report", store)[1].split())
    assert "the router spent $0.0500 on calls of its own" in said


def test_what_has_no_tier_or_an_unknown_one_has_a_line_of_its_own_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As calls have that were imported without a policy, into a log with others."""
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT)
    log_request(ledger, "b", NOW, 2 * CENT, attempt={"tier": ""}, label=0.5, tags=("",))
    log_request(ledger, "c", NOW, 3 * CENT, attempt={"tier": "huge"})
    html = page_of(ledger)
    store = str(tmp_path / "report.db")
    report = json.loads(run(capsys, "report", store, "--json")[1])
    assert {tier: line["realized_usd"] for tier, line in report["by_tier"].items()} == {
        "mini": 0.01, "": 0.02, "huge": 0.03,
    }  # fmt: skip
    assert [each["quality"] for each in report["prices"] if each["name"] == ""] == [0.5]
    terminal = [line.split()[:4] for line in run(capsys, "report", store)[1].splitlines()]
    assert ["(none)", "1", "1", "$0.0200"] in terminal[4:7]
    assert ["huge", "1", "1", "$0.0300"] in terminal[4:7]
    assert "In all: mini 1, (none) 1, huge 1." in html
    assert "<td></td>" not in html
    assert "</svg></span>" not in html  # a key without a name


def test_without_labels_the_page_says_that_nothing_is_known_of_quality(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    log_request(ledger, "a", NOW, CENT)
    html = page_of(ledger)
    assert "No answer of this period has a label" in html
    assert "per good answer" not in html


def test_of_many_tags_the_dearest_are_shown_first_and_the_others_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path)
    for number in range(70):
        log_request(ledger, f"r{number}", NOW, CENT + number, tags=(f"tag {number:02}",))
    html = page_of(ledger)
    dearest = [f"tag {number}" for number in range(69, 19, -1)]
    assert "20 more are in the JSON." in html
    assert re.findall(r"<td>(tag \d+)</td>", html[html.index("<h2>All sums") :]) == dearest
    said = run(capsys, "report", str(tmp_path / "report.db"))[1]
    assert re.findall(r"^tag \d+", said, flags=re.M) == dearest
    assert "\n20 tags that cost less: --json\n" in said


def test_the_table_below_a_chart_over_time_has_every_bin_and_that_of_days_every_day(
    tmp_path: Path,
) -> None:
    ledger = opened(tmp_path)
    for number in range(70):
        log_request(ledger, f"r{number}", MONDAY + number * DAY, CENT)
    html = page_of(ledger)
    days = [str(date(2026, 10, 26) + timedelta(days=number)) for number in range(70)]
    *below, sums = re.split("<h2>(?:Spend over|Tier mix|What an accepted|All sums)", html)[1:]
    for part in (*below[:2], sums):
        assert re.findall(r"<td>(20\d\d-\d\d-\d\d)</td>", part) == days
    assert "more are in the JSON" not in html


def test_the_command_writes_the_page_and_says_the_rest_as_ever(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ledger = opened(tmp_path)
    month(ledger, 40)
    ledger.close()
    store, target = str(tmp_path / "report.db"), tmp_path / "page.html"
    code, before, _ = run(capsys, "report", store)
    assert code == 0
    code, out, _ = run(capsys, "report", store, "--html", str(target))
    assert code == 0
    assert out == f"{before}Page: {target}\n"
    assert "<h1>" in target.read_text(encoding="utf-8")
    code, out, _ = run(capsys, "report", store, "--html", str(target), "--json")
    said = json.loads(out)
    assert (code, said["html"], said["requests"] > 0) == (0, str(target), True)
    assert {each["name"] for each in said["prices"]} >= set(MODELS.values())


def test_a_page_that_cannot_be_written_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    opened(tmp_path).close()
    store = str(tmp_path / "report.db")
    code, _, err = run(capsys, "report", store, "--html", str(tmp_path / "none" / "page.html"))
    assert (code, "there is no folder" in err) == (2, True)
    code, _, err = run(capsys, "report", store, "--html", f"{tmp_path}/{'x' * 300}.html")
    assert (code, "cannot be written" in err) == (1, True)


def test_no_page_is_written_over_a_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ledger, store = opened(tmp_path), str(tmp_path / "report.db")
    log_request(ledger, "a", NOW, CENT)
    ledger.close()
    code, _, err = run(capsys, "report", store, "--html", store)
    assert (code, "report.db is a database" in " ".join(err.split())) == (2, True)
    assert json.loads(run(capsys, "report", store, "--json")[1])["realized_usd"] == 0.01


def test_the_period_asked_for_is_the_page_s(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ledger = opened(tmp_path)
    for day in range(4):
        log_request(ledger, f"r{day}", MONDAY + day * DAY, CENT)
    ledger.close()
    target = tmp_path / "page.html"
    bounds = ("--since", "2026-10-27", "--until", "2026-10-29", "--html", str(target))
    assert run(capsys, "report", str(tmp_path / "report.db"), *bounds)[0] == 0
    html = target.read_text(encoding="utf-8")
    assert "27 October 2026 to 28 October 2026" in html
    assert "2026-10-29" not in html


def test_words_in_a_chart_are_words_whoever_chose_them() -> None:
    frame = Frame(100, 100, 1, [0, 1])
    frame.text(0, 0, HOSTILE)
    frame.rect(0, 0, 1, 1, "x", HOSTILE)
    frame.dot(0, 0, 1, "x", HOSTILE)
    frame.x_axis([0], [HOSTILE], HOSTILE)
    chart = ElementTree.fromstring(frame.svg(HOSTILE, HOSTILE))
    assert {each.tag for each in chart.iter()} == {"svg", "title", "desc", "text", "rect", "circle"}
    assert chart.get("aria-label") == HOSTILE
    assert key(("x", HOSTILE)).count("<") == key(("x", "")).count("<")


def test_ticks_enclose_their_range_in_round_steps() -> None:
    assert ticks_between(0.52, 0.93) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert ticks_between(0.5, 0.5)[0] <= 0.5 <= ticks_between(0.5, 0.5)[-1]
    assert usd_labels([0, 0.05, 0.1]) == ["$0.00", "$0.05", "$0.10"]
    assert usd_labels([0, 2000.0]) == ["$0", "$2,000"]
