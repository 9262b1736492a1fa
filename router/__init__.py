"""tiered-router: each chat request to the cheapest model tier that answers it well, in budget.

    from router import Router

    router = Router("policies/default.yaml")
    reply = router.completion(messages=[{"role": "user", "content": "Hello"}])

Names load when they are first used, so that `import router` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router import errors
    from router.integrations.openai_client import wrap
    from router.pipeline import Router
    from router.policy import Policy, load_policy
    from router.types import Decision

__version__ = "0.1.0"
__all__ = ["Decision", "Policy", "Router", "errors", "load_policy", "wrap"]

_HOMES = {
    "Decision": "router.types",
    "Policy": "router.policy",
    "Router": "router.pipeline",
    "load_policy": "router.policy",
    "wrap": "router.integrations.openai_client",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("router.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'router' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
