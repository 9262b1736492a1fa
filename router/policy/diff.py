"""Which settings differ between two policies, by what they mean: a default that is written out is
no difference, and neither are comments, order of keys, or how an amount is spelt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from router.policy.problems import SECRET
from router.policy.schema import Policy

HIDDEN = "(not shown)"  # in place of a value that may be a secret
_NO = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs: its key, dotted, and its value in either policy as plain data.

    None stands for a setting that is not there, as it does for one that is null.
    """

    key: str
    old: Any
    new: Any


def changes(old: Policy, new: Policy) -> list[Change]:
    """The settings that differ, in the order of the schema. The name and the description of a
    policy decide nothing and are left out; budgets and rules are told apart by their names.

    Values that may hold a secret (addresses, keys, parameters) are not repeated.
    """
    before, after = dict(_settings(old)), dict(_settings(new))
    found = []
    for key in dict.fromkeys([*before, *after]):
        one, other = before.get(key, _NO), after.get(key, _NO)
        if one == other:
            continue
        values = [None if value is _NO else value for value in (one, other)]
        if values == [None, None]:
            continue
        if SECRET.intersection(key):
            values = [value if value is None else HIDDEN for value in values]
        found.append(Change(".".join(key), *values))
    rules, now = _rules_order(old), _rules_order(new)
    kept = [name for name in rules if name in now]
    if now[: len(kept)] != kept:  # the first that matches wins: what comes last takes from none
        found.append(Change("rules (their order)", rules, now))
    return found


def _settings(policy: Policy) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield from _leaves(policy.model_dump(mode="json", exclude={"name", "description"}), ())


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for at, inner in enumerate(value):
            key = inner.get("name") if isinstance(inner, dict) else None
            yield from _leaves(inner, (*path, str(key if key is not None else at)))
    elif value != []:  # no deployments, say: what is gone has no settings
        yield path, value


def _rules_order(policy: Policy) -> list[str]:
    return [rule.name for rule in policy.rules]
