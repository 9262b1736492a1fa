"""How a reasoning effort multiplies the tokens of an answer."""

from __future__ import annotations

from typing import Any

# "medium" is measured: the mean of gemini-2.5-pro's billed output tokens at its default thinking
# over mistral-large-2512's on the same 1,785 questions of paretobandit_val, both recovered from
# dollars per call at list prices. The others are interpolated: the reasoning share doubles from
# level to level, as the thinking budgets do that litellm maps the levels to (1,024, 2,048, 4,096).
# misguided_attention's thinking variants record visible text alone, so they cannot measure this.
_MEDIUM_FACTOR = 4.79
_REASONING = {"none": 0.0, "minimal": 0.125, "low": 0.5, "medium": 1.0, "high": 2.0, "xhigh": 4.0}
EFFORT_TOKENS: dict[str, dict[str, Any]] = {
    effort: {
        "factor": round(1 + (_MEDIUM_FACTOR - 1) * share, 3),
        "source": {"none": "by definition", "medium": "measured"}.get(effort, "interpolated"),
    }
    for effort, share in _REASONING.items()
}
