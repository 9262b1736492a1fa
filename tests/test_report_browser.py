"""Reports in a real Chromium: nothing is fetched, nothing complains, every figure is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.drift.record import Alarm
from router.drift.watcher import accept, all_alarms, raise_alarms
from router.replay.report.data import report_data
from router.replay.report.page import page
from router.types import Budget
from tests import browser as chromium
from tests.report_kit import BUDGETS, CENT, DAY, HOSTILE, NOW, log_request, month, opened, views

WIDTHS = (1000, 390)

# Of each SVG: its size, and the marks in it that take up room and are painted.
CHARTS = """
[...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('path, rect, circle, line')].filter(mark => {
    const size = mark.getBoundingClientRect(), style = getComputedStyle(mark);
    const painted = colour => !['none', 'rgba(0, 0, 0, 0)', 'transparent'].includes(colour);
    return size.width + size.height > 0 && (painted(style.fill) || painted(style.stroke));
  });
  return {name: svg.getAttribute('aria-label'), width: box.width, height: box.height,
          marks: marks.length};
})
"""
# Words of charts that leave the page, or lie on one another.
CLASHES = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const words = [...svg.querySelectorAll('text')];
  const boxes = words.map(word => word.getBoundingClientRect());
  const found = [];
  boxes.forEach((a, i) => {
    if (a.left < 0 || a.right > document.documentElement.clientWidth)
      found.push('off the page: ' + words[i].textContent);
    boxes.slice(i + 1).forEach((b, j) => {
      if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
        found.push(words[i].textContent + ' on ' + words[i + 1 + j].textContent);
    });
  });
  return found;
})
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    """Fails, rather than skips, where there is no Chromium."""
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened_browser:
        yield opened_browser


def one(ledger: Any) -> None:
    log_request(ledger, "a", NOW, CENT, label=1.0)


def hostile(ledger: Any) -> None:
    more: dict[str, Any] = {"tags": (HOSTILE,), "scopes": {"user": HOSTILE}}
    names = {"tier": HOSTILE, "model": f"{HOSTILE}{'x' * 190}"}
    log_request(ledger, "a", NOW - DAY, CENT, attempt=names, label=1.0, **more)
    log_request(ledger, "b", NOW, CENT, **more)
    log_request(ledger, "c", NOW, 0, status="failed", **{**more, "error": HOSTILE})


def unknown(ledger: Any) -> None:
    log_request(ledger, "a", NOW, None, baseline=None, decision=views("mini", expected=None))


def drifted(ledger: Any) -> None:
    """An alarm that was accepted, and one that is open, with names that no page expects."""
    old = Alarm("novel", NOW - 9 * DAY, NOW - 10 * DAY, 99.0, 20.0, "1%", "9%", "p@1")
    new = Alarm("tokens/mini", NOW - DAY, NOW - 2 * DAY, 99.0, 20.0, "30", HOSTILE, "p@1")
    raise_alarms(ledger.log(), HOSTILE, [old], 0)
    accept(ledger.log(), HOSTILE, NOW - 8 * DAY, by="ann", note=HOSTILE)
    raise_alarms(ledger.log(), HOSTILE, [new], 1)
    log_request(ledger, "before", NOW - 20 * DAY, CENT)
    for name in ("a", "b"):
        log_request(ledger, name, NOW, CENT, tier="frontier", features={"drift": new.text})


def write(folder: Path, fill: Callable[[Any], object], budgets: tuple[Budget, ...]) -> Path:
    ledger = opened(folder, budgets)
    fill(ledger)
    alarms = all_alarms(ledger.log())
    data = report_data(ledger.log(), ledger.states(NOW), now=NOW, alarms=alarms)
    ledger.close()
    target = folder / "page.html"
    target.write_text(page(data, made=NOW), encoding="utf-8")
    return target


LOGS: dict[str, tuple[Callable[[Any], object], tuple[Budget, ...], int]] = {
    "a month": (month, BUDGETS, 4),
    "one request": (one, (), 4),
    "hostile names": (hostile, (Budget(HOSTILE, CENT * 9, window="day", scope="user"),), 4),
    "unknown prices": (unknown, (), 1),
    "drift": (drifted, (), 3),
    "nothing": (lambda ledger: None, BUDGETS, 0),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_report_draws_every_figure_fetches_nothing_and_complains_of_nothing(
    name: str, browser: chromium.Browser, tmp_path: Path
) -> None:
    fill, budgets, figures = LOGS[name]
    path = write(tmp_path, fill, budgets)
    shown = browser.open(path)
    for dark in (False, True):
        for width in WIDTHS:
            shown.show(dark=dark, width=width)
            charts = shown.evaluate(CHARTS)
            assert len([chart for chart in charts if chart["name"]]) == figures
            for chart in charts:
                least = 200 if chart["name"] else 8
                assert chart["width"] >= least, chart
                assert chart["height"] >= least / 4, chart
                assert chart["marks"] >= (3 if chart["name"] else 1), chart
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            if width == WIDTHS[0]:
                assert shown.evaluate(CLASHES) == []
            assert shown.screenshot().startswith(b"\x89PNG")
    assert shown.pdf().startswith(b"%PDF")
    assert shown.evaluate("document.scripts.length + document.images.length") == 0
    assert shown.fetched == [path.as_uri()]
    assert shown.complaints == []


@pytest.mark.parametrize("name", ["a month", "hostile names"])
def test_at_any_width_the_page_fits_and_the_words_of_its_charts_can_be_read(
    name: str, browser: chromium.Browser, tmp_path: Path
) -> None:
    fill, budgets, _ = LOGS[name]
    shown = browser.open(write(tmp_path, fill, budgets))
    smallest = """
    Math.min(...[...document.querySelectorAll('svg[role=img] text')]
      .map(word => word.getBoundingClientRect().height))
    """
    for width in (320, 360, 600, 641, 700, 780, 1400):
        shown.show(width=width)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate(smallest) >= 10, width


def test_no_amount_is_cut_however_large_it_is(browser: chromium.Browser, tmp_path: Path) -> None:
    def fill(ledger: Any) -> None:
        for day in range(30):
            bill = {"baseline": 90_071 * 10**9 + 7}
            log_request(ledger, f"r{day}", NOW - day * DAY, 41_152 * 10**9 + 3, label=1.0, **bill)

    shown = browser.open(write(tmp_path, fill, ()))
    cut = """
    [...document.querySelectorAll('h1, .lead, dl.facts dt, dl.facts dd')].filter(each => {
      const words = document.createRange();
      words.selectNodeContents(each);
      const box = (each.closest('dl') || document.querySelector('main')).getBoundingClientRect();
      return words.getBoundingClientRect().right > box.right;
    }).map(each => each.innerText)
    """
    for width in (320, 360, 640, 641, 1000):
        shown.show(width=width)
        assert shown.evaluate(cut) == [], width
    amounts = shown.evaluate("[...document.querySelectorAll('dl.facts dd')].map(e => e.innerText)")
    assert amounts[1].startswith("$2,702,130.00")


def test_light_dark_and_paper_each_have_colours_that_can_be_read(
    browser: chromium.Browser, tmp_path: Path
) -> None:
    shown = browser.open(write(tmp_path, one, ()))

    def contrast() -> float:
        colours = "[getComputedStyle(document.body).color, getComputedStyle(document.body)" \
                  ".backgroundColor]"  # fmt: skip
        pair = [
            [int(part) / 255 for part in colour[4:-1].split(", ")]
            for colour in shown.evaluate(colours)
        ]
        lights = sorted(
            sum(
                share * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                for share, c in zip((0.2126, 0.7152, 0.0722), colour, strict=True)
            )
            for colour in pair
        )
        return (lights[1] + 0.05) / (lights[0] + 0.05)

    background = "getComputedStyle(document.body).backgroundColor"
    grounds = []
    for dark in (False, True):
        shown.show(dark=dark)
        grounds.append(shown.evaluate(background))
        assert contrast() >= 7  # WCAG 2, level AAA
    assert grounds[0] != grounds[1]
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    shown.call("Emulation.setEmulatedMedia", media="print", features=features)
    assert shown.evaluate(background) == "rgb(255, 255, 255)"  # paper is white whatever the screen
    assert contrast() >= 7


def test_on_paper_no_closed_table_leaves_an_empty_line(
    browser: chromium.Browser, tmp_path: Path
) -> None:
    shown = browser.open(write(tmp_path, month, ()))
    visible = "[...document.querySelectorAll('summary')].filter(e => e.checkVisibility()).length"
    assert shown.evaluate(visible) > 3
    shown.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert shown.evaluate(visible) == 0


def test_a_screen_reader_is_told_of_headings_figures_and_tables(
    browser: chromium.Browser, tmp_path: Path
) -> None:
    shown = browser.open(write(tmp_path, month, BUDGETS))
    nodes = shown.call("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    images = [name for role, name in named if role in ("image", "img")]
    assert "Predicted share of good answers against predicted cost" in images
    assert len(images) == 4, json.dumps(images)
    assert [role for role, _ in named].count("table") >= 8
    assert ("heading", "Budgets") in named


def test_the_page_shows_what_changed_since_when_what_was_done_and_who_accepted_it(
    browser: chromium.Browser, tmp_path: Path
) -> None:
    shown = browser.open(write(tmp_path, drifted, ()))
    cells = """
    [...document.querySelectorAll('section')]
      .filter(part => part.querySelector('h2').textContent === 'Changes found')
      .flatMap(part => [...part.querySelectorAll('tbody tr')])
      .map(row => [...row.children].map(cell => cell.innerText))
    """
    new, old = shown.evaluate(cells)
    assert new == [
        f"tokens of mini's answers\npolicy {HOSTILE}",
        "2026-11-23 09:30 UTC",
        "30",
        HOSTILE,
        "2 requests kept to the baseline tier, where they could",
        "open",
    ]
    assert old[0].startswith("requests unlike anything in training")
    assert old[4:] == [
        "no request was decided otherwise",
        f"accepted 2026-11-17 09:30 UTC by ann\n{HOSTILE}",
    ]
    assert shown.evaluate("document.querySelector('section h2').textContent") == "Changes found"
    (other := tmp_path / "other").mkdir()
    without = browser.open(write(other, one, ()))
    assert without.evaluate(cells) == []


def test_the_browser_reports_what_a_page_fetches_and_complains_of(
    browser: chromium.Browser, tmp_path: Path
) -> None:
    """Else the silence of the tests above would prove nothing."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img src='missing.png'><script>console.error('oh'); setTimeout(() => nope(), 0)</script>",
        encoding="utf-8",
    )
    shown = browser.open(bad)
    shown.evaluate("new Promise(done => setTimeout(done, 50))")
    assert shown.fetched == [bad.as_uri(), (tmp_path / "missing.png").as_uri()]
    said = " ".join(shown.complaints)
    assert "oh" in said
    assert "nope is not defined" in said


def test_without_a_browser_a_test_fails_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(RuntimeError, match="apt-get install chromium-headless-shell"):
        chromium.executable()
