"""Gates: what is wrong with an answer by its form, whether two agree, and a verifier's word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.dispatch.wire import load_litellm
from router.errors import ModelFileError
from router.gates.agreement import NEARLY, likeness, said
from router.gates.answer import Answer, answer_of_kept, answers_of, kept_answers
from router.gates.final_answer import final_answer
from router.gates.gate import Gate
from router.gates.schemas import parse_json, problem_of
from router.gates.structural import faults, is_checked
from router.gates.verifier import BINS, NAMES, Verifier, agreement, load_verifier, read
from router.predict.model_file import ModelFile, save_model
from router.types import Request

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"], "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}}
ANY_JSON = {"response_format": {"type": "json_object"}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": PERSON}}]}

# Of a tool that is no function nothing is known: its input may be any text.
CUSTOM = {"tools": [*TOOLS["tools"], {"type": "custom", "custom": {"name": "run"}}]}


@pytest.mark.parametrize(
    ("choice", "must"),
    [
        (None, False),
        ("auto", False),
        ("required", True),
        ({"type": "function", "function": {"name": "f"}}, True),
        ({"type": "custom", "custom": {"name": "f"}}, True),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, False),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}, True),
    ],
)
def test_text_is_no_answer_only_where_a_call_is_required(choice: Any, must: bool) -> None:
    found = faults({**TOOLS, "tool_choice": choice}, Answer("No need to call it."))
    assert found == (("no_tool",) if must else ())


@pytest.mark.parametrize(
    ("params", "answer", "found"),
    [
        ({}, Answer("Fine."), ()),
        ({}, Answer(""), ("empty",)),
        ({}, Answer(" \n"), ("empty",)),
        ({}, Answer("Cut off in the", "length"), ("truncated",)),
        ({"max_tokens": 16}, Answer("Cut off in the", "length"), ()),
        ({}, Answer("I'm sorry, but I can't help with that."), ("refusal",)),
        ({}, Answer("I cannot assist with this request."), ("refusal",)),
        ({}, Answer("No.", refused=True), ("refusal",)),
        ({}, Answer("I'm sorry to hear that. Rest, and drink water."), ()),
        ({}, Answer("The robot said: I cannot swim."), ()),
        (ANY_JSON, Answer('{"a": 1}'), ()),
        (ANY_JSON, Answer("[1]"), ("schema_mismatch",)),
        (ANY_JSON, Answer("a: 1"), ("invalid_json",)),
        (ANY_JSON, Answer('{"a": NaN}'), ("invalid_json",)),
        (JSON, Answer('{"name": "ann", "age": null, "tags": ["a"]}'), ()),
        (JSON, Answer('{"age": 3}'), ("schema_mismatch",)),
        (JSON, Answer('{"name": "ann", "age": true}'), ("schema_mismatch",)),
        (JSON, Answer('{"name": "ann", "size": 3}'), ("schema_mismatch",)),
        (JSON, Answer('```json\n{"name": "ann"}\n```'), ("invalid_json",)),
        (TOOLS, Answer("No need to call it."), ()),
        (TOOLS, Answer("", "tool_calls", (("f", '{"name": "ann"}'),)), ()),
        (TOOLS, Answer("", "tool_calls", (("g", "{}"),)), ("unknown_tool",)),
        (TOOLS, Answer("", "tool_calls", (("f", "{}"),)), ("invalid_arguments",)),
        (TOOLS, Answer("", "tool_calls", (("f", "{"),)), ("invalid_arguments",)),
        (CUSTOM, Answer("", "tool_calls", (("run", "print(1)"),)), ()),
        (CUSTOM, Answer("", "tool_calls", (("f", "{}"),)), ("invalid_arguments",)),
        ({}, Answer("So:\n```python\nx = 1\n```\n"), ()),
        ({}, Answer("So:\n```python\ndef f(:\n```\n"), ("code_does_not_parse",)),
        ({}, Answer("So:\n```python\n>>> f(\n```\n"), ()),
        ({}, Answer("So:\n```js\nlet x = ;\n```\n"), ()),
    ],
)
def test_faults_of_form(params: dict[str, Any], answer: Answer, found: tuple[str, ...]) -> None:
    assert faults(params, answer) == found


@pytest.mark.parametrize(
    ("message", "text", "found"),
    [
        ({"content": None, "audio": {"id": "a", "data": "UklG", "expires_at": 1,
                                     "transcript": "Good morning."}}, "Good morning.", ()),
        ({"content": "", "images": [{"type": "image_url", "index": 0,
                                     "image_url": {"url": "data:image/png;base64,aa"}}]}, "", ()),
        ({"content": None, "audio": {"id": "a", "data": "UklG", "expires_at": 1,
                                     "transcript": "I cannot help with that."}},
         "I cannot help with that.", ("refusal",)),
        ({"content": None}, "", ("empty",)),
    ],
)  # fmt: skip
def test_sound_and_pictures_are_an_answer(
    message: dict[str, Any], text: str, found: tuple[str, ...]
) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    response = load_litellm().ModelResponse(model="m", choices=[choice])
    for answer in (*answers_of(response), answer_of_kept(kept_answers(response))):
        assert answer is not None
        assert answer.text == text
        assert faults({}, answer) == found


def test_a_request_that_names_a_form_is_checked() -> None:
    assert is_checked(JSON)
    assert is_checked(TOOLS)
    assert not is_checked({"temperature": 1})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from(["a", "b", "", "ann"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "age", "tags", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"type": "array", "items": PERSON, "minItems": 1},
    {"anyOf": [{"type": "integer", "maximum": 3}, {"$ref": "#/$defs/n"}],
     "$defs": {"n": {"type": "object", "required": ["x"]}}},
    {"allOf": [{"type": "object"}, {"properties": {"x": {"const": 1}}}]},
    {"type": "string", "minLength": 1, "maxLength": 2},
    {"properties": {"x": False}, "additionalProperties": {"type": ["string", "null"]}},
]  # fmt: skip


@given(values, st.sampled_from(SCHEMAS))
@settings(max_examples=400, deadline=None)
def test_the_validator_agrees_with_jsonschema(value: Any, schema: dict[str, Any]) -> None:
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (problem_of(value, schema) is None) == valid


def test_what_the_validator_does_not_know_passes() -> None:
    assert problem_of("x", {"pattern": "^(a+)+$", "type": "string"}) is None
    assert problem_of(1, {"$ref": "https://example.org/x"}) is None
    endless: dict[str, Any] = {"$ref": "#"}
    assert problem_of(1, endless) is None
    with pytest.raises(ValueError, match="deep"):
        parse_json("[" * 100_000)


def test_the_alternatives_of_a_recursive_schema_do_not_multiply() -> None:
    """Each level of a value was read once for every alternative of every level above it."""
    tree: dict[str, Any] = {"$ref": "#/$defs/node"}
    kinds = ["add", "subtract", "multiply", "divide"]
    nodes = [
        {"properties": {"left": tree, "right": tree, "kind": {"const": kind}}, "type": "object"}
        for kind in kinds
    ]
    schema = {**tree, "$defs": {"node": {"anyOf": [{"type": "number"}, *nodes]}}}
    value: Any = 1
    for _ in range(20):
        value = {"left": value, "right": 1, "kind": "divide"}
    began = time.monotonic()
    assert problem_of(value, schema) is None
    wrong = {"left": {"left": 1, "right": 1, "kind": "root"}, "right": 1, "kind": "add"}
    assert problem_of(wrong, schema) is not None
    assert problem_of(1, {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}) is None
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is (B).", "B"),
        ("Thus, the correct answer is:\n\nThe answer is D.", "D"),
        ("**Answer: C) Paris**", "C"),
        (r"so $\boxed{\frac{1}{2}}$ it is", r"frac{1}{2"),
        ("Steps…\n#### 1,234", "1234"),
        ('```json\n{"reasoning": "2 + 1", "answer": "3"}\n```', "3"),
        ('{"answer": 3.0}', "3"),
        ("Paris", "paris"),
        ("The final answer is 42 apples.", "42"),
        ("A long text that comes to no conclusion, as it goes on and on and on.", None),
    ],
)
def test_final_answers_are_found_and_normalised(text: str, answer: str | None) -> None:
    found = final_answer(text)
    assert found == answer if answer is None or "frac" not in answer else answer in str(found)


@pytest.mark.parametrize(
    "answers",
    [
        ("5", ".5", "-5", "−.5", "5.5"),
        ("35", "3,5", "3.5"),
        ("123", "1,2,3", "12,3"),
        ("12345678901", "12345678902"),
        ("The answer is 5.", "The answer is −5.", "Answer: .5"),
        ("The answer is 1/2.", "The answer is 1/3", "The answer is 1.", "The answer is 2"),
        (r"The answer is $\frac{1}{2}$.", r"The answer is $\frac{1}{3}$.", "The answer is 1."),
        (
            r"The answer is \boxed{\frac{\sqrt{3}}{2}}.",
            r"The answer is \boxed{\frac{\sqrt{3}}{4}}.",
            r"\boxed{3}",
        ),
        (r"Not \boxed{5}, but \boxed{\frac{\sqrt{2}}{5}}", r"\boxed{5}"),
        ("The answer is 10:30.", "The answer is 10:45.", "The answer is 10."),
        ("The answer is (3, 4).", "The answer is (3, 5).", "The answer is 3."),
        ("The answer is July 4, 1776.", "The answer is July 4, 1777."),
        ("The answer is 2^{10}.", "The answer is 2^{11}.", "The answer is 2."),
    ],
)
def test_answers_that_share_a_number_and_no_more_do_not_say_the_same(
    answers: tuple[str, ...],
) -> None:
    assert len({final_answer(answer) for answer in answers}) == len(answers)


@pytest.mark.parametrize(
    "answers",
    [
        ("-5", "−5", "The answer is −5.", "Answer: -5.0"),
        ("0.5", ".5", "The answer is .5", "5e-1"),
        ("1,2,3", "1, 2, 3", "[1,2,3]"),
        ("1,234,567", "1234567", "12,34,567", "The answer is 1,234,567 euros."),
        ("1099511627776", "1099511627776.0", "1,099,511,627,776"),
        ("42", "The answer is 42 because 6 * 7 is 42.", "The answer is 42 (six times seven)."),
        (r"\boxed{\frac{\sqrt{3}}{2}}", r"The answer is $\boxed{\frac{\sqrt{3}}{2}}$."),
        ("b", "(b)", "B", "b) Paris", "The answer is (b)."),
        ("12", "The answer is 12 cm^2.", "The answer is 12 km/h", r"The answer is $\approx 12$."),
        ("The answer is 12 m^2", r"The answer is $12\,\text{m}^2$.", "The answer is 12."),
    ],
)
def test_answers_that_are_only_written_otherwise_say_the_same(answers: tuple[str, ...]) -> None:
    assert len({final_answer(answer) for answer in answers}) == 1


def test_json_says_the_same_whether_a_number_is_written_with_a_point_or_not() -> None:
    def word(text: str) -> str | None:
        return said(Answer(text), ANY_JSON)

    assert word('{"a": 2.0, "b": [1.50, 3]}') == word('{"b": [1.5, 3.0], "a": 2}') is not None
    assert word('{"a": 2}') != word('{"a": true}') != word('{"a": 1}')
    assert word("[" * 900 + "]" * 900) is None


def test_likeness_goes_by_final_answers_first_and_wording_otherwise() -> None:
    assert likeness("The answer is (B).", "I think B is it.\nAnswer: B") == 1.0
    assert likeness("The answer is (B).", "The answer is (C).") == 0.0
    one = "Kittens grow quickly, and they need food, water, warmth, and a great deal of sleep."
    other = "Kittens grow fast and need food, water, warmth, and a great deal of sleep as well."
    third = "Interest rates rose last year because central banks feared inflation above targets."
    assert likeness(one, other) > 0.6 > 0.3 > likeness(one, third)
    assert likeness(one, one) == pytest.approx(1)
    assert likeness(one, "The answer is (C).") == 0.0


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ('{"answer": "hello"}', """{"answer": "'hello'"}""", 1.0),
        ('{"answer": "(B)"}', '{"answer": "B."}', 1.0),
        ('{"answer": "5"}', '{"answer": 5.0}', 1.0),
        ('{"answer": "1,234"}', '{"answer": "1234"}', 1.0),
        ('{"answer": "cA"}', '{"answer": "CA"}', NEARLY),
        ('{"answer": "iq!!!"}', '{"answer": "iq!!!!"}', NEARLY),
        ("""{"answer": "' 4 2 '"}""", '{"answer": "42"}', NEARLY),
        ('{"answer": "I, am"}', '{"answer": "I, was"}', NEARLY),
        ('{"answer": "Paris"}', '{"answer": "paris"}', NEARLY),
        ('{"answer": "[1, 2]"}', '{"answer": "[1, 3]"}', 0.0),
    ],
)
def test_answers_that_differ_in_case_spacing_or_punctuation_are_nearly_the_same(
    one: str, other: str, alike: float
) -> None:
    """Where a program's output is asked for, that is another answer; in prose it is none."""
    assert likeness(one, other) == likeness(other, one) == alike


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_can_be_read(one: str, other: str) -> None:
    assert 0 <= likeness(one, other) <= 1 + 1e-9
    assert -1 <= agreement(read(Answer(one)), read(Answer(other))) <= 1 + 1e-9
    assert np.isfinite(read(Answer(one)).shape).all()
    faults({}, Answer(one))


