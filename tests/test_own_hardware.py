"""Models on one's own hardware: what a token costs, when that is cheaper."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from router.cli import main
from router.policy.loader import load_policy
from router.prices import PriceEntry, cost, load_book, to_price
from router.replay.report.break_even import TokenCounts, break_evens
from router.types import AttemptRow, Usage
from tests.conftest import HELLO, MakeRouter, ladder, only
from tests.provider import Provider

GPU = {
    "hour_usd": "3.60",
    "count": 2,
    "input_tokens_per_second": 10_000,
    "output_tokens_per_second": 2_000,
    "utilisation": "0.25",
}
NOW = 1_790_000_000.0


def price(**changes: Any) -> Any:
    return to_price(PriceEntry.model_validate({"gpu": {**GPU, **changes}}), "own/m")


# ── prices ─────────────────────────────────────────────────────────────────────────────────────
def test_amortised_spreads_paid_hours_over_the_tokens_served() -> None:
    # $7.20 an hour; 10,000 * 3,600 * 0.25 = 9,000,000 prompt tokens in it: $0.80 a million.
    # 2,000 * 3,600 * 0.25 = 1,800,000 answer tokens: $4 a million.
    rates = price().rates
    assert (rates.input, rates.output) == (800_000_000, 4_000_000_000)
    assert cost(price(), Usage(input=1_000, output=500), now=NOW) == 800_000 + 2_000_000


def test_marginal_charges_busy_time_alone() -> None:
    # By the second of work: $7.20 for 36,000,000 or 7,200,000 tokens.
    rates = price(regime="marginal").rates
    assert (rates.input, rates.output) == (200_000_000, 1_000_000_000)
    # Paid hours with $0.36 of power in them, whatever the utilisation: a tenth of that.
    rates = price(regime="marginal", busy_hour_usd="0.36", utilisation="1").rates
    assert (rates.input, rates.output) == (20_000_000, 100_000_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"busy_hour_usd": "0.36"},  # amortised has no use for it
        {"regime": "marginal", "busy_hour_usd": "3.61"},
        {"regime": "sunk"},
        {"utilisation": "0"},
        {"hour_usd": -1},
    ],
)
def test_hardware_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        price(**changes)


# ── break-even ─────────────────────────────────────────────────────────────────────────────────
def against(api: tuple[str, str], **gpu: Any) -> Any:
    """A policy with one own deployment, and one at an API at ($ input, $ output) a million."""
    policy = ladder("http://127.0.0.1:9")
    own = {**policy["tiers"]["nano"][0], "price": {"gpu": {**GPU, **gpu}}}
    other = {**policy["tiers"]["frontier"][0], "price": {"input": api[0], "output": api[1]}}
    policy["tiers"] = {"nano": [own], "frontier": [other]}
    return load_policy(policy)


def counts(prompt: int, answer: int) -> TokenCounts:
    found = TokenCounts()
    found.by_model["openai/t-nano"] = [prompt, answer]
    return found


def test_break_even_of_paid_hours_by_hand() -> None:
    # $7.20 * 24 = $172.80 a day. Half prompts: a token costs (2 + 8) / 2 = $5 a million at the API.
    # 172.80 / 5 = 34.56 million tokens a day. A pair takes 1/10,000 + 1/2,000 s, so a day serves
    # 2 * 86,400 / 0.0006 = 288 million, at $0.60 a million.
    [found] = break_evens([against(("2", "8"))], load_book(), NOW, counts(500, 500), 100.0)
    assert found.tokens_per_day == 34_560_000
    assert found.serves_per_day == 288_000_000
    assert (found.api, found.own_full, found.fixed) == (
        5_000_000_000, 600_000_000, 172_800_000_000,
    )  # fmt: skip
    assert found.own_priced == 2_400_000_000  # a quarter busy: four times as much
    assert found.measured_per_day == pytest.approx(1000 * 864)
    assert found.measured_utilisation == pytest.approx((0.05 + 0.25) / 100)
    assert found.verdict == "from 34,560,000 tokens a day, 12.0% of what it can serve"


def test_an_api_cheaper_than_full_load_is_never_beaten() -> None:
    [found] = break_evens([against(("0.2", "0.9"))], load_book(), NOW, counts(500, 500), 1.0)
    assert found.tokens_per_day is None
    assert found.verdict.startswith("never: even at full load")
    [just] = break_evens([against(("0.6", "0.6"))], load_book(), NOW, counts(500, 500), 1.0)
    assert just.tokens_per_day == just.serves_per_day  # $0.60 against $0.60


def test_break_even_of_marginal_regimes_by_hand() -> None:
    # Power of $0.72 an hour for both: a pair takes 0.0006 s, so 0.72 / 3600 * 0.0003 s a token is
    # $0.06 a million; $6.48 * 24 = $155.52 a day are paid anyhow. 155.52 / (5 - 0.06) million.
    policy = against(("2", "8"), regime="marginal", busy_hour_usd="0.36")
    [found] = break_evens([policy], load_book(), NOW, counts(500, 500), 1.0)
    assert found.tokens_per_day == -(-155_520_000_000_000 // 4_940_000)
    # By the second of work nothing is fixed: at any volume, or never.
    policy = against(("2", "8"), regime="marginal")
    [found] = break_evens([policy], load_book(), NOW, counts(500, 500), 1.0)
    assert (found.tokens_per_day, found.verdict) == (0, "at any volume")
    policy = against(("0.2", "0.9"), regime="marginal")
    [found] = break_evens([policy], load_book(), NOW, counts(500, 500), 1.0)
    assert found.tokens_per_day is None


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 900), st.integers(1, 900))
def test_just_below_the_break_even_the_api_is_cheaper_and_from_it_on_it_is_not(
    prompt: int, answer: int, read: int, write: int
) -> None:
    policy = against((str(read), str(write)))
    [found] = break_evens([policy], load_book(), NOW, counts(prompt, answer), 1.0)
    share = Fraction(prompt, prompt + answer)
    api = (share * read + (1 - share) * write) * 1000  # nano-USD a token
    if found.tokens_per_day is not None:
        assert (found.tokens_per_day - 1) * api < 172_800_000_000 <= found.tokens_per_day * api
    else:
        assert found.serves_per_day * api < 172_800_000_000


def test_the_mix_is_assumed_where_nothing_is_logged_and_said_to_be() -> None:
    [found] = break_evens([against(("2", "8"))], load_book(), NOW, TokenCounts(), 0.0)
    assert not found.mix_measured
    assert found.prompt_share == 0.75
    assert found.measured_utilisation is None


def test_a_minute_is_counted_whole_where_retries_fall_into_the_next_one() -> None:
    seen = TokenCounts()
    bill = (0, 0, "computed", "", 1.0, None, 10, 100)
    for second in range(60):
        for number, time_ in enumerate((second, second + 30), start=1):
            arm = ("nano/0:m", "nano", "m")
            seen.add(AttemptRow("r", number, time_, 0, *arm, 1.0, "answered", *bill))
    assert seen.busiest_minute == {"m": 100 * (60 + 30)}


def test_the_busiest_minute_shows_what_the_hardware_can_write_at_least() -> None:
    seen = TokenCounts()
    times = (0, 10, 59, 60, 61, 200)
    for time_, written in zip(times, (600, 600, 1200, 90, 60, 1200), strict=True):
        arm = ("nano/0:openai/t-nano", "nano", "openai/t-nano")
        bill = (0, 0, "computed", "", 1.0, None, 10, written)
        seen.add(AttemptRow("r", 1, time_, 0, *arm, 1.0, "answered", *bill))
    assert seen.busiest_minute == {"openai/t-nano": 2400}
    [found] = break_evens([against(("2", "8"))], load_book(), NOW, seen, 3600.0)
    assert (found.measured_writing, found.writing) == (40.0, 2000.0)
    assert "wrote up to 40 tokens a second in a minute; 2,000 are assumed." in found.seen


def test_router_report_shows_it_on_the_terminal_in_json_and_on_the_page(
    provider: Provider,
    make_router: MakeRouter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0]["price"] = {"gpu": GPU}
    router = make_router(tiers=tiers, rules=[only("nano")], objective={"cost_weight": 10_000})
    router.completion(messages=HELLO)
    policy = tmp_path / "own.yaml"
    policy.write_text(json.dumps(ladder(provider.url, tiers=tiers)))
    store, page = str(tmp_path / "router.db"), tmp_path / "page.html"

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as done:
            main(["report", store, "--policy", str(policy), *arguments])
        assert not done.value.code
        return capsys.readouterr().out

    assert "openai/t-nano is cheaper than openai/t-frontier from" in " ".join(run().split())
    facts = json.loads(run("--json", "--html", str(page)))["break_even"]
    assert [fact["api_model"] for fact in facts] == [
        "openai/t-mini", "openai/t-mid", "openai/t-frontier",
    ]  # fmt: skip
    assert facts[0]["tokens_per_day"] > facts[2]["tokens_per_day"]
    assert facts[0]["fixed_nano"] == 172_800_000_000
    assert "Own hardware" in page.read_text()
