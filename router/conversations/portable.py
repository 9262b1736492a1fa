"""Makes a history that one model wrote fit another: pure functions over messages and arguments.

What a provider signs, encrypts or numbers for itself is refused elsewhere:

- Anthropic's `thinking` and `redacted_thinking` carry signatures that hold for the model that wrote
  them (Anthropic, "Extended thinking": thinking blocks are passed back unmodified, to the same
  model). With thinking on, a turn that is still calling tools has to begin with such a block.
- OpenAI's reasoning items are encrypted for the organisation and model (`reasoning_items` through
  litellm), and `reasoning_content` is one provider's field, which others refuse.
- Gemini's thought signatures stand in a call's `provider_specific_fields` or `extra_content`, and
  litellm appends them to the id of the call ("…__thought__…").
- `cache_control` marks mean something at Anthropic and, through litellm, at Google.
- Ids of tool calls: Mistral takes nine letters or digits, OpenAI at most 40 characters, Anthropic
  letters, digits, `_` and `-`.

Blocks that the same model wrote stay as they are: stripping them would break a turn that is under
way. Nothing else of a message is changed, and no call is parted from its result. What comes in is
never changed; what needs no change comes back as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from router.conversations.state import MARK
from router.prices.caching import family

if TYPE_CHECKING:
    from router.turns import Turn

Messages = Sequence[Mapping[str, Any]]

_THOUGHT = "__thought__"  # litellm's separator between a call's id and Gemini's signature
_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
# Fields of a message that only the model that wrote them can read, and whose they are.
_FIELDS: Mapping[str, frozenset[str]] = {
    "thinking_blocks": frozenset({"anthropic", "gemini"}),
    "reasoning_items": frozenset({"openai"}),
    "reasoning_details": frozenset({"openrouter"}),
    "reasoning_content": frozenset(),
    "reasoning": frozenset(),
    "provider_specific_fields": frozenset(),
}
_CALL_FIELDS = ("provider_specific_fields", "extra_content")
_UNMARKED = frozenset(
    {"openai", "mistral", "deepseek", "groq", "xai", "together_ai", "fireworks_ai", "cerebras"}
)
_IDS: Mapping[str, re.Pattern[str]] = {
    "anthropic": re.compile(r"[A-Za-z0-9_-]+"),
    "mistral": re.compile(r"[A-Za-z0-9]{9}"),
    "openai": re.compile(r".{1,40}", re.DOTALL),
}


def fitted(
    messages: Messages, arguments: Mapping[str, Any], model: str, turn: Turn | None
) -> tuple[Messages, Mapping[str, Any]]:
    """Return messages and arguments as `model` (litellm's name) takes them.

    `turn` says which model wrote the latest answers; without it only what cannot be this model's is
    taken off. Where a turn that is calling tools was begun by another model, the thinking that
    Anthropic would ask for is missing: it is then not asked to think until the turn is done.
    """
    maker = family(model)
    switched = turn is not None and turn.model not in ("", model)
    since = 0
    if turn is not None and turn.model:
        since = len(messages) if switched else turn.since
    ids = _Ids(maker)
    known = turn is not None and turn.model != ""
    found: list[Mapping[str, Any]] = []
    for index, message in enumerate(messages):
        foreign = index < since if known else None
        fit = _message(message, maker, ids, foreign)
        if fit is not None:
            found.append(fit)
    if maker == "anthropic" and known and _begun_elsewhere(found, arguments):
        found = [kept for each in found if (kept := bare(each)) is not None]
        arguments = {
            name: value
            for name, value in arguments.items()
            if name not in ("thinking", "reasoning_effort")
        }
    arguments = _arguments(arguments, maker)
    same = len(found) == len(messages) and all(a is b for a, b in zip(found, messages, strict=True))
    return (messages if same else found), arguments


def _message(
    message: Mapping[str, Any], maker: str, ids: _Ids, foreign: bool | None
) -> Mapping[str, Any] | None:
    """One message as its new reader takes it; None where nothing is left of it. `foreign`: whether
    another model wrote it, None where that is not known."""
    fit: Mapping[str, Any] | None = message
    if message.get("role") == "assistant":
        if foreign:
            fit = bare(message)
        elif foreign is None:
            fit = _stripped(message, lambda makers: bool(makers) and maker not in makers)
    if fit is None:
        return None
    if maker in _UNMARKED:
        fit = _without_marks(fit)
    return ids.of_message(fit)


def bare(message: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A message without anything that only one model reads; None where nothing else is in it."""
    return _stripped(message, lambda _: True)


def _stripped(
    message: Mapping[str, Any], strip: Callable[[frozenset[str]], bool]
) -> Mapping[str, Any] | None:
    """An assistant's message without blocks that `strip` says yes to, by whose they may be."""
    if message.get("role") != "assistant":
        return message
    kept = {
        name: value
        for name, value in message.items()
        if name not in _FIELDS or not strip(_makers(name, value))
    }
    content = kept.get("content")
    if isinstance(content, list | tuple) and strip(_FIELDS["thinking_blocks"]):
        parts = [part for part in content if not _is_thought(part)]
        if len(parts) < len(content):
            kept["content"] = parts or None
    calls = kept.get("tool_calls")
    if isinstance(calls, list | tuple):
        plain = [_bare_call(call, strip) for call in calls]
        if any(a is not b for a, b in zip(plain, calls, strict=True)):
            kept["tool_calls"] = plain
    if len(kept) == len(message) and all(kept[name] is message[name] for name in kept):
        return message
    # A message of nothing but thoughts is no message to another model.
    says = kept.get("content") or kept.get("tool_calls") or kept.get("function_call")
    return kept if says or kept.get("audio") or kept.get("refusal") else None


def _makers(name: str, value: Any) -> frozenset[str]:
    """Whose a field may be; empty where its name does not say."""
    if name == "provider_specific_fields" and isinstance(value, Mapping):
        signed = "thought_signature" in value or "thought_signatures" in value
        return frozenset({"gemini"}) if signed else frozenset()
    return _FIELDS[name]


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _PARTS


def _bare_call(call: Any, strip: Callable[[frozenset[str]], bool]) -> Any:
    """A tool call without a thought signature in its fields or behind its id."""
    if not isinstance(call, Mapping) or not strip(frozenset({"gemini"})):
        return call
    plain = {name: value for name, value in call.items() if name not in _CALL_FIELDS}
    function = plain.get("function")
    if isinstance(function, Mapping) and any(name in function for name in _CALL_FIELDS):
        plain["function"] = {k: v for k, v in function.items() if k not in _CALL_FIELDS}
    changed = len(plain) < len(call) or plain.get("function") is not function
    return plain if changed else call


def _begun_elsewhere(messages: Messages, arguments: Mapping[str, Any]) -> bool:
    """Whether thinking is asked for in a turn whose calls of tools another model began."""
    effort = arguments.get("reasoning_effort")
    if not arguments.get("thinking") and effort in (None, "none"):
        return False
    for message in reversed(messages):
        if message.get("role") == "assistant":
            content = message.get("content")
            parts = content if isinstance(content, list | tuple) else ()
            thought = message.get("thinking_blocks") or any(map(_is_thought, parts))
            return bool(message.get("tool_calls")) and not thought
        if message.get("role") == "user" and not _has_result(message):
            return False
    return False


def _has_result(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list | tuple) and any(
        isinstance(part, Mapping) and part.get("type") == "tool_result" for part in content
    )


def _without_marks(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message without marks of what is to be cached."""
    content = message.get("content")
    parts = content if isinstance(content, list | tuple) else ()
    if MARK not in message and not any(isinstance(p, Mapping) and MARK in p for p in parts):
        return message
    kept = {name: value for name, value in message.items() if name != MARK}
    if parts:
        kept["content"] = [_without(part, MARK) for part in parts]
    return kept


def _without(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        return value
    return {key: each for key, each in value.items() if key != name}


def _arguments(arguments: Mapping[str, Any], maker: str) -> Mapping[str, Any]:
    """The arguments without marks, for who does not know them."""
    tools = arguments.get("tools")
    marked = isinstance(tools, list | tuple) and any(
        isinstance(tool, Mapping) and MARK in tool for tool in tools
    )
    if maker not in _UNMARKED or not (marked or MARK in arguments):
        return arguments
    kept = {name: value for name, value in arguments.items() if name != MARK}
    if marked:
        kept["tools"] = [_without(tool, MARK) for tool in tools or ()]
    return kept


@dataclass(slots=True)
class _Ids:
    """Ids of tool calls as one provider takes them: the same id becomes the same, two never one.

    A new id is at most eight bytes longer than the old one, which the bound on the prompt's tokens
    has set aside for the JSON around each value (`router.predict.shape`).
    """

    maker: str
    given: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def of_message(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        kept: dict[str, Any] = {}
        if isinstance(name := message.get("tool_call_id"), str) and self.fit(name) != name:
            kept["tool_call_id"] = self.fit(name)
        for key in ("tool_calls", "content"):
            old = message.get(key)
            if isinstance(old, list | tuple):
                new = [self._of_value(value, calls=key == "tool_calls") for value in old]
                if any(a is not b for a, b in zip(new, old, strict=True)):
                    kept[key] = new
        return {**message, **kept} if kept else message

    def _of_value(self, value: Any, *, calls: bool) -> Any:
        """A call, or a part of content that may be a call or its result."""
        if not isinstance(value, Mapping):
            return value
        key = "tool_use_id" if value.get("type") == "tool_result" else "id"
        name = value.get(key)
        if not (calls or value.get("type") in ("tool_use", "tool_call", "tool_result")):
            return value
        if not isinstance(name, str) or self.fit(name) == name:
            return value
        return {**value, key: self.fit(name)}

    def fit(self, name: str) -> str:
        if name not in self.given:
            self.given[name] = self._new(name)
            self.taken.add(self.given[name])
        return self.given[name]

    def _new(self, name: str) -> str:
        wanted, plain = _IDS.get(self.maker), name
        if self.maker != "gemini":
            plain = name.split(_THOUGHT)[0] or name
        if self.maker == "anthropic":
            plain = re.sub(r"[^A-Za-z0-9_-]", "_", plain) or "_"
        if (wanted is None or wanted.fullmatch(plain)) and plain not in self.taken:
            return plain
        for attempt in range(1_000_000):
            digest = hashlib.blake2b(f"{attempt}:{name}".encode(errors="replace")).hexdigest()
            short = digest[: 9 if self.maker == "mistral" else min(24, len(plain) + 8)]
            if short not in self.taken:
                return short
        raise AssertionError("a million ids of one history collide")