def verifier_arrays(**changes: Any) -> dict[str, Any]:
    odds = np.zeros((8, 4, len(NAMES)))
    for target in range(4):
        odds[:, target, target] = 1.0  # what was thought before
        odds[4:, target, NAMES.index("votes_of_target")] = 2.0
    arrays = {
        "weights": odds,
        "intercept": np.zeros((8, 4)),
        "good": np.full((4, BINS), 1 / BINS),
        "bad": np.full((4, BINS), 1 / BINS),
        "together": np.full((4, 4), 0.5),
        "same": np.ones((4, 4, 3)),
    }
    return {**arrays, **changes}


def saved(path: Path, **changes: Any) -> str:
    return save_model(path, "verifier", verifier_arrays(**changes), {"inputs": list(NAMES)})


def wary_of_hedges(folder: Path) -> dict[str, str]:
    """A verifier that thinks nothing of an answer that hedges, and much of any other, as a policy
    names it."""
    weights, intercept = verifier_arrays()["weights"], np.zeros((8, 4))
    for tier in range(4):
        own = [tier, 4 + tier]
        intercept[own, tier] = 2.5
        weights[own, tier] = 0.0
        weights[own, tier, NAMES.index("hedges")] = -6.0
    return {"path": str(folder), "sha256": saved(folder, weights=weights, intercept=intercept)}


