"""Lint: what is allowed in a policy but probably not meant."""

import pytest

from router.policy import lint, load_policy
from router.prices import load_book
from router.prices.book import BookEntry, Capabilities, PriceBook

BOOK = load_book()
NOW = 1_795_500_000.0  # 2026-11-24, 06:40 UTC
ALL = {"vision": True, "audio": False, "files": True, "tools": True, "structured_output": True}


def deployment(model: str, input: object, output: object, **more: object) -> dict:
    capabilities = {**ALL, "context_window": 200_000, "max_output_tokens": 8192}
    price = {"input": str(input), "output": str(output), "above": more.pop("above", [])}
    return {"model": f"x/{model}", "price": price, "capabilities": capabilities, **more}


def findings(tiers: dict, book: PriceBook = BOOK, **more: object) -> list[tuple[str, str, str]]:
    data = {"version": 1, "objective": {"cost_weight": 5}, "tiers": tiers, **more}
    policy = load_policy(data, book=book, now=NOW)
    return [(found.severity, found.key, found.message) for found in lint(policy, book, NOW)]


def test_a_ladder_in_order_has_no_findings():
    ladder = {
        "nano": [deployment("a", 0.1, 0.4)],
        "mini": [deployment("b", 0.5, 2)],
        "frontier": [deployment("c", 5, 25)],
    }
    assert findings(ladder) == []


def test_the_length_is_found_at_which_claude_haiku_5_5_becomes_the_dearer_tier():
    tiers = {
        "mini": [{"model": "anthropic/claude-haiku-5-5"}],
        "mid": [{"model": "openai/gpt-5-mini"}],
        "frontier": [{"model": "openai/gpt-5.5"}],
    }
    assert findings(tiers) == [
        ("warning", "tiers.mini", "mini is dearer than mid from 100,001 to 272,000 prompt tokens")
    ]


@pytest.mark.parametrize(
    ("mini", "mid", "words"),
    [
        # 0.1 n + 10 * 500 > 1 n + 1 * 500 until n = 5000
        ((0.1, 10), (1, 1), "up to 4,999 prompt tokens"),
        ((1, 1), (0.1, 10), "from 5,001 prompt tokens"),
        ((2, 2), (1, 1), "at every prompt length"),
    ],
)
def test_an_order_that_flips_without_a_threshold_is_found_to_the_token(mini, mid, words):
    tiers = {
        "mini": [deployment("a", *mini)],
        "mid": [deployment("b", *mid)],
        "frontier": [deployment("c", 50, 50)],
    }
    assert ("warning", "tiers.mini", f"mini is dearer than mid {words}") in findings(tiers)


def test_a_flip_inside_two_thresholds_is_found():
    above = [
        {"tokens": 1000, "input": "10", "output": "10"},
        {"tokens": 2000, "input": "1", "output": "1"},
    ]
    tiers = {
        "mini": [deployment("a", 1, 1, above=above)],
        "frontier": [deployment("c", 5, 5)],
    }
    messages = [message for _, _, message in findings(tiers)]
    assert "mini is dearer than frontier from 1,001 to 2,000 prompt tokens" in messages


def test_the_leader_changes_where_the_window_of_the_first_deployment_ends():
    small = deployment("small", 0.1, 0.1)
    small["capabilities"] = {**small["capabilities"], "context_window": 8000}
    tiers = {
        "mini": [small, deployment("large", 9, 9)],
        "frontier": [deployment("c", 5, 5)],
    }
    messages = [message for _, _, message in findings(tiers)]
    assert "mini is dearer than frontier from 8,001 prompt tokens" in messages


def test_a_baseline_that_is_not_the_dearest_is_found():
    tiers = {"mid": [deployment("a", 9, 9)], "frontier": [deployment("b", 5, 5)]}
    found = [each for each in findings(tiers) if each[1] == "baseline"]
    assert found == [
        (
            "warning",
            "baseline",
            "the baseline frontier is not the dearest: x/a (tiers.mid.0) costs more at every "
            "prompt length, so savings can be negative",
        )
    ]


def test_a_deployment_dearer_than_one_of_a_higher_tier_that_can_do_as_much_is_found():
    tiers = {"mid": [deployment("a", 9, 9)], "frontier": [deployment("b", 5, 9)]}
    dominated = [each for each in findings(tiers) if "can do nothing more" in each[2]]
    assert [(severity, key) for severity, key, _ in dominated] == [("warning", "tiers.mid.0")]


