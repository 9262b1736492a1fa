"""Which requests have answers that can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from router.decide.vote import VoteRule
from router.policy.rules import holds
from router.types import Request, Shape

if TYPE_CHECKING:
    from router.policy.vote import Vote

_READ = 4000  # characters at the end of the last user turn
# At least three lines, or parts of a line, that begin like the choices of a question.
_CHOICE = re.compile(r"(?:^|[\n;,]|\s{2,})\s*\(?([A-Ja-j1-9])[.):]\s*\S")
_ASKS = re.compile(
    r"\\boxed|\b(?:answer|reply|respond)\s+(?:only\s+)?(?:with|in)\s+(?:only\s+|just\s+)?(?:a|an|the|one)\s+"
    r"(?:single\s+|correct\s+|final\s+)?(?:letter|number|integer|word|option|choice|digit|name|date)"
    r"|\b(?:true or false|yes or no)\b|\bhow (?:many|much)\b"
    r"|\b(?:final answer|answer only|only the (?:answer|number|letter))\b",
    re.IGNORECASE,
)
# Values of such types are the same or not; of free text nobody can tell.
_CLOSED = ("boolean", "integer", "null", "number")


def rule_of(vote: Vote) -> VoteRule:
    """A policy's vote as the decision weighs it."""
    return VoteRule(vote.samples, vote.at_once, float(vote.sure), float(vote.concentration))


def comparable(vote: Vote | None, request: Request, shape: Shape) -> bool:
    """Whether samples of a request's answer can be compared: by the policy's condition, or by what
    the request asks for. Never where tools may be called, or several answers are asked for. A gate
    that picks the best needs no such thing."""
    params = request.params
    if params.get("tools") or params.get("functions") or (params.get("n") or 1) != 1:
        return False
    if vote is not None and vote.when is not None:
        return holds(vote.when, request, shape)
    if vote is not None and vote.pick == "best":
        return True
    schema = _schema(params.get("response_format"))
    if schema is not None:
        return _closed(schema)
    text = shape.last_user_text[-_READ:]
    return len(set(_CHOICE.findall(text))) >= 3 or _ASKS.search(text) is not None


def alike(arguments: Mapping[str, Any]) -> bool:
    """Whether a call's arguments have a model say the same each time: a vote would pay for copies
    of one answer, and be sure of it."""
    return arguments.get("temperature") == 0 or arguments.get("seed") is not None


def _schema(asked: Any) -> Mapping[str, Any] | None:
    wrapped = asked.get("json_schema") if isinstance(asked, Mapping) else None
    schema = wrapped.get("schema") if isinstance(wrapped, Mapping) else None
    return schema if isinstance(schema, Mapping) else None


def _closed(schema: Mapping[str, Any]) -> bool:
    """Whether a schema's values are all of a few kinds: choices, numbers, truth."""
    if "enum" in schema or "const" in schema:
        return True
    kind = schema.get("type")
    if kind == "object":
        parts = schema.get("properties")
        named = isinstance(parts, Mapping) and bool(parts)
        return named and all(isinstance(p, Mapping) and _closed(p) for p in (parts or {}).values())
    kinds = kind if isinstance(kind, list) else [kind]
    return all(each in _CLOSED for each in kinds)