def test_a_verifier_is_saved_loaded_and_checked(tmp_path: Path) -> None:
    said = saved(tmp_path)
    assert load_verifier(tmp_path, said).hash == said
    with pytest.raises(ModelFileError, match="the policy asks"):
        load_verifier(tmp_path, "0" * 64)
    saved(tmp_path, together=np.zeros((3, 3)))
    with pytest.raises(ModelFileError, match="together"):
        load_verifier(tmp_path)
    old = {name: part for name, part in verifier_arrays().items() if name != "same"}
    save_model(tmp_path, "verifier", old, {"inputs": list(NAMES)})
    with pytest.raises(ModelFileError, match=r"no array same.*train it anew"):
        load_verifier(tmp_path)
    for wrong in (["length"], 5, None):
        save_model(tmp_path, "verifier", verifier_arrays(), {"inputs": wrong})
        with pytest.raises(ModelFileError, match="inputs"):
            load_verifier(tmp_path)


@pytest.mark.parametrize("bins", [0, BINS + 1, 100_000])
def test_a_verifier_of_no_signals_or_of_too_many_is_refused(tmp_path: Path, bins: int) -> None:
    """Looking ahead takes their number cubed."""
    saved(tmp_path, good=np.ones((4, bins)), bad=np.ones((4, bins)))
    with pytest.raises(ModelFileError, match=r"must be \(4, 1 to 5\) chances above 0"):
        load_verifier(tmp_path)


