"""`nano=M,mini=M,…` → which recorded model stands for which tier."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from router.errors import ConfigurationError
from router.types import TIERS, Tier

_EXAMPLE = "such as nano=MODEL,frontier=MODEL"


def parse_ladder(text: str) -> dict[Tier, str]:
    """Read a ladder from the command line.

    Returns the model of each tier, in the order of `TIERS`: two to four of them, the frontier
    (against which savings are measured) always among them.
    Raises `ConfigurationError` naming the part at fault.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        tier, equals, model = (piece.strip() for piece in part.partition("="))
        if not equals or not tier or not model:
            raise ConfigurationError(f"ladder: {part.strip()!r} is not TIER=MODEL, {_EXAMPLE}")
        if tier not in TIERS:
            raise ConfigurationError(f"ladder: no tier {tier!r}; the tiers are {', '.join(TIERS)}")
        if tier in found:
            raise ConfigurationError(f"ladder: tier {tier} stands twice")
        if model in found.values():
            raise ConfigurationError(f"ladder: model {model!r} stands for two tiers")
        found[tier] = model
    if "frontier" not in found:
        raise ConfigurationError("ladder: frontier=MODEL is missing; savings are measured on it")
    if len(found) < 2:
        raise ConfigurationError(f"ladder: at least two tiers are needed, {_EXAMPLE}")
    return {tier: found[tier] for tier in TIERS if tier in found}


def missing_models(ladder: Mapping[Tier, str], models: list[str]) -> str | None:
    """Say which model of the ladder is not among `models`, with the nearest names; None if all."""
    for tier, model in ladder.items():
        if model in models:
            continue
        folded = {name.casefold(): name for name in models}
        near = [folded[name] for name in get_close_matches(model.casefold(), list(folded), 3, 0.4)]
        near += [name for name in models if model.casefold() in name.casefold()]
        hint = f"nearest: {', '.join(dict.fromkeys(near[:5]))}" if near else _listed(models)
        return f"no rows of model {model!r} (tier {tier}); {hint}"
    return None


def _listed(models: list[str]) -> str:
    shown = ", ".join(models[:8])
    return f"it has {len(models)} models: {shown}" + (", …" if len(models) > 8 else "")
