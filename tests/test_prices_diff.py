"""`router prices`: the book shown, checked, and compared with its public sources."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router.cli import main
from router.cli.prices import command
from router.errors import ConfigurationError
from router.prices import load_book
from router.prices.book import SHIPPED, seal
from router.prices.diff import Row, diff

NOW = datetime(2026, 11, 24, 20, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, int], Row]:
    return {(row.model, row.bucket, row.above): row for row in diff(load_book(), NOW)}


def run(*args: str) -> Result:
    return CliRunner().invoke(command, list(args))


Rows = dict[tuple[str, str, int], Row]


def test_diff_shows_that_sources_disagree_on_long_prompts_to_sonnet_4_5(rows: Rows) -> None:
    model = "anthropic/claude-sonnet-4-5"
    assert rows[model, "input", 0].verdict == "agree"
    for bucket, ours, litellm in (("input", "6", "3"), ("output", "22.5", "15")):
        row = rows[model, bucket, 200_000]
        assert (row.ours, row.litellm, row.genai_prices) == (ours, litellm, ours)
        assert row.verdict == "differs"


def test_diff_shows_that_sources_disagree_on_deepseek_chat(rows: Rows) -> None:
    found = {
        bucket: (row.litellm, row.genai_prices, row.verdict)
        for bucket in ("input", "output")
        if (row := rows["deepseek/deepseek-chat", bucket, 0])
    }
    assert found == {"input": ("0.28", "0.27", "differs"), "output": ("0.42", "1.1", "differs")}


def test_diff_compares_times_of_day_at_the_dearest(rows: Rows) -> None:
    row = rows["deepseek/deepseek-v4-flash", "input", 0]
    assert (row.ours, row.genai_prices, row.verdict) == ("0.3", "0.3", "agree")


def test_whatever_differs_from_a_source_is_noted_in_the_book(rows: Rows) -> None:
    book = load_book()
    for row in rows.values():
        if row.verdict in ("differs", "not here"):
            entry = book.entry(row.model, NOW)
            assert entry is not None
            assert "sources disagree" in entry.note, row


def test_a_rate_that_long_prompts_have_not_here_is_not_taken_from_short_ones(
    tmp_path: Path,
) -> None:
    entry = json.loads(
        next(line for line in SHIPPED.read_text().splitlines() if '"openai/gpt-5.5"' in line)
    )
    del entry["above"][0]["cache_read"]  # so cached tokens are charged as input there
    book = tmp_path / "book.jsonl"
    book.write_text(json.dumps(entry) + "\n")
    seal(book)
    found = {(row.bucket, row.above): row for row in diff(load_book(book), NOW)}
    assert (found["cache_read", 0].ours, found["cache_read", 0].verdict) == ("0.5", "agree")
    longer = found["cache_read", 272_000]
    assert (longer.ours, longer.litellm, longer.verdict) == (None, "1", "not here")


def test_rates_of_the_sources_are_exact_decimals(rows: Rows) -> None:
    for row in rows.values():
        for rate in (row.ours, row.litellm, row.genai_prices):
            if rate is not None:
                assert len(Decimal(rate).as_tuple().digits) <= 6, row


def test_diff_with_one_source_leaves_the_other_out() -> None:
    only = diff(load_book(), NOW, ["litellm"])
    assert only
    assert {row.genai_prices for row in only} == {None}


def test_reading_litellms_map_does_not_import_litellm() -> None:
    code = (
        "import sys; from router.prices import load_book; from router.prices.diff import diff; "
        "assert diff(load_book(), 1.8e9, ['litellm']); assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def hide(package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.data_snapshot", None)

    return hide


def test_without_genai_prices_the_error_says_what_to_install(
    without: Callable[[str], None],
) -> None:
    without("genai_prices")
    with pytest.raises(ConfigurationError, match=r"pip install 'tiered-router\[prices\]'"):
        diff(load_book(), NOW)
    assert diff(load_book(), NOW, ["litellm"])


def test_show_lists_exact_decimal_text() -> None:
    result = run("show", "--json")
    assert result.exit_code == 0
    shown = {entry["model"]: entry for entry in json.loads(result.output)}
    mini = shown["openai/gpt-5.4-mini"]
    assert mini["input_usd_per_mtok"] == "0.75"
    assert mini["output_usd_per_mtok"] == "4.5"
    assert mini["cache_read_usd_per_mtok"] == "0.075"
    pro = shown["openai/gpt-5.4-pro"]
    assert (pro["above"][0]["tokens"], pro["above"][0]["input_usd_per_mtok"]) == (272_000, "60")
    assert pro["context_window"] == 1_050_000
    assert pro["effective_from"] == "2026-03-05"
    assert "openai/gpt-5.4-pro-2026-03-05" in pro["aliases"]


def test_show_of_one_model_takes_its_short_name() -> None:
    (shown,) = json.loads(run("show", "gpt-5.4-nano", "--json").output)
    assert shown["model"] == "openai/gpt-5.4-nano"


def test_the_tables_hold_whole_names_and_one_line_a_row_in_a_pipe() -> None:
    shown, compared = run("show"), run("diff")
    assert shown.exit_code == compared.exit_code == 0
    line = next(row for row in shown.output.splitlines() if "mixtral-8x7b-instruct" in row)
    assert line.startswith("fireworks_ai/accounts/fireworks/models/mixtral-8x7b-instruct ")
    assert "0.5" in line
    assert "anthropic/claude-sonnet-4-5 " in compared.output
    assert "rates agree with litellm and genai-prices" in compared.output


def test_diff_as_json_shows_what_differs_and_all_on_request() -> None:
    differing = json.loads(run("diff", "--json", "--source", "litellm").output)
    everything = json.loads(run("diff", "--json", "--source", "litellm", "--all").output)
    assert 0 < len(differing) < len(everything)
    assert "agree" not in {row["verdict"] for row in differing}
    assert set(differing[0]) == {
        "model",
        "bucket",
        "above",
        "ours",
        "litellm",
        "genai_prices",
        "verdict",
    }


def test_check_reports_the_shipped_book_as_sound() -> None:
    report = json.loads(run("check", "--json").output)
    assert report == {
        "hash": load_book().hash,
        "entries": len(load_book().entries),
        "models": len({entry.model for entry in load_book().entries}),
    }


def test_check_fails_with_code_1_and_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book.jsonl"
    book.write_bytes(SHIPPED.read_bytes())
    seal(book)
    book.write_text(book.read_text().replace('"input": "0.27"', '"input": "0.07"', 1))
    with pytest.raises(SystemExit) as caught:
        main(["prices", "check", "--book", str(book), "--json"])
    assert caught.value.code == 1
    assert "edited" in json.loads(capsys.readouterr().out)["message"]


def test_check_seals_an_appended_entry(tmp_path: Path) -> None:
    book = tmp_path / "book.jsonl"
    lines = SHIPPED.read_text().splitlines()
    book.write_text("\n".join(lines[:5]) + "\n")
    assert run("check", "--seal", "--book", str(book)).exit_code == 0
    assert "5 entries" in run("check", "--book", str(book)).output


def test_sealing_needs_the_name_of_a_file() -> None:
    assert run("check", "--seal").exit_code == 2


def test_an_unknown_source_is_wrong_usage() -> None:
    assert run("diff", "--source", "rumour").exit_code == 2
