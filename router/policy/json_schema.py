"""The policy format as JSON Schema, for editors that complete and check YAML as it is typed."""

from __future__ import annotations

from typing import Any

from router.policy.schema import Policy

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a policy file.

    It cannot say all that `load_policy` checks: prices, time zones, patterns, names used twice.
    """
    schema = Policy.model_json_schema(by_alias=True)
    schema["properties"]["name"].pop("default")  # the file's stem, which a schema cannot know
    return {"$schema": DIALECT, "title": "tiered-router policy", **_tidy(schema)}


def _tidy(node: Any) -> Any:
    """Drop what pydantic adds and no author needs: a title for each key, defaults of null."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _tidy(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value in (None, []))
    }