@pytest.mark.parametrize("more", [{"audio": True}, {"context_window": 300_000}, {"vision": None}])
def test_a_deployment_that_can_or_may_do_more_is_not_dominated(more):
    dear = deployment("a", 9, 9)
    dear["capabilities"] = {**dear["capabilities"], **more}
    cheap = deployment("b", 5, 9)
    if more == {"vision": None}:  # then only the other's lack of it would leave room for more
        cheap["capabilities"] = {**cheap["capabilities"], "vision": False}
    tiers = {"mid": [dear], "frontier": [cheap]}
    assert not [each for each in findings(tiers) if "can do nothing more" in each[2]]


def test_a_deployment_that_is_cheaper_at_some_length_or_for_some_answer_is_not_dominated():
    tiers = {"mid": [deployment("a", 9, 5)], "frontier": [deployment("b", 5, 9)]}
    assert not [each for each in findings(tiers) if "can do nothing more" in each[2]]


def test_a_dearer_stand_in_is_only_a_note_and_a_dearer_leader_a_warning():
    tiers = {"frontier": [deployment("a", 5, 9), deployment("b", 5, 10)]}
    (found,) = findings(tiers)
    assert found[:2] == ("note", "tiers.frontier.1")
    assert "stands in" in found[2]
    tiers["frontier"].reverse()
    (found,) = findings(tiers)
    assert found[:2] == ("warning", "tiers.frontier.0")


def test_an_unpriced_and_unknown_model_is_found():
    tiers = {"frontier": [deployment("a", 5, 9), {"model": "no/such"}]}
    found = findings(tiers)
    assert {key for _, key, _ in found} == {"tiers.frontier.1", "tiers.frontier.1.capabilities"}
    assert "no known price; its cost counts as unknown" in found[0][2]
    limited = findings(tiers, budgets=[{"name": "b", "limit": "1"}])
    assert "it is never called" in limited[0][2]


def test_what_is_found_of_a_deployment_is_said_once_however_many_efforts_it_has():
    several = {"efforts": ["low", "medium", "high"], "vote": {"samples": 3}}
    tiers = {"mid": [deployment("a", 9, 9, **several)], "frontier": [deployment("b", 5, 9)]}
    assert len(findings(tiers)) == len(set(findings(tiers))) == 3
    tiers = {"frontier": [deployment("b", 5, 9), {"model": "no/such", **several}]}
    assert len(findings(tiers)) == 2


def test_an_effort_that_the_model_does_not_take_is_found():
    found = findings({"frontier": [{"model": "openai/gpt-4o", "effort": "high"}]})
    assert [key for _, key, _ in found] == ["tiers.frontier.0.effort"]
    found = findings({"frontier": [{"model": "openai/gpt-5-mini", "effort": "none"}]})
    assert "takes only minimal, low, medium, high" in found[0][2]


def test_keep_quality_is_noted_as_not_certified():
    tiers = {"frontier": [deployment("a", 5, 9)]}
    (found,) = findings(tiers, objective={"keep_quality": 0.9})
    assert found[:2] == ("note", "objective.keep_quality")


def test_an_own_price_is_used_instead_of_the_books():
    line = {
        "model": "x/a", "input": "100", "output": "100", "effective_from": "2025-01-01",
        "checked": "2025-01-01", "source": "test", "capabilities": Capabilities(**ALL),
    }  # fmt: skip
    book = PriceBook([BookEntry.model_validate(line)], "0" * 64)
    tiers = {"mid": [{"model": "x/a"}], "frontier": [deployment("b", 50, 50)]}
    assert any(key == "baseline" for _, key, _ in findings(tiers, book))
    tiers["mid"] = [deployment("a", 1, 1)]
    assert not any(key == "baseline" for _, key, _ in findings(tiers, book))


def test_what_compaction_and_cache_lifetimes_cannot_do_is_said():
    tiers = {"frontier": [deployment("a", 1, 4, cache_seconds=60)]}
    found = findings(tiers, compaction={})
    assert [key for _, key, _ in found] == ["tiers.frontier.0.cache_seconds", "compaction"]
    kept = findings(tiers, compaction={}, log={"content": True}, conversations={"remember": 0})
    assert kept[-1][:2] == ("warning", "conversations.remember")
