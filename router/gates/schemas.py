"""A small validator of JSON against a JSON Schema: what providers' structured output can ask.

It is no `jsonschema`: a gate must not raise a false alarm, so a keyword that it does not know lets
everything pass, and patterns, which strangers' schemas could make expensive, are not run. What is
left (types, required and forbidden keys, enums, bounds, combinations, local references) is short
enough to keep, so the library needs no dependency for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

MAX_JSON_CHARS = 1_000_000
_DEEPEST = 64  # levels of schema; below it everything passes
_TYPES: dict[str, Any] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: (
        not isinstance(v, bool)
        and (isinstance(v, int) or (isinstance(v, float) and v.is_integer()))
    ),
}


def parse_json(text: str) -> Any:
    """Parse JSON as its standard has it. Raises `ValueError` for NaN, great length or depth too."""
    if len(text) > MAX_JSON_CHARS:
        raise ValueError(f"longer than {MAX_JSON_CHARS} characters")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


@dataclass(frozen=True, slots=True)
class _Document:
    """The schema that `$ref` points into, and the problem of each value with each of its parts by
    their identities: of a recursive schema's alternatives each would else be tried anew at every
    level, and the time double or worse with each."""

    root: Any
    known: dict[tuple[int, int], str | None] = field(default_factory=dict)


def problem_of(value: Any, schema: Any) -> str | None:
    """Say what of a parsed value breaks a schema, a JSON Schema as parsed; None where nothing is
    known to."""
    return _problem(value, schema, _Document(schema), 0)


def _problem(value: Any, schema: Any, document: _Document, depth: int) -> str | None:
    if schema is False:
        return "nothing is allowed here"
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    key = id(value), id(schema)
    if key not in document.known:
        document.known[key] = _broken(value, schema, document, depth)
    return document.known[key]


def _broken(value: Any, schema: Mapping[str, Any], document: _Document, depth: int) -> str | None:
    if isinstance(schema.get("$ref"), str):
        return _problem(value, _pointed(document.root, schema["$ref"]), document, depth + 1)
    return (
        _kind(value, schema)
        or _combined(value, schema, document, depth)
        or _bounds(value, schema)
        or _object(value, schema, document, depth)
        or _array(value, schema, document, depth)
    )


def _pointed(root: Any, reference: str) -> Any:
    """What a local reference points to; a schema that allows all where it points elsewhere."""
    if not reference.startswith("#"):
        return True
    found = root
    for part in reference.lstrip("#").strip("/").split("/"):
        if part:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found.get(key, True) if isinstance(found, Mapping) else True
    return found


def _kind(value: Any, schema: Mapping[str, Any]) -> str | None:
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    known = [_TYPES[kind] for kind in kinds if isinstance(kind, str) and kind in _TYPES]
    if value is None and schema.get("nullable") is True:  # OpenAPI's form
        return None
    if known and len(known) == len(kinds) and not any(fits(value) for fits in known):
        return f"{type(value).__name__} is not of type {wanted}"
    enum = schema.get("enum")
    if isinstance(enum, list) and not any(_same(value, each) for each in enum):
        return f"{value!r:.60} is not one of its values"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{value!r:.60} is not {schema['const']!r:.60}"
    return None


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON: to Python, true is 1."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return bool(one == other)


def _combined(value: Any, schema: Mapping[str, Any], document: _Document, depth: int) -> str | None:
    for part in schema.get("allOf") or ():
        problem = _problem(value, part, document, depth + 1)
        if problem:
            return problem
    for key in ("anyOf", "oneOf"):
        parts = schema.get(key)
        if isinstance(parts, list) and parts:
            problems = [_problem(value, part, document, depth + 1) for part in parts]
            if all(problems):
                return problems[0]
    return None


def _bounds(value: Any, schema: Mapping[str, Any]) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    size = len(value) if isinstance(value, str) else value
    low, high = ("minLength", "maxLength") if isinstance(value, str) else ("minimum", "maximum")
    least, most = _number(schema.get(low), -math.inf), _number(schema.get(high), math.inf)
    if not least <= size <= most:
        return f"{value!r:.60} is out of bounds"
    return None


def _object(value: Any, schema: Mapping[str, Any], document: _Document, depth: int) -> str | None:
    if not isinstance(value, dict):
        return None
    for name in schema.get("required") or ():
        if name not in value:
            return f"{name!r} is missing"
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    rest = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            problem = _problem(item, properties[name], document, depth + 1)
        elif schema.get("patternProperties"):
            problem = None
        elif rest is False:
            return f"{name!r} is not a key of it"
        else:
            problem = _problem(item, rest, document, depth + 1)
        if problem:
            return f"{name}: {problem}"
    return None


def _array(value: Any, schema: Mapping[str, Any], document: _Document, depth: int) -> str | None:
    if not isinstance(value, list):
        return None
    least, most = _number(schema.get("minItems"), 0), _number(schema.get("maxItems"), math.inf)
    if not least <= len(value) <= most:
        return f"{len(value)} items are out of bounds"
    if "prefixItems" in schema or not isinstance(schema.get("items"), Mapping):
        return None
    for at, item in enumerate(value):
        problem = _problem(item, schema["items"], document, depth + 1)
        if problem:
            return f"{at}: {problem}"
    return None


def _number(value: Any, otherwise: float) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else otherwise
