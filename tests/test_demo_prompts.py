"""The demo's prompts: enough of them, of many kinds, each its own."""

from __future__ import annotations

from collections import Counter

import jsonschema
import pytest

from router.demo.answers import example
from router.demo.simulation import Prompt, prompt_key, prompts

PROMPTS = prompts()


def _turns(prompt: Prompt) -> int:
    return sum(message["role"] != "system" for message in prompt.messages)


def test_there_are_at_least_300_prompts_from_trivial_to_very_hard() -> None:
    assert len(PROMPTS) >= 300
    levels = Counter(int(prompt.difficulty * 5) for prompt in PROMPTS)
    assert all(levels[level] >= 10 for level in range(5)), levels
    assert all(0 <= prompt.difficulty <= 1 for prompt in PROMPTS)


def test_no_two_prompts_share_an_id_or_a_last_user_message() -> None:
    assert len({prompt.id for prompt in PROMPTS}) == len(PROMPTS)
    assert len({prompt_key(prompt.messages) for prompt in PROMPTS}) == len(PROMPTS)


def test_most_prompts_are_english_and_two_other_languages_have_their_share() -> None:
    languages = Counter(prompt.language for prompt in PROMPTS)
    assert set(languages) == {"en", "es", "zh"}
    assert 0.65 <= languages["en"] / len(PROMPTS) <= 0.75
    assert min(languages.values()) / len(PROMPTS) >= 0.12
    chinese = [prompt.messages[-1]["content"] for prompt in PROMPTS if prompt.language == "zh"]
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in chinese)


def test_many_prompts_are_conversations_and_many_bring_tools_or_long_context() -> None:
    assert sum(3 <= _turns(prompt) <= 7 for prompt in PROMPTS) >= 40
    assert sum(prompt.tools is not None for prompt in PROMPTS) >= 40
    assert sum(len(prompt.messages[-1]["content"]) > 1500 for prompt in PROMPTS) >= 10


def test_every_conversation_takes_turns_and_ends_with_the_user() -> None:
    for prompt in PROMPTS:
        roles = [message["role"] for message in prompt.messages]
        roles = roles[1:] if roles[0] == "system" else roles
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], prompt.id
        assert all(message["content"].strip() for message in prompt.messages), prompt.id


@pytest.mark.parametrize("prompt", [p for p in PROMPTS if p.tools], ids=lambda prompt: prompt.id)
def test_every_tool_has_a_valid_schema_that_the_example_call_satisfies(prompt: Prompt) -> None:
    for tool in prompt.tools or ():
        schema = tool["function"]["parameters"]
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(schema["required"]) <= set(schema["properties"])
        jsonschema.validate(example(schema), schema)
