"""Saying what is wrong with a policy in words that its author can act on."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from router.errors import PolicyError
from router.policy.document import Document, Path, dotted, show
from router.policy.fields import similar
from router.policy.schema import Policy

# Keys whose value may be a secret by mistake: a message must not repeat it.
SECRET = {"api_base", "api_key", "api_key_env", "params", "store", "url"}
_PLAIN = (str, int, Decimal, bool)

_TYPES = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "a whole number",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}
# The kind of finding, the fact of it that is the limit, and what the limit is.
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
    "string_too_long": ("max_length", "characters, at most"),
    "string_too_short": ("min_length", "characters, at least"),
    "too_short": ("min_length", "entries, at least"),
}


def problem_at(document: Document, path: Path, problem: str, *, allowed: str = "") -> PolicyError:
    """An error about what stands at `path`, with its line, or that of what it is missing from."""
    ends = range(len(path), -1, -1)
    line = next((line for end in ends if (line := document.lines.get(path[:end]))), None)
    value: object = document.data
    for part in path:
        value = _inside(value, part)
    # An error object is logged and shown too: it holds neither secrets nor whole sections.
    if SECRET.intersection(path) or not isinstance(value, _PLAIN):
        value = None
    return PolicyError(
        document.file, dotted(path), problem, value=value, allowed=allowed, line=line
    )


def explain(details: ErrorDetails, document: Document) -> PolicyError:
    """Turn one of pydantic's findings about a document into a `PolicyError`."""
    kind, facts, value = details["type"], details.get("ctx", {}), details["input"]
    path = _real_path(details["loc"], document.data)
    shown = "what is written here" if SECRET.intersection(path) else show(value)
    problem, allowed = f"{shown}: {details['msg']}", _about(path)
    if kind == "policy":
        problem, allowed = facts["problem"], facts["allowed"]
        path += facts["key"]
    elif kind == "value_error":
        problem = details["msg"].removeprefix("Value error, ")
    elif kind == "extra_forbidden":
        known = _keys_at(path[:-1])
        home = _home_of(str(path[-1]), path[:-1])
        hint = f"; it belongs in {home}" if home else similar(str(path[-1]), known)
        problem = f"unknown key {show(path[-1])}{hint}"
        allowed = ", ".join(known)
    elif kind == "missing":
        problem = f"the key {str(path[-1])!r} is missing"
    elif kind == "literal_error":
        allowed = facts["expected"].replace("'", "").replace(" or ", ", ")
        problem = f"{shown} is not possible{similar(str(value), allowed.split(', '))}"
    elif kind in _TYPES:
        problem, allowed = f"{shown} is not {_TYPES[kind]}", _TYPES[kind]
    elif kind in _BOUNDS:
        fact, what = _BOUNDS[kind]
        problem, allowed = f"{shown} is out of bounds", f"{what} {facts[fact]}"
    elif kind == "string_pattern_mismatch":
        problem, allowed = f"{shown} does not fit", f"{_about(path)} ({facts['pattern']})"
    return problem_at(document, path, problem, allowed=allowed)


def _real_path(location: Path, data: object) -> Path:
    """Drop from pydantic's location whatever is not in the file, such as a union's branches."""
    path: list[str | int] = []
    for at, part in enumerate(location):
        inside = _inside(data, part)
        if inside is not _NOTHING:
            data = inside
        elif at < len(location) - 1 or not isinstance(data, dict):
            continue
        path.append(part)
    return tuple(path)


_NOTHING = object()


def _inside(data: object, part: str | int) -> object:
    if isinstance(data, dict):
        return data.get(part, _NOTHING)
    if isinstance(data, tuple) and isinstance(part, int) and part < len(data):
        return data[part]
    return _NOTHING


def _model_at(path: Path) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Policy
    for part in path:
        if isinstance(part, int) or model is None:
            continue
        field = model.model_fields.get(part)
        model = _model_in(field.annotation) if field is not None else None
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _keys_at(path: Path) -> list[str]:
    model = _model_at(path)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


# Where keys belong that are easily written one level too high.
_HOMES = {
    "a deployment": ("tiers", "nano", 0),
    "`cascade`": ("cascade",),
    "`objective`": ("objective",),
    "`conversations`": ("conversations",),
}


def _home_of(key: str, path: Path) -> str | None:
    """Where a key at the policy's top level would be known, if anywhere."""
    if path:
        return None
    return next((name for name, place in _HOMES.items() if key in _keys_at(place)), None)


def _about(path: Path) -> str:
    model = _model_at(path[:-1]) if path else None
    field = model.model_fields.get(str(path[-1])) if model is not None else None
    return (field.description or "").rstrip(".") if field is not None else ""
