"""What is wrong with an answer by its form alone: pure functions over request and answer.

A fault is evidence, not a verdict: bad answers show it so many times as often as good ones, and
P(good) moves by Bayes. The chances below are judgement, not measurement, and on the careful side;
a learned verifier (`router.gates.verifier`) reads the same faults and weighs them by data.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from router.gates.answer import Answer
from router.gates.schemas import parse_json, problem_of

# Of such an answer nothing can be used; a caller's code would raise.
HARD = frozenset(
    {"empty", "invalid_json", "schema_mismatch", "unknown_tool", "invalid_arguments", "no_tool"}
)
FAULTS = (*sorted(HARD), "code_does_not_parse", "refusal", "truncated")
SIGNALS = ("passes", "soft", "hard")
# Chances of a pass, of a soft and of a hard fault, from a good and from a bad answer.
OF_GOOD: tuple[float, ...] = (0.989, 0.010, 0.001)
OF_BAD: tuple[float, ...] = (0.870, 0.080, 0.050)
# Where a schema or tools say what an answer must look like, form catches more.
OF_BAD_CHECKED: tuple[float, ...] = (0.650, 0.100, 0.250)

_SHORT_CAP = 64  # tokens; who asks for so few is not surprised by an answer that is cut there
_OPENING = 300  # characters in which a refusal declares itself
_LONGEST_REFUSAL = 1200  # characters; a longer answer has said something beside it
_LONGEST_CODE = 100_000  # characters
_REFUSAL = re.compile(
    r"(?:i(?:'|’)?m (?:very |so |really )?sorry,? (?:but )?(?:i|we)\b"
    r"|i (?:can(?:not|'t|’t| not)|am (?:not able|unable)|won(?:'|’)t|will not) "
    r"(?:to )?(?:help|assist|provide|answer|comply|fulfil|do that|create|generate|continue)"
    r"|as an ai(?: language model)?,? i (?:can|do|am|must)"
    r"|(?:lo siento|je suis désolé|es tut mir leid),)",
    re.IGNORECASE,
)
_CODE = re.compile(r"^```[ \t]*(?:python3?|py)[ \t]*\n(.*?)^```", re.S | re.M | re.I)


def faults(params: Mapping[str, Any], answer: Answer) -> tuple[str, ...]:
    """Name what is wrong with an answer: members of `FAULTS`, () for nothing.

    Parameters: `params`, the request's arguments as for OpenAI's chat completions.
    """
    found = []
    if answer.tool_calls:
        found += _tool_faults(params, answer.tool_calls)
    elif _must_call(params):
        found.append("no_tool")
    elif answer.refused or _refuses(answer.text):
        found.append("refusal")
    elif not answer.text.strip() and not answer.media:
        found.append("empty")
    else:
        found += _json_faults(params, answer.text)
        if not _asked_format(params) and not _code_parses(answer.text):
            found.append("code_does_not_parse")
    if answer.finish_reason == "length" and _cap(params) > _SHORT_CAP:
        found.append("truncated")
    return tuple(found)


def signal_of(found: Sequence[str]) -> int:
    """Position among `SIGNALS` of the worst of some faults."""
    return 0 if not found else 2 if HARD.intersection(found) else 1


def is_checked(params: Mapping[str, Any]) -> bool:
    """Whether a request says by a schema or by tools what an answer must look like."""
    return _asked_format(params) is not None or bool(_tools(params))


def _tools(params: Mapping[str, Any]) -> dict[str, Any]:
    """The offered functions: name → schema of its arguments."""
    offered = [
        tool["function"]
        for tool in params.get("tools") or ()
        if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping)
    ]
    offered += [each for each in params.get("functions") or () if isinstance(each, Mapping)]
    return {str(each.get("name")): each.get("parameters") for each in offered}


def _tool_faults(params: Mapping[str, Any], calls: Sequence[tuple[str, str]]) -> list[str]:
    offered, found = _tools(params), list[str]()
    others = len(params.get("tools") or ()) + len(params.get("functions") or ()) > len(offered)
    for name, arguments in calls:
        if name not in offered:
            if not others:  # a custom tool's input is any text, and a provider's own tools are its
                found.append("unknown_tool")
            continue
        try:
            value = parse_json(arguments.strip() or "{}")
        except ValueError:
            found.append("invalid_arguments")
            continue
        if not isinstance(value, dict) or problem_of(value, offered[name]):
            found.append("invalid_arguments")
    return list(dict.fromkeys(found))


def _must_call(params: Mapping[str, Any]) -> bool:
    """Whether only a call will do: of any tool, of one of some, or of the very one named."""
    choice = params.get("tool_choice")
    if isinstance(choice, Mapping):
        some = choice.get("allowed_tools")
        named = choice.get("type") in ("function", "custom")
        choice = some.get("mode") if isinstance(some, Mapping) else named and "required"
    return bool(_tools(params)) and choice == "required"


def _asked_format(params: Mapping[str, Any]) -> tuple[bool, Any] | None:
    """The response format: whether any object will do, and the schema; None without one."""
    asked = params.get("response_format")
    if isinstance(asked, type) and hasattr(asked, "model_json_schema"):
        return False, asked.model_json_schema()  # a pydantic class, as litellm takes
    if not isinstance(asked, Mapping):
        return None
    if asked.get("type") == "json_object":
        return True, asked.get("response_schema", True)  # litellm's form of a schema
    wrapped = asked.get("json_schema")
    if asked.get("type") == "json_schema" and isinstance(wrapped, Mapping):
        return False, wrapped.get("schema", True)
    return None


def _json_faults(params: Mapping[str, Any], text: str) -> list[str]:
    asked = _asked_format(params)
    if asked is None:
        return []
    any_object, schema = asked
    try:
        value = parse_json(text)
    except ValueError:
        return ["invalid_json"]
    if any_object and not isinstance(value, dict):
        return ["schema_mismatch"]
    return ["schema_mismatch"] if problem_of(value, schema) else []


def _refuses(text: str) -> bool:
    return len(text) < _LONGEST_REFUSAL and _REFUSAL.search(text[:_OPENING]) is not None


def _code_parses(text: str) -> bool:
    """Whether every fenced block of Python is Python; sessions and shell escapes are let pass."""
    for block in _CODE.findall(text[:_LONGEST_CODE]):
        code = textwrap.dedent(block)
        if re.search(r"^\s*(?:>>>|%|!|\.\.\.\s*$)", code, re.M):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the code, about its style
                ast.parse(code)
        except (SyntaxError, ValueError):
            return False
        except (RecursionError, MemoryError):
            continue
    return True


def _cap(params: Mapping[str, Any]) -> float:
    caps = [params.get("max_tokens"), params.get("max_completion_tokens")]
    known = [cap for cap in caps if isinstance(cap, int) and not isinstance(cap, bool)]
    return max(known, default=float("inf"))
