"""How providers cache prompts: how long, and whether they have to be asked to.

Lifetimes, as documented in November 2026, each counted anew from every read:

- Anthropic, "Prompt caching": 5 minutes, or an hour for what is marked so; only what is marked with
  `cache_control` is cached, and writing it costs more than plain input.
- OpenAI, "Prompt caching": by itself from 1,024 tokens on; 5 to 10 minutes without use. The shorter
  is taken.
- Google, "Context caching" (implicit): by itself; no lifetime is promised. 5 minutes are taken.
- DeepSeek, "Context Caching": by itself, "a few hours to a few days". An hour is taken.
- Others: 5 minutes, where their price has a rate for cached tokens at all.

A deployment's `cache_seconds` overrides them. They only steer what a call is expected to cost: what
is reserved never counts on a cache.
"""

from __future__ import annotations

USUAL_SECONDS = 300.0
HOUR_SECONDS = 3600.0  # of what Anthropic's marks ask to keep for an hour
_SECONDS = {"anthropic": 300.0, "openai": 300.0, "gemini": 300.0, "deepseek": HOUR_SECONDS}


def family(model: str) -> str:
    """Whose model it is, by litellm's name: "anthropic", "openai", "gemini", "mistral", …

    What a model takes depends on who made it and not on who sells it, for the makers of more than
    one seller: "bedrock/anthropic.claude-…" is Anthropic's.
    """
    seller, _, rest = model.partition("/")
    name = (rest or seller).lower()
    if seller in ("anthropic", "gemini", "mistral", "deepseek"):
        return seller
    if "claude" in name:
        return "anthropic"
    if seller.startswith("vertex_ai") or "gemini" in name:
        return "gemini"
    if seller in ("openai", "azure", "azure_ai") or not rest:
        return "openai"
    return seller


def lifetime(model: str) -> float:
    """Seconds that a prompt stays in the provider's cache after it was last read."""
    return _SECONDS.get(family(model), USUAL_SECONDS)


def needs_marks(model: str) -> bool:
    """Whether only what is marked with `cache_control` is cached."""
    return family(model) == "anthropic"
