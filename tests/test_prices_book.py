"""The price book: the figures it must hold, its dates and names, and that its past stands."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from router.errors import ConfigurationError
from router.money import parse_usd
from router.prices import load_book
from router.prices.book import SHIPPED, chain, seal

NOW = datetime(2026, 11, 24, tzinfo=UTC).timestamp()

FIGURES = [
    ("deepseek/deepseek-v3", "0.27", "1.10"),
    ("deepseek/deepseek-r1", "0.55", "2.19"),
    ("anthropic/claude-sonnet-4-5", "3", "15"),
    ("anthropic/claude-sonnet-4-6", "3", "15"),
    ("anthropic/claude-opus-4-5", "5", "25"),
    ("anthropic/claude-opus-4-6", "5", "25"),
    ("anthropic/claude-opus-4-7", "5", "25"),
    ("anthropic/claude-haiku-4-5", "1", "5"),
    ("openai/gpt-5.4-pro", "30", "180"),
    ("openai/gpt-5.4", "2.5", "15"),
    ("openai/gpt-5.4-mini", "0.75", "4.5"),
    ("openai/gpt-5.4-nano", "0.2", "1.25"),
    ("openai/o1", "15", "60"),
    ("mistral/mistral-small-2603", "0.15", "0.6"),
    ("gemini/gemini-2.5-flash-lite", "0.1", "0.4"),
    ("gemini/gemini-2.5-flash", "0.3", "2.5"),
    ("gemini/gemini-2.5-pro", "1.25", "10"),
    ("gemini/gemini-3.1-pro-preview", "2", "12"),
    ("groq/openai/gpt-oss-120b", "0.15", "0.6"),
    ("groq/openai/gpt-oss-20b", "0.075", "0.3"),
    ("together_ai/mistralai/Mixtral-8x7B-Instruct-v0.1", "0.6", "0.6"),
]


@pytest.mark.parametrize(("model", "input_usd", "output_usd"), FIGURES)
def test_the_book_holds_the_reference_figures(model: str, input_usd: str, output_usd: str) -> None:
    price = load_book().price(model, NOW)
    assert price is not None
    assert price.rates.input == parse_usd(input_usd)
    assert price.rates.output == parse_usd(output_usd)


@pytest.mark.parametrize(
    ("model", "bucket", "usd"),
    [
        ("openai/gpt-5.4", "cache_read", "0.25"),
        ("openai/gpt-5.4-mini", "cache_read", "0.075"),
        ("openai/gpt-5.4-nano", "cache_read", "0.02"),
        ("openai/o1", "cache_read", "7.5"),
        ("anthropic/claude-haiku-4-5", "cache_read", "0.1"),
        ("anthropic/claude-haiku-4-5", "cache_write_5m", "1.25"),
    ],
)
def test_the_book_holds_the_reference_cache_rates(model: str, bucket: str, usd: str) -> None:
    price = load_book().price(model, NOW)
    assert price is not None
    assert getattr(price.rates, bucket) == parse_usd(usd)


@pytest.mark.parametrize(
    ("model", "tokens", "input_usd", "output_usd"),
    [
        ("openai/gpt-5.4", 272_000, "5", "22.5"),
        ("openai/gpt-5.4-pro", 272_000, "60", "270"),
        ("gemini/gemini-2.5-pro", 200_000, "2.5", "15"),
        ("gemini/gemini-3.1-pro-preview", 200_000, "4", "18"),
        ("anthropic/claude-haiku-5-5", 100_000, "0.5", "2.5"),
    ],
)
def test_the_book_holds_the_prices_of_long_prompts(
    model: str, tokens: int, input_usd: str, output_usd: str
) -> None:
    price = load_book().price(model, NOW)
    assert price is not None
    ((threshold, rates),) = price.above
    assert (threshold, rates.input, rates.output) == (
        tokens,
        parse_usd(input_usd),
        parse_usd(output_usd),
    )


def test_gpt_5_4_pro_holds_a_million_tokens() -> None:
    capabilities = load_book().capabilities("openai/gpt-5.4-pro")
    assert capabilities is not None
    assert capabilities["context_window"] >= 1_000_000


@pytest.mark.parametrize("name", ["gpt-oss-120b", "gpt-oss-20b", "mixtral-8x7b"])
def test_own_hardware_is_priced_by_the_hour_and_says_that_it_is_assumed(name: str) -> None:
    entry = load_book().entry(f"self-hosted/{name}", NOW)
    assert entry is not None
    assert entry.gpu is not None
    assert "assumption" in entry.note
    assert entry.rates().output > entry.rates().input > 0


def test_every_model_says_how_much_it_can_read_and_whence_its_price_is() -> None:
    for entry in load_book().entries:
        assert entry.capabilities.context_window, entry.model
        assert entry.source
        assert entry.checked.year >= 2026
        assert entry.capabilities.reasoning or not entry.capabilities.efforts, entry.model


def test_a_model_is_found_by_alias_and_without_its_provider() -> None:
    book = load_book()
    full = book.price("openai/gpt-5.4", NOW)
    assert full is not None
    assert book.price("gpt-5.4", NOW) is full
    assert book.price("openai/gpt-5.4-2026-03-05", NOW) is full
    assert book.price("gpt-5.4-2026-03-05", NOW) is full
    assert book.capabilities("gpt-5.4") == book.capabilities("openai/gpt-5.4")


@pytest.mark.parametrize(
    "name", ["azure/gpt-5.4", "openai/gpt-oss-120b", "gpt-oss-120b", "gpt-99", "", "gpt-5.4 "]
)
def test_a_name_that_may_mean_another_price_is_unknown(name: str) -> None:
    assert load_book().price(name, NOW) is None
    assert load_book().capabilities(name) is None


def test_a_model_has_no_price_before_its_first_entry() -> None:
    book = load_book()
    before = datetime(2026, 3, 4, 23, 59, tzinfo=UTC).timestamp()
    assert book.price("openai/gpt-5.4", before) is None
    assert book.price("openai/gpt-5.4", before + 60) is not None
    assert "openai/gpt-5.4" not in {entry.model for entry in book.models(before)}


def test_the_first_release_of_the_book_is_what_it_was() -> None:
    # Later entries go below these. If this digest has to change, a past price was rewritten.
    digests = chain(SHIPPED.read_text().splitlines())
    assert digests[FIRST_RELEASE - 1] == FIRST_DIGEST


FIRST_RELEASE = 71
FIRST_DIGEST = "2ae2baab6445da8b7861077c9429f2b378e924e435cb202c9884085ea9ec370f"


# ── books of one's own ─────────────────────────────────────────────────────────────────────────
def line(**changes: Any) -> str:
    entry: dict[str, Any] = {
        "model": "own/model",
        "effective_from": "2026-01-01",
        "checked": "2026-01-02",
        "source": "an invoice",
        "input": "1",
        "output": "2",
    }
    return json.dumps(entry | changes)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.jsonl"
    path.write_text(
        "\n".join(
            [
                line(),
                line(input="3", effective_from="2026-06-01"),
                line(model="own/other", aliases=["own/alias"]),
            ]
        )
        + "\n"
    )
    assert seal(path) == 3
    return path


def test_the_newest_entry_in_effect_wins(book: Path) -> None:
    prices = load_book(book)
    for day, rate in (("2026-05-31T23:59", 10**9), ("2026-06-01T00:00", 3 * 10**9)):
        price = prices.price("own/model", datetime.fromisoformat(day + "+00:00").timestamp())
        assert price is not None
        assert price.rates.input == rate


def test_an_appended_entry_is_sealed_and_changes_the_hash(book: Path) -> None:
    before = load_book(book).hash
    with book.open("a") as file:
        file.write(line(input="4", effective_from="2026-07-01") + "\n")
    with pytest.raises(ConfigurationError, match=r"book\.jsonl:4: .*--seal"):
        load_book(book)
    sealed = book.with_suffix(".chain").read_text().splitlines()
    assert seal(book) == 1
    assert book.with_suffix(".chain").read_text().splitlines()[:3] == sealed
    assert load_book(book).hash != before
    assert len(before) == 12


@pytest.mark.parametrize("number", [1, 2, 3])
def test_editing_a_sealed_entry_is_caught_and_cannot_be_sealed(book: Path, number: int) -> None:
    lines = book.read_text().splitlines()
    lines[number - 1] = lines[number - 1].replace('"output": "2"', '"output": "1"')
    book.write_text("\n".join(lines) + "\n")
    for attempt in (load_book, seal):
        with pytest.raises(ConfigurationError, match=rf"book\.jsonl:{number}: .*edited"):
            attempt(book)


def test_a_wrong_entry_is_not_sealed_and_can_still_be_mended(book: Path) -> None:
    good, sealed = book.read_text(), book.with_suffix(".chain").read_text()
    for wrong in (line(model="own/third", aliases=["own/alias"]), line(input="-1")):
        book.write_text(f"{good}{wrong}\n")
        with pytest.raises(ConfigurationError, match=r"book\.jsonl:4: "):
            seal(book)
        assert book.with_suffix(".chain").read_text() == sealed
    book.write_text(good + line(model="own/third", aliases=["own/other-alias"]) + "\n")
    assert seal(book) == 1
    load_book(book)


def test_removing_a_sealed_entry_is_caught(book: Path) -> None:
    lines = book.read_text().splitlines()
    book.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ConfigurationError, match="removed"):
        load_book(book)
    book.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(ConfigurationError, match=r":1: .*edited"):
        load_book(book)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": 0.1}, "binary fraction"),
        ({"input": "-1"}, "input"),
        ({"input": "NaN"}, "input"),
        ({"input": "1001"}, "input"),
        ({"output": None}, "output"),
        ({"currency": "EUR"}, "currency"),
        ({"effective_from": "yesterday"}, "effective_from"),
        ({"effective_from": 20260101}, "effective_from"),
        ({"effective_from": 0}, "effective_from: 0 is not a day"),
        ({"checked": None}, "checked: None is not a day"),
        ({"model": "without-provider"}, "model"),
        ({"source": ""}, "source"),
        ({"capabilities": {"smell": True}}, "capabilities.smell"),
        ({"above": [{"tokens": 0, "input": "1", "output": "2"}]}, "above.0.tokens"),
        ({"aliases": ["own/alias"]}, "own/alias already stands for own/other"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_line_and_field(
    book: Path, changes: dict[str, Any], field: str
) -> None:
    with book.open("a") as file:
        file.write(line(**changes) + "\n")
    lines = book.read_text().splitlines()
    book.with_suffix(".chain").write_text("\n".join(chain(lines)) + "\n")
    with pytest.raises(ConfigurationError, match=r"book\.jsonl:4: ") as caught:
        load_book(book)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"model": 1, "model": 2}', "[" * 100_000, "\x00"]
)
def test_a_corrupt_book_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "book.jsonl"
    path.write_text(text)
    path.with_suffix(".chain").write_text("\n".join(chain([text])))
    with pytest.raises(ConfigurationError, match=r"book\.jsonl"):
        load_book(path)


def test_a_book_that_is_not_there_or_not_text_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_book(tmp_path / "none.jsonl")
    (tmp_path / "book.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load_book(tmp_path / "book.jsonl")


def test_the_shipped_book_is_read_once() -> None:
    assert load_book() is load_book()
