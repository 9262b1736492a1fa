"""Asking a provider for the log-probabilities of an answer's tokens, where it gives them.

A provider that does not know the argument refuses the whole call, so it is sent only where litellm
lists it for the model, or the policy says so. litellm lists more than is true: Google's API has
the argument, and most of its models refuse it (GoogleCloudPlatform/generative-ai, issues 1536 and
2947); OpenAI's gpt-5.1 and later take it only while they do not reason (litellm's own check).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from router.dispatch.wire import load_litellm

if TYPE_CHECKING:
    from router.policy import Deployment

NAMES = ("logprobs", "top_logprobs")
_ALTERNATIVES = 2  # the token itself and the likeliest other one: what a margin needs
_REFUSED_BY = ("gemini", "vertex_ai", "vertex_ai_beta")


def logprob_arguments(deployment: Deployment) -> dict[str, Any]:
    """What to send to a deployment for its answers' log-probabilities; nothing where it is not
    known to take it. Loads litellm where the policy has no word on it."""
    word = deployment.capabilities.logprobs
    if word is False:
        return {}
    if word:
        return {"logprobs": True, "top_logprobs": _ALTERNATIVES}
    if deployment.effort not in (None, "none"):
        return {}
    takes = _listed(deployment.model)
    if "logprobs" not in takes:
        return {}
    both = {"logprobs": True, "top_logprobs": _ALTERNATIVES}
    return both if "top_logprobs" in takes else {"logprobs": True}


@cache
def _listed(model: str) -> frozenset[str]:
    """Which of `NAMES` litellm lists for a model, by its provider."""
    litellm = load_litellm()
    try:
        _, provider, _, _ = litellm.get_llm_provider(model)
        listed = litellm.get_supported_openai_params(model) or ()
    except Exception:  # litellm knows no such model; the call itself will say so
        return frozenset()
    return frozenset() if provider in _REFUSED_BY else frozenset(NAMES).intersection(listed)


def ask_for_logprobs(arguments: dict[str, Any], deployment: Deployment) -> None:
    """Add what makes a deployment give log-probabilities to a call's arguments, unless these say
    something of it themselves."""
    if any(name in arguments for name in NAMES):
        return
    added = logprob_arguments(deployment)
    arguments.update(added)
    if added and deployment.capabilities.logprobs:
        # litellm knows no model of one's own server; the policy's author does.
        allowed = [*(arguments.get("allowed_openai_params") or ()), *NAMES]
        arguments["allowed_openai_params"] = allowed


def without_logprobs(response: Any) -> None:
    """Take the log-probabilities out of a response: its caller did not ask for them."""
    for choice in response.choices:
        if getattr(choice, "logprobs", None) is not None:
            del choice.logprobs  # as litellm leaves it out of an answer that has none
