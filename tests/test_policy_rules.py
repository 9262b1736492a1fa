"""Rules: which requests they hold for, and that a pattern costs linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.rules import Condition, Rule, match
from router.types import Request, Shape


def request(tags=(), **metadata) -> Request:
    return Request("r", [], {}, 0.0, tags=tuple(tags), metadata=metadata)


def shape(text="", tokens=100, needs=()) -> Shape:
    return Shape(tokens, len(text), 1, 0, 0, 0, frozenset(needs), text)


def rule(name="r", tier="mid", **when) -> Rule:
    return Rule(name=name, tier=tier, when=Condition(**when))


@pytest.mark.parametrize(
    ("when", "yes", "no"),
    [
        ({"tags": ("a", "b")}, (request("abc"), shape()), (request("a"), shape())),
        ({"metadata": {"dept": "law"}}, (request(dept="law"), shape()), (request(), shape())),
        ({"metadata": {"n": 1}}, (request(n=1), shape()), (request(n=True), shape())),
        ({"metadata": {"on": True}}, (request(on=True), shape()), (request(on=1), shape())),
        (
            {"needs": ("vision", "tools")},
            (request(), shape(needs=["vision", "tools", "audio"])),
            (request(), shape(needs=["vision"])),
        ),
        ({"min_input_tokens": 10}, (request(), shape(tokens=10)), (request(), shape(tokens=9))),
        ({"max_input_tokens": 10}, (request(), shape(tokens=10)), (request(), shape(tokens=11))),
        ({"regex": "(?i)größe"}, (request(), shape("die GRÖßE")), (request(), shape("groesse"))),
    ],
)
def test_each_condition_holds_for_what_it_names_and_for_nothing_else(when, yes, no):
    only = rule(**when)
    assert match([only], *yes) is only
    assert match([only], *no) is None


def test_a_decimal_in_a_file_equals_the_callers_float():
    from router.policy import load_policy

    data = {
        "version": 1,
        "objective": {"cost_weight": 0},
        "tiers": {"frontier": [{"model": "a/b"}]},
        "rules": [{"name": "r", "when": {"metadata": {"risk": 0.1}}, "tier": "frontier"}],
    }
    policy = load_policy(data)
    assert match(policy.rules, request(risk=0.1), shape()) is not None
    assert match(policy.rules, request(risk=0.2), shape()) is None


def test_all_conditions_must_hold():
    both = rule(tags=("a",), min_input_tokens=10)
    assert match([both], request("a"), shape(tokens=10)) is both
    assert match([both], request("a"), shape(tokens=9)) is None
    assert match([both], request(), shape(tokens=10)) is None


def test_the_first_rule_that_holds_wins():
    rules = [rule("one", tags=("x",)), rule("two", tags=("a",)), rule("three", tags=("a",))]
    found = match(rules, request("a"), shape())
    assert found is not None
    assert found.name == "two"


def test_a_rule_allows_one_tier_or_all_on_one_side_of_it():
    when = Condition(tags=("a",))
    assert Rule(name="r", when=when, tier="mid").tiers == ("mid",)
    assert Rule(name="r", when=when, at_least="mid").tiers == ("mid", "frontier")
    assert Rule(name="r", when=when, at_most="mini").tiers == ("nano", "mini")


def test_a_pattern_reads_only_the_first_4000_characters():
    found = rule(regex="needle")
    assert match([found], request(), shape("x" * 3994 + "needle")) is found
    assert match([found], request(), shape("x" * 3995 + "needle")) is None


HOSTILE = [
    (r"(x+x+)+y", "x" * 1_000_000),
    (r"(a|a)*$", "a" * 1_000_000 + "b"),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 1_000_000),
    (r"(.*)*,", "." * 1_000_000),
    (r"(\w+\s?)*!", "word " * 200_000),
]


@pytest.mark.parametrize(("regex", "text"), HOSTILE)
def test_a_catastrophic_pattern_on_a_megabyte_takes_less_than_50_ms(regex, text):
    only = rule(regex=regex)
    start = time.process_time()
    match([only], request(), shape(text))
    assert time.process_time() - start < 0.05


@given(st.text() | st.text(st.characters(categories=["Cs", "L"])))
def test_any_text_can_be_matched_even_invalid_unicode(text):
    assert match([rule(regex=".|\n|^$")], request(), shape(text)) is not None
