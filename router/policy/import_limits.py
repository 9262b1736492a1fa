"""Limits of datasette-llm-limits (0.1a2) as budgets of a policy.

There, `plugins: datasette-llm-limits: limits:` of datasette.yaml maps a name to `scope` (actor or
instance), `window`, `amount_usd` and, optionally, `purpose` and `model_id`. Here:

| there                        | here                                                            |
|------------------------------|-----------------------------------------------------------------|
| scope: instance              | scope: global                                                   |
| scope: actor                 | scope: user, when: {user: "*"}: those without a name are exempt |
| window: calendar-day, …      | window: day, …, in UTC; weeks begin on Monday in both           |
| window: rolling-24h, …       | window: rolling, seconds: 86400, …                              |
| amount_usd                   | limit, to the nano-dollar                                       |
| purpose: P                   | when: {tag: P}: the caller's tag says the purpose               |
| model_id: M                  | when: {model: M}, in full or without the provider               |
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from router.errors import PolicyError
from router.money import InvalidAmount, parse_usd, usd_text
from router.policy.document import Document, as_yaml, dotted, read_text, show
from router.policy.fields import similar
from router.policy.loader import text_of

_PLUGIN = "datasette-llm-limits"
_WINDOWS: dict[str, dict[str, Any]] = {
    "calendar-day": {"window": "day"},
    "calendar-month": {"window": "month"},
    "calendar-week": {"window": "week"},
    "rolling-24h": {"window": "rolling", "seconds": 86_400},
    "rolling-30d": {"window": "rolling", "seconds": 30 * 86_400},
    "rolling-7d": {"window": "rolling", "seconds": 7 * 86_400},
}
_SCOPES: dict[str, dict[str, Any]] = {
    "actor": {"scope": "user", "when": {"user": "*"}},
    "instance": {"scope": "global"},
}
_CONDITIONS = {"purpose": "tag", "model_id": "model"}
_REQUIRED = ("scope", "window", "amount_usd")
_KEYS = (*_REQUIRED, *_CONDITIONS)


def import_limits(file: Path) -> list[dict[str, Any]]:
    """Return the entries of a policy's `budgets` that limit what a configuration file limits.

    Parameters: `file`, YAML or JSON: datasette.yaml, the plugin's part of it, or the limits alone.
    Raises `PolicyError` for the first thing that is wrong or cannot be said, with key and line.
    """
    document = read_text(text_of(file), str(file))
    path: tuple[str, ...] = ()
    found: Any = document.data
    for key in ("plugins", _PLUGIN, "limits"):
        if isinstance(found, Mapping) and key in found:
            found, path = found[key], (*path, key)
        elif key != "limits" and path:
            raise _problem(document, path, f"there is no {key}", f"the plugin's {key}")
    if not isinstance(found, Mapping):
        raise _problem(document, path, f"{show(found)} is not limits by name", "a mapping")
    return [_budget(document, (*path, name), name, limit) for name, limit in found.items()]


def as_text(budgets: list[dict[str, Any]]) -> str:
    """Return budgets as the YAML of a policy's `budgets`."""
    return as_yaml({"budgets": budgets})


def _budget(document: Document, path: tuple[str, ...], name: str, limit: Any) -> dict[str, Any]:
    if not 1 <= len(name) <= 100 or not name.isprintable() or not name.strip():
        raise _problem(document, path, f"{show(name)} is no name", "up to 100 printable characters")
    if not isinstance(limit, Mapping):
        raise _problem(document, path, f"{show(limit)} is not a limit", ", ".join(_KEYS))
    for key in limit:
        if key not in _KEYS:
            problem = f"unknown key {show(key)}{similar(key, _KEYS)}"
            raise _problem(document, (*path, key), problem, ", ".join(_KEYS))
    for key in _REQUIRED:
        if key not in limit:
            raise _problem(document, path, f"the key {key!r} is missing", ", ".join(_REQUIRED))
    scope = _one_of(document, (*path, "scope"), limit["scope"], _SCOPES)
    when = dict(scope.get("when", {}))
    for key, own in _CONDITIONS.items():
        value = limit.get(key)
        if value is None:
            continue
        if not isinstance(value, str) or not 1 <= len(value) <= 256 or value == "*":
            raise _problem(document, (*path, key), f"{show(value)} names none", "text but '*'")
        when[own] = value
    return {
        "name": name,
        "limit": _amount(document, (*path, "amount_usd"), limit["amount_usd"]),
        **_one_of(document, (*path, "window"), limit["window"], _WINDOWS),
        **scope,
        **({"when": when} if when else {}),
    }


def _one_of(
    document: Document, path: tuple[str, ...], value: Any, known: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    if not isinstance(value, str) or value not in known:
        problem = f"{show(value)} is not possible{similar(str(value), known)}"
        raise _problem(document, path, problem, ", ".join(known))
    return known[value]


def _amount(document: Document, path: tuple[str, ...], value: Any) -> str:
    allowed = "an amount of US dollars above 0, to the nano-dollar"
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value <= 0:
        raise _problem(document, path, f"{show(value)} is not an amount", allowed)
    try:
        return usd_text(parse_usd(value))
    except InvalidAmount as error:
        raise _problem(document, path, str(error), allowed) from None


def _problem(document: Document, path: tuple[str, ...], problem: str, allowed: str) -> PolicyError:
    ends = range(len(path), -1, -1)
    line = next((line for end in ends if (line := document.lines.get(path[:end]))), None)
    return PolicyError(document.file, dotted(path), problem, allowed=allowed, line=line)
