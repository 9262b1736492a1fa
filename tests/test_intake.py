"""Bad input: one clear error that names the argument; nothing reserved, sent or charged."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidRequest, RouterError
from router.ids import new_request_id
from router.intake import OWNED, read_request
from tests.conftest import HELLO, MakeRouter
from tests.provider import Provider

BAD_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": "gpt-4", "messages": HELLO}),
    ("messages", {"messages": None}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "hello"}),
    ("messages", {"messages": {"role": "user", "content": "x"}}),
    ("messages[0]", {"messages": ["hello"]}),
    ("messages[0].role", {"messages": [{"role": "wizard", "content": "x"}]}),
    ("messages[0].role", {"messages": [{"content": "x"}]}),
    ("messages[0].content", {"messages": [{"role": "user"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": 7}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": "a \ud800 b"}]}),
    ("messages[0].content[0]", {"messages": [{"role": "user", "content": ["x"]}]}),
    (
        "messages[0].content[0].text",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]},
    ),
    ("messages", {"messages": [{"role": "user", "content": "x" * 10_000_000}]}),
    ("messages", {"messages": HELLO * 3000}),
    ("max_tokens", {"messages": HELLO, "max_tokens": -1}),
    ("max_tokens", {"messages": HELLO, "max_tokens": 0}),
    ("max_tokens", {"messages": HELLO, "max_tokens": "10"}),
    ("max_tokens", {"messages": HELLO, "max_tokens": True}),
    ("max_completion_tokens", {"messages": HELLO, "max_completion_tokens": 1e18}),
    ("n", {"messages": HELLO, "n": -5}),
    ("n", {"messages": HELLO, "n": 1000}),
    ("scopes.user", {"messages": HELLO, "scopes": {"user": ""}}),
    ("scopes.user", {"messages": HELLO, "scopes": {"user": "x" * 300}}),
    ("scopes.user", {"messages": HELLO, "scopes": {"user": 7}}),
    *(("tags", {"messages": HELLO, "tags": tags}) for tags in ("billing", 5, [5])),
    *(("metadata", {"messages": HELLO, "metadata": it}) for it in ("x", 5, [("a", 1)])),
    *(
        ("conversation_id", {"messages": HELLO, "conversation_id": it})
        for it in (7, ["c"], "c" * 300, "c\ud800", "c\0")
    ),
    *(("tools", {"messages": HELLO, "tools": tools}) for tools in (5, "x", {"type": "function"})),
    ("modalities", {"messages": HELLO, "modalities": 5}),
    *(("timeout", {"messages": HELLO, "timeout": it}) for it in (0, -1, float("nan"), "5", (1, 2))),
    ("stream_options", {"messages": HELLO, "stream": True, "stream_options": "usage"}),
    *(("response_format", {"messages": HELLO, "response_format": it}) for it in (5, "json")),
    *((name, {"messages": HELLO, name: "x"}) for name in OWNED),
]


@pytest.mark.parametrize(("field", "call"), BAD_CALLS)
def test_bad_input_names_its_argument_and_nothing_happens(
    field: str, call: dict[str, Any], make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=[{"name": "b", "limit": "1"}])
    with pytest.raises(InvalidRequest) as caught:
        router.completion(**call)
    assert caught.value.field == field
    assert len(str(caught.value)) < 500
    assert provider.wire == []
    assert list(router.ledger.log().requests()) == []
    assert all(state.settled == state.held == 0 for state in router.budgets())


def test_explain_refuses_what_a_call_would_refuse(make_router: MakeRouter) -> None:
    router = make_router()
    assert router.explain(HELLO, model="auto").arm == router.explain(HELLO).arm
    with pytest.raises(InvalidRequest) as caught:
        router.explain(HELLO, model="gpt-4")
    assert caught.value.field == "model"


def test_a_message_may_speak_only_in_tool_calls() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    request = read_request(
        model="auto",
        messages=[*HELLO, {"role": "assistant", "content": None, "tool_calls": calls}],
        params={},
        max_messages=10,
    )
    assert len(request.messages) == 2


def test_a_reply_can_be_handed_back_as_the_next_turns_message() -> None:
    from openai.types.chat import ChatCompletionMessage

    said = ChatCompletionMessage(role="assistant", content="Hello")
    request = read_request(model="auto", messages=[*HELLO, said], params={}, max_messages=10)
    assert request.messages[1]["content"] == "Hello"


@pytest.mark.parametrize("tags", [None, [], ("a", "b"), {"a": 1}.keys(), iter(["a"])])
def test_tags_may_be_absent_or_come_in_any_series(tags: Any) -> None:
    request = read_request(model="auto", messages=HELLO, tags=tags, params={}, max_messages=10)
    assert request.tags in ((), ("a", "b"), ("a",))
    assert bool(request.tags) == (tags is not None and tags != [])


def test_request_ids_are_version_7_uuids_in_order_of_time() -> None:
    made = [new_request_id(float(second)) for second in range(1, 50)]
    assert made == sorted(made)
    assert all(uuid.UUID(each).version == 7 for each in made)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each) for each in made)
    assert uuid.UUID(made[3]).int >> 80 == 4000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


OWN_ARGUMENTS = ("tags", "scopes", "metadata", "conversation_id", "deadline")
READ = ("n", "max_tokens", "tools", "modalities", "timeout", "stream_options", "response_format")


@given(messages=JSON, params=st.dictionaries(st.sampled_from([*OWN_ARGUMENTS, *READ]), JSON))
def test_no_shape_of_input_escapes_the_error_tree(messages: Any, params: dict[str, Any]) -> None:
    own = {name: params.pop(name) for name in OWN_ARGUMENTS if name in params}
    try:
        read_request(model="auto", messages=messages, params=params, max_messages=100, **own)
    except RouterError:
        return
    assert isinstance(messages, list)
