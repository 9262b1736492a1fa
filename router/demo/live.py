"""The demo with real models: the same prompts, the tiers of a real policy, and real money."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal

from router.demo.result import DemoResult
from router.demo.run import BUDGET_NAME, Progress, collect, explain, run
from router.demo.simulation import Prompt
from router.errors import ConfigurationError, UnknownPrice
from router.money import usd_text
from router.pipeline import Router
from router.policy import Deployment, Policy
from router.policy.budgets import BudgetLimit

# Where litellm looks for the key of each provider, by the first part of its model strings.
KEYS: Mapping[str, str] = {
    "anthropic": "ANTHROPIC_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "fireworks_ai": "FIREWORKS_AI_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "openai": "OPENAI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "together_ai": "TOGETHERAI_API_KEY",
    "xai": "XAI_API_KEY",
}


def key_of(deployment: Deployment) -> str | None:
    """Return the environment variable that holds a deployment's key; None if it needs none."""
    if deployment.api_key_env is not None or deployment.api_base is not None:
        return deployment.api_key_env
    return KEYS.get(deployment.model.split("/")[0])


def check_keys(policy: Policy, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `ConfigurationError` for the tiers of which no deployment has its key."""
    missing = {}
    for tier in policy.tiers.present:
        keys = [key_of(deployment) for deployment in policy.tiers.of(tier)]
        if not any(key is None or environment.get(key) for key in keys):
            missing[tier] = " or ".join(dict.fromkeys(key for key in keys if key))
    if missing:
        wanted = "; ".join(f"{tier}: set {names}" for tier, names in missing.items())
        raise ConfigurationError(
            f"--live needs the providers' keys in the environment ({wanted}); "
            f"or name a policy of your own with --policy"
        )


def upper_bound(router: Router, chosen: Sequence[Prompt]) -> int:
    """Return the summed upper bounds, in nano-USD, of what the router would choose now."""
    total = 0
    for prompt in chosen:
        view = explain(router, prompt).view
        if view.quote.upper is None:
            raise UnknownPrice(view.arm.model, "a live run shows its upper-bound cost first")
        total += view.quote.upper
    return total


def with_limit(policy: Policy, limit: int) -> Policy:
    """Return the policy with a further hard budget in nano-USD: the sum that was agreed to."""
    agreed = BudgetLimit(name=BUDGET_NAME, limit=Decimal(usd_text(limit)), on_exceed="downgrade")
    limited = policy.model_copy(update={"budgets": (*policy.budgets, agreed)})
    limited.__dict__.pop("hash", None)  # of the policy without the budget
    return limited


def run_live(
    policy: Policy,
    chosen: Sequence[Prompt],
    *,
    limit: int,
    seed: int,
    progress: Progress,
    store: str,
) -> DemoResult:
    """Send the prompts to a policy's real tiers, spending at most `limit` nano-USD."""
    with Router(with_limit(policy, limit), store=store) as router:
        _, seconds = run(router, chosen, progress)
        return collect(router, chosen, books=None, seed=seed, seconds=seconds, store=store)
