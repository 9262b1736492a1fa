"""What is watched: quantities by name, each request's value of them in whole numbers, and words.

A quantity is a kind, or a kind and a tier: "novel", "tokens/mini". Its values are bins that are
fixed beforehand, so that a test keeps counts and never a list of values.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from router.policy.drift import WATCHED

if TYPE_CHECKING:
    from router.log.base import LoggedRequest
    from router.policy import Policy
    from router.types import AttemptRow, Floats

BINS = 48
_PER_OCTAVE, _SAME = 4, 24  # of answers' tokens by those predicted: bins of 1.19-fold, 1/64 to 64
_BY_TIER = ("scores", "tokens", "refusals", "faults")
_FORM = "form: "


def watched(policy: Policy) -> tuple[str, ...]:
    """The quantities that a policy watches by tests; its prices are compared, not tested."""
    asked = policy.drift
    if asked is None:
        return ()
    kinds = asked.watch
    if kinds is None:
        without = set() if policy.cascade is not None and policy.pacing is None else {"gate"}
        kinds = tuple(kind for kind in WATCHED if kind not in without)
    tested = [kind for kind in kinds if kind != "prices"]
    return tuple(
        name
        for kind in tested
        for name in ([f"{kind}/{t}" for t in policy.tiers.present] if kind in _BY_TIER else [kind])
    )


def watches_form(policy: Policy) -> bool:
    """Whether answers are looked at for faults of form."""
    return any(name.startswith(("refusals", "faults")) for name in watched(policy))


def form_note(found: Sequence[str]) -> str | None:
    """An answer's faults as its row's note keeps them, None where it has none."""
    return _FORM + ", ".join(found) if found else None


def values_of(request: LoggedRequest, attempts: Sequence[AttemptRow]) -> dict[str, int]:
    """The values that one request has, in bins, by quantity.

    Answers that stood in for a failed call are left out: which requests they are depends on whose
    failures they were.
    """
    found: dict[str, int] = {"novel": int(bool(request.features.get("novel")))}
    predicted: dict[str, float] = {}
    for arm in request.decision:
        quality, tokens = arm.get("quality"), arm.get("output_tokens")
        if isinstance(quality, int | float):
            found.setdefault(f"scores/{arm['tier']}", score_bin(quality))
        if isinstance(tokens, int | float):
            predicted[str(arm["arm"])] = tokens
    steps = 0
    for attempt in attempts:
        steps = max(steps, attempt.step)
        if attempt.status != "answered" or (attempt.step == 0 and attempt.arm != request.chosen):
            continue
        faults = _faults(attempt.note)
        if f"refusals/{attempt.tier}" in found:
            continue  # of the samples of a vote, the first that was answered
        found[f"refusals/{attempt.tier}"] = int("refusal" in faults)
        found[f"faults/{attempt.tier}"] = int(any(fault != "refusal" for fault in faults))
        if attempt.output_tokens is not None and attempt.arm in predicted:
            found[f"tokens/{attempt.tier}"] = tokens_bin(
                attempt.output_tokens, predicted[attempt.arm]
            )
    if any(attempt.status == "answered" and attempt.step == 0 for attempt in attempts):
        found["gate"] = int(steps > 0)
    return found


def score_bin(quality: float) -> int:
    """The bin of a probability."""
    return min(max(int(quality * BINS), 0), BINS - 1)


def score_counts(quality: Floats) -> Floats:
    """(BINS,) how many of some probabilities (M,) fall into each bin."""
    bins = np.clip((quality * BINS).astype(np.int64), 0, BINS - 1)
    counts: Floats = np.bincount(bins, minlength=BINS).astype(np.float64)
    return counts


def tokens_bin(actual: float, predicted: float) -> int:
    """The bin of an answer's tokens by those that were predicted."""
    octaves = math.log2((actual + 1) / (max(predicted, 0.0) + 1))
    return min(max(_SAME + round(_PER_OCTAVE * octaves), 0), BINS - 1)


def tie(request_id: str, name: str) -> float:
    """A number from 0 to 1 that a request's id fixes, for the ranks of values that are equal."""
    digest = hashlib.blake2b(f"drift:{name}:{request_id}".encode("utf-8", "replace"), digest_size=7)
    return int.from_bytes(digest.digest(), "big") / 2**56


def typical(name: str, counts: Floats) -> float | None:
    """What a quantity is like by its counts (BINS,): a mean probability, a rate, or the median of
    answers' tokens by those predicted; None without values."""
    total = counts.sum()
    if total <= 0:
        return None
    kind = name.partition("/")[0]
    if kind == "scores":
        return float(counts @ (np.arange(BINS) + 0.5)) / BINS / float(total)
    if kind == "tokens":
        median = int(np.searchsorted(np.cumsum(counts), total / 2))
        return float(2.0 ** ((median - _SAME) / _PER_OCTAVE))
    return float(counts[1] / total)


def said(name: str, value: float | None) -> str:
    """A quantity's typical value in words."""
    if value is None:
        return "-"
    kind = name.partition("/")[0]
    return f"{value:.2f} of predicted" if kind == "tokens" else f"{value:.1%}"


def title(name: str) -> str:
    """A quantity in words."""
    kind, _, tier = name.partition("/")
    return _TITLES[kind].format(tier=tier)


_TITLES: Mapping[str, str] = {
    "scores": "predicted quality of {tier}",
    "tokens": "tokens of {tier}'s answers",
    "refusals": "refusals by {tier}",
    "faults": "faults of form by {tier}",
    "gate": "first answers that did not pass the gate",
    "novel": "requests unlike anything in training",
    "prices": "prices",
}
assert set(_TITLES) == set(WATCHED)


def _faults(note: str | None) -> tuple[str, ...]:
    for part in (note or "").split("; "):
        if part.startswith(_FORM):
            return tuple(part.removeprefix(_FORM).split(", "))
    return ()
