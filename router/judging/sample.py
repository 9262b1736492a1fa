"""Which logged requests are judged: those of a sample that its seed alone decides."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.judging.verdicts import parse
from router.log import Label, Log
from router.log.base import JUDGED
from router.policy import Policy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request to judge. `shadow` is the baseline's answer where an earlier run has paid for it;
    `cap`, output tokens, is what the request itself was answered within."""

    request_id: str
    messages: Sequence[Mapping[str, Any]]
    answer: str
    cap: int | None
    shadow: str | None


@dataclass(slots=True)
class Sample:
    """`candidates` in the order in which they are judged, and what became of all others.

    `earlier`: label of this judge that an earlier draw with this seed led to, by request.
    """

    candidates: list[Candidate] = field(default_factory=list)
    earlier: dict[str, Label] = field(default_factory=dict)
    rate: float = 0.0
    eligible: int = 0
    sampled: int = 0
    before: int = 0
    own: int = 0
    unkept: int = 0
    unfit: int = 0

    def facts(self) -> dict[str, Any]:
        """All but the candidates, as a report has them."""
        names = ("rate", "eligible", "sampled", "before", "own", "unkept", "unfit")
        return {name: getattr(self, name) for name in names}


def draw(request_id: str, seed: int) -> float:
    """A number from 0 to 1 that a request's id and the seed decide."""
    digest = hashlib.sha256(f"{seed}:{request_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sample(
    log: Log, policy: Policy, judge: str, *, rate: float | None, count: int | None, seed: int
) -> Sample:
    """Read a log and choose what to judge: a share `rate` of what can be, or `count` of it.

    Parameters: `judge`, the judge's model.
    They come in the order of their draws, so that what an early end leaves out is left to chance.
    """
    found = Sample()
    seen = _Seen(policy, judge)
    seen.read(log, found)
    found.eligible = len(seen.eligible)
    if count is not None:
        rate = min(1.0, count / found.eligible) if found.eligible else 1.0
    assert rate is not None
    found.rate = rate
    drawn = sorted((draw(name, seed), name) for name in seen.eligible)
    chosen = (
        drawn[:count]
        if count is not None
        else [(number, name) for number, name in drawn if number < rate]
    )
    found.sampled = len(chosen)
    labels = {each.request_id: each for each in log.labels() if each.source == f"judge:{judge}"}
    found.earlier = {
        name: labels[name]
        for number, name in chosen
        if name in labels and _may_be_of(number, labels[name].rate or 0.0, found.eligible)
    }
    done = set(labels)
    done |= {name for name, times in seen.verdicts.items() if times >= 2}
    left = [name for _, name in chosen if name not in done]
    found.before = len(chosen) - len(left)
    _fill(found, log, left, seen.shadows)
    return found


def _may_be_of(number: float, rate: float, eligible: int) -> bool:
    """Whether a draw of this number could lead to a label of this rate; a `count` of requests ends
    at a number that varies around its rate."""
    return number < rate + 4 * math.sqrt(rate / eligible)


class _Seen:
    """One reading of a log: what can be judged, and what earlier runs did."""

    def __init__(self, policy: Policy, judge: str):
        self._policy, self._judge = policy, judge
        self._models = {each.model for each in policy.tiers.of(policy.baseline)}
        self.eligible: list[str] = []
        self.shadows: dict[str, str] = {}  # judged request → the baseline's answer
        self.verdicts: Counter[str] = Counter()  # judged request → replies of this judge

    def read(self, log: Log, found: Sample) -> None:
        served: dict[str, int | None] = {}
        own: dict[str, tuple[str, str, int | None]] = {}
        for row in log.requests():
            if row.status != "answered":
                continue
            if row.purpose != "serve":
                own[row.request_id] = (row.purpose, row.scopes.get(JUDGED, ""), row.accepted)
            elif row.content is None:
                found.unkept += 1
            elif row.features.get("needs"):
                found.unfit += 1
            else:
                served[row.request_id] = row.accepted
        for attempt in log.attempts():
            name = attempt.request_id
            if name in served and attempt.number == served[name]:
                if attempt.tier == self._policy.baseline:
                    found.own += 1
                elif attempt.answer is None:
                    found.unkept += 1
                elif _text(attempt.answer) is None:
                    found.unfit += 1
                else:
                    self.eligible.append(name)
            elif name in own and attempt.number == own[name][2]:
                purpose, judged, _ = own[name]
                text = _text(attempt.answer)
                if purpose == "shadow" and attempt.model in self._models:
                    if text is not None:
                        self.shadows[judged] = text
                    elif attempt.answer is not None:
                        self.verdicts[judged] += 2  # there is nothing to compare with
                elif purpose == "judge" and attempt.model == self._judge:
                    # No verdict is a last word too: its second order was never asked for.
                    no_verdict = attempt.answer is not None and parse(text or "") is None
                    self.verdicts[judged] += 2 if no_verdict else 1


def _fill(found: Sample, log: Log, names: Sequence[str], shadows: Mapping[str, str]) -> None:
    """Read the text of the requests in `names` alone: a log may be larger than memory."""
    wanted, asked, accepted = set(names), {}, {}
    for row in log.requests():
        if row.request_id in wanted:
            arms = {each["arm"]: each.get("output_cap") for each in row.decision}
            asked[row.request_id] = json.loads(row.content or "[]"), arms
            accepted[row.request_id] = row.accepted
    answers = {
        attempt.request_id: attempt
        for attempt in log.attempts()
        if attempt.request_id in wanted and attempt.number == accepted.get(attempt.request_id)
    }
    for name in names:
        attempt, (messages, caps) = answers[name], asked[name]
        answer = _text(attempt.answer)
        assert answer is not None  # it was eligible
        cap = caps.get(attempt.arm)
        found.candidates.append(Candidate(name, messages, answer, cap, shadows.get(name)))


def _text(answer: str | None) -> str | None:
    """The text of a logged answer, None unless it is one message of nothing else."""
    if answer is None:
        return None
    messages = json.loads(answer)
    if len(messages) != 1 or messages[0].get("tool_calls"):
        return None
    text = messages[0].get("content")
    return text if isinstance(text, str) and text.strip() else None
