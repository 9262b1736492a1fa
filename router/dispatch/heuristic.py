"""litellm's own free router: its heuristic classifier, called as it is, without a network.

Its complexity router scores keywords and lengths (`litellm.router_strategy.complexity_router`,
classifier "heuristic", litellm's default settings) and names one of four tiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from router.dispatch.wire import load_litellm
from router.errors import ConfigurationError

if TYPE_CHECKING:
    from router.types import Tier

_TIER: dict[str, Tier] = {
    "SIMPLE": "nano",
    "MEDIUM": "mini",
    "COMPLEX": "mid",
    "REASONING": "frontier",
}


def classify(prompts: Iterable[str]) -> Iterator[tuple[Tier, float]]:
    """Yield for each prompt the tier that litellm's classifier names, and its weighted score.

    Raises `ConfigurationError` where the installed litellm has no such classifier.
    """
    load_litellm()
    try:
        from litellm.router_strategy.complexity_router.complexity_router import ComplexityRouter

        # The context is only asked once a call is routed to a deployment; classifying is local.
        classifier = ComplexityRouter("evaluate", None)
    except Exception as error:  # whatever another version raises, the answer is the same
        raise ConfigurationError(
            f"the installed litellm has no complexity router to compare with: {error}"
        ) from error
    for prompt in prompts:
        level, score, _ = classifier.classify(prompt)
        yield _TIER[str(getattr(level, "value", level))], float(score)
