"""A judge's labels on the scale of all others.

A judge says how good an answer is beside the baseline tier's, whose own answers get no such label;
everyone else says how good an answer is by itself. Read as they are, a cheap tier that always says
what the baseline says would be perfect, and better than the baseline that users find fault with.
So a judge's score counts times P(good) of the baseline's answer, as it was predicted.
"""

from __future__ import annotations

from dataclasses import replace

from router.log.base import JUDGED, Log, LoggedRequest
from router.types import TIERS


def baselines_of(log: Log) -> dict[str, str]:
    """With which tier's answer a judge compared each request: judged request → baseline tier."""
    of = {r.request_id: r.scopes.get(JUDGED, "") for r in log.requests() if r.purpose == "shadow"}
    if not of:
        return {}
    return {of[each.request_id]: each.tier for each in log.attempts() if each.request_id in of}


class OwnLabels:
    """Reads requests of a log with labels that all say how good the answer is by itself."""

    def __init__(self, log: Log):
        self._log = log
        self._baselines: dict[str, str] | None = None  # read once there is a judge's label

    def read(self, request: LoggedRequest) -> LoggedRequest:
        """The request; without its label where that is a judge's and P(good) is not known."""
        if request.label is None or not request.beside_baseline:
            return request
        if self._baselines is None:
            self._baselines = baselines_of(self._log)
        tier = self._baselines.get(request.request_id, TIERS[-1])
        quality = next((v.get("quality") for v in request.decision if v.get("tier") == tier), None)
        if not isinstance(quality, int | float):
            return replace(request, label=None)
        return replace(request, label=request.label * quality)


def about_judged(judged: int, labels: int) -> str:
    """What to know of figures of which so many labels are a judge's."""
    return (
        f"{judged:,} of {labels:,} labels are a judge's, who says how good an answer is beside the "
        "baseline tier's: each counts times the predicted P(good) of that one"
    )