@pytest.mark.parametrize("name", ["weights", "intercept", "good", "same"])
def test_a_verifier_of_numbers_that_no_answer_could_be_judged_with_is_refused(
    tmp_path: Path, name: str
) -> None:
    saved(tmp_path, **{name: np.full_like(verifier_arrays()[name], 1e308, dtype=np.float64)})
    with pytest.raises(
        ModelFileError, match=rf"{name} holds 1e\+308; allowed: from -10000 to 10000"
    ):
        load_verifier(tmp_path)


def test_agreement_moves_a_verifiers_word_and_one_row_is_as_many() -> None:
    model = ModelFile("verifier", "0" * 64, {"inputs": list(NAMES)}, verifier_arrays())
    verifier, tier = Verifier(model), np.array([0, 1, 3])
    quality = np.array([0.5, 0.6, 0.9])
    answers = {0: (Answer("The answer is (B)."),), 1: (Answer("The answer is (B)."),)}
    same = verifier.judge(answers, 1, (), quality, tier)
    answers[1] = (Answer("The answer is (C)."),)
    other = verifier.judge(answers, 1, (), quality, tier)
    assert same[0] > 0.5 > other[0]
    assert same[1] > 0.6 > other[1]
    assert same[2] == pytest.approx(0.9)
    alone = verifier.judge({0: answers[0]}, 0, (), quality, tier)
    assert alone == pytest.approx(quality)


def test_a_hard_fault_counts_before_a_verifiers_word() -> None:
    model = ModelFile("verifier", "0" * 64, {"inputs": list(NAMES)}, verifier_arrays())
    gate, tier = Gate(Verifier(model)), np.array([0, 3])
    request = Request("r", (), ANY_JSON, 0.0)
    answers = {0: (Answer("no json"),)}
    found = gate.look(request, None, answers, 0, np.array([0.8, 0.9]), tier)
    assert found.why == "invalid_json"
    assert found.quality[0] < 0.1
    assert found.quality[1] < 0.9  # what one tier fails at is harder for the other too


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B) Paris", "B"),
        ("(B) Paris", "B"),
        ("B. Paris", "B"),
        ("B: Paris", "B"),
        ("**B**", "B"),
        ("B - Paris", "B"),
        ("The answer is B", "B"),
        ("The answer is B because it is so", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("A dog", "adog"),
        ("I think so.", "ithinkso"),
        ("A's", "a's"),
    ],
)
def test_a_letter_is_a_choice_only_where_it_stands_alone(text: str, found: str) -> None:
    assert final_answer(text) == found


def test_a_choice_is_the_same_however_it_is_set() -> None:
    texts = ("B", "(B)", r"So it is \boxed{\text{B}}.", "**Answer:** B", "The answer is (B).")
    assert {likeness(one, other) for one in texts for other in texts} == {1.0}
