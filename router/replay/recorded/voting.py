"""Votes on recorded answers: only as many samples are read as the vote would have asked for.

Where a model was recorded several times on a query, its answers in the order of the file are the
samples of a vote. The rule and the comparison are those of live requests, but for one thing: what
is thought of a sample beforehand is the model's mean score on all other questions, since a
prediction of each query's own comes only later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.gates.answer import Answer
from router.policy.vote import Vote
from router.predict.shape import shape_of
from router.types import TIERS, Request, Tier
from router.votes.comparable import comparable, rule_of
from router.votes.tally import Tally

if TYPE_CHECKING:
    from router.decide.vote import VoteRule
    from router.replay.recorded.prompts import Messages
    from router.types import Floats, Ints

LEAST_SAMPLES = 3  # recorded answers of one query that a vote needs
_NOTHING_KNOWN = 0.5  # P(good) of a sample where no other question tells
_NOTHING_ASKED: dict[str, Any] = {}  # outcomes keep no arguments


@dataclass(frozen=True, slots=True)
class VoteFigures:
    """What one tier's votes came to. Of the queries that were voted on: `samples`, how many each
    vote read, on the mean; the mean score of the `vote` and of its `first` sample, and their mean
    dollars, each None where unknown. `cut_short` votes had no more samples to read; `too_few`
    were recorded too seldom, and `incomparable` have answers that nobody can compare."""

    queries: int
    samples: float | None
    vote_score: float | None
    first_score: float | None
    vote_usd: float | None
    first_usd: float | None
    cut_short: int
    too_few: int
    incomparable: int

    def words(self, tier: Tier) -> str:
        """The figures in a sentence."""
        left = (
            f"{self.too_few} recorded fewer than {LEAST_SAMPLES} times, {self.incomparable} "
            "whose answers cannot be compared"
        )
        if not self.queries:
            return f"{tier}: no vote was held; {left}"
        text = f"{tier}: votes on {self.queries} queries, {self.samples:.2f} samples each"
        if self.vote_score is not None and self.first_score is not None:
            text += f", {self.vote_score:.1%} good where one sample is {self.first_score:.1%}"
        if self.vote_usd is not None and self.first_usd:
            text += f", at {self.vote_usd / self.first_usd:.2f} times its cost"
        short = f"; {self.cut_short} ended for want of samples" if self.cut_short else ""
        return f"{text}{short}; not voted on: {left}"


def hold_votes(
    numbers: Mapping[str, Floats],
    texts: Sequence[str | None],
    query: Ints,
    tier: Ints,
    asked: Sequence[Messages | None],
    group: Sequence[str],
    votes: Mapping[Tier, Vote],
) -> dict[Tier, VoteFigures]:
    """Hold the votes of some tiers, and put what came of each in place of its samples.

    Parameters
    ----------
    numbers
        (R,) each, NaN where unknown: "score", "cost_usd", "input_tokens" and "output_tokens". The
        first row of a vote is overwritten: score of the answer handed out, the rest summed over
        what was asked for, so that one unknown makes a sum unknown. Its other rows become NaN.
    texts
        (R,): recorded answers; without a text a sample agrees with no other.
    query, tier
        (R,): of which query, and which place among `TIERS`, a row is.
    asked, group
        What each query asked, None where it is left out, and the question that it is.
    votes
        By tier.
    """
    found = {}
    for name, vote in votes.items():
        samples: dict[int, list[int]] = defaultdict(list)
        for row in np.flatnonzero(tier == TIERS.index(name)).tolist():
            samples[int(query[row])].append(row)
        held = {q: (m, samples[q]) for q in samples if (m := asked[q]) is not None}
        expected = _expected(numbers["score"], {q: rows for q, (_, rows) in held.items()}, group)
        found[name] = _hold(numbers, texts, held, expected, vote)
    return found


def _hold(
    numbers: Mapping[str, Floats],
    texts: Sequence[str | None],
    held: Mapping[int, tuple[Messages, list[int]]],
    expected: Mapping[int, float],
    vote: Vote,
) -> VoteFigures:
    rule, counted = rule_of(vote), []
    too_few = incomparable = short = 0
    before, after = [], []
    for q, (messages, rows) in held.items():
        if not can_be_compared(vote, messages):
            incomparable += 1
            continue
        if len(rows) < LEAST_SAMPLES:
            too_few += 1
            continue
        taken, leader, done = _count([texts[row] for row in rows], rule, expected[q])
        short += not done
        counted.append(taken)
        first, drawn = rows[0], rows[:taken]
        before.append([numbers["score"][first], numbers["cost_usd"][first]])
        handed_out = numbers["score"][rows[leader]]
        for name, column in numbers.items():
            column[first] = handed_out if name == "score" else column[drawn].sum()
            column[rows[1:]] = np.nan
        after.append([numbers["score"][first], numbers["cost_usd"][first]])
    first_score, first_usd, vote_score, vote_usd = _means(
        np.array(before).reshape(-1, 2), np.array(after).reshape(-1, 2)
    )
    return VoteFigures(
        queries=len(counted),
        samples=float(np.mean(counted)) if counted else None,
        vote_score=vote_score,
        first_score=first_score,
        vote_usd=vote_usd,
        first_usd=first_usd,
        cut_short=short,
        too_few=too_few,
        incomparable=incomparable,
    )


def _count(texts: Sequence[str | None], rule: VoteRule, quality: float) -> tuple[int, int, bool]:
    """How many samples a vote reads, which of them is handed out, and whether it was decided."""
    tally, taken = Tally(rule, quality, _NOTHING_ASKED), 0
    while taken < len(texts) and (more := tally.wanted):
        for at in range(taken, min(taken + more, len(texts))):
            tally.count(Answer(texts[at] or ""), at)
        taken = min(taken + more, len(texts))
    return taken, tally.leader, not tally.wanted


def can_be_compared(vote: Vote | None, messages: Messages) -> bool:
    """`router.votes.comparable`, of a recorded prompt."""
    request = Request("", list(messages), _NOTHING_ASKED, now=0.0)
    return comparable(vote, request, shape_of(request.messages, request.params))


def _expected(
    score: Floats, mine: Mapping[int, list[int]], group: Sequence[str]
) -> dict[int, float]:
    """Of each query, the mean score of a model on all other questions."""
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for q, rows in mine.items():
        known = score[rows][np.isfinite(score[rows])]
        total[group[q]] += float(known.sum())
        count[group[q]] += len(known)
    everything, number = sum(total.values()), sum(count.values())
    found = {}
    for q in mine:
        others = number - count[group[q]]
        rest = everything - total[group[q]]
        found[q] = rest / others if others else _NOTHING_KNOWN
    return found


def _means(before: Floats, after: Floats) -> list[float | None]:
    """Mean score and dollars (M, 2) before and after, of the votes where both are known."""
    known = np.isfinite(before) & np.isfinite(after)
    return [
        float(values[known[:, at], at].mean()) if known[:, at].any() else None
        for values in (before, after)
        for at in range(2)
    ]
