"""What a judging run found: outcomes, how much the judge goes by places, with whom it agrees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.judging.verdicts import Outcome, both, score
from router.log import Label
from router.money import NANO_PER_USD

_Z: float = 1.959964  # of a two-sided 95% interval
GOOD = 0.5  # a label of at least this much is a good one, where two labels are compared

Interval = tuple[float, float]


def wilson(hits: float, of: int) -> Interval | None:
    """Wilson's 95% interval of a share, None of nothing."""
    if of == 0:
        return None
    share, spread = hits / of, _Z**2 / of
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two sources call the same answer good or bad, of `pairs` that both labelled.

    `kappa` is Cohen's, None where chance alone would always agree. Its 95% interval is that of the
    share of agreement (Wilson's) at the agreement by chance that was observed.
    """

    pairs: int
    agreed: int
    kappa: float | None
    kappa_interval: Interval | None

    @classmethod
    def of(cls, pairs: Sequence[tuple[bool, bool]]) -> Agreement:
        agreed, n = sum(one == other for one, other in pairs), len(pairs)
        interval = wilson(agreed, n)
        if interval is None:
            return cls(0, 0, None, None)
        one, other = (sum(each) / n for each in zip(*pairs, strict=True))
        chance = one * other + (1 - one) * (1 - other)
        if chance >= 1:
            return cls(n, agreed, None, None)

        def kappa(share: float) -> float:
            return float(max(-1.0, (share - chance) / (1 - chance)))

        low, high = interval
        return cls(n, agreed, kappa(agreed / n), (kappa(low), kappa(high)))

    def as_dict(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs,
            "agreed": self.agreed,
            "share": self.agreed / self.pairs if self.pairs else None,
            "interval": wilson(self.agreed, self.pairs),
            "kappa": self.kappa,
            "kappa_interval": self.kappa_interval,
        }


def agreements(labels: Iterable[Label], judge: str) -> dict[str, Agreement]:
    """The judge's labels (of source `judge`) against people's and checks', the latest of each."""
    latest: dict[str, dict[str, Label]] = {"user": {}, "check": {}, "judge": {}}
    for label in labels:
        kind = _kind(label.source, judge)
        if kind is not None:
            before = latest[kind].get(label.request_id)
            if before is None or label.time >= before.time:
                latest[kind][label.request_id] = label
    judged = latest["judge"]
    return {
        kind: Agreement.of(
            [
                (label.score >= GOOD, judged[name].score >= GOOD)
                for name, label in latest[kind].items()
                if name in judged
            ]
        )
        for kind in ("user", "check")
    }


def _kind(source: str, judge: str) -> str | None:
    if source == judge:
        return "judge"
    if source.startswith("judge:"):
        return None
    return "check" if source.startswith("check:") else "user"


@dataclass(slots=True)
class JudgeReport:
    """One run of `router judge`; money in nano-USD.

    `eligible` requests were answered below the baseline tier with text that the log kept; `rate` is
    the share of them that was sampled, `before` of these were judged by this judge already. `pairs`
    are this run's outcomes of the routed answer, with it in the first and in the second place.
    `agreement` is over all labels of this judge in the store. `stopped` says why it ended early.
    """

    judge: str
    baseline: str
    seed: int
    rate: float
    eligible: int
    sampled: int
    before: int
    own: int  # answered by the baseline tier itself
    unkept: int  # whose text the log does not have
    unfit: int  # with tools, images, a schema, or several answers
    judges_itself: bool
    ceiling: int
    pairs: list[tuple[Outcome, Outcome]] = field(default_factory=list)
    reused: int = 0  # answers of the baseline that an earlier run had paid for
    refused: int = 0  # that the judge would not judge
    unparseable: int = 0
    failed: int = 0  # that could not be sent or read
    spent: Mapping[str, int] = field(default_factory=dict)
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    stopped: str | None = None
    outage: bool = False  # whether it was a failure that stopped it, not the money

    @property
    def judged(self) -> int:
        return len(self.pairs)

    @property
    def scores(self) -> list[float]:
        return [score(*pair) for pair in self.pairs]

    def count(self, outcome: Outcome) -> int:
        """How many routed answers won, tied or lost by both orders together."""
        return sum(both(*pair) == outcome for pair in self.pairs)

    @property
    def swapped(self) -> int:
        """Pairs whose outcome changed when the answers changed places."""
        return sum(one != other for one, other in self.pairs)

    @property
    def places(self) -> tuple[int, int]:
        """Of the pairs where the judge named the same place in both orders: the first, the second.

        Without a bias either is as likely, and the pairs do not depend on each other.
        """
        return self.pairs.count(("win", "loss")), self.pairs.count(("loss", "win"))

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON; money as numbers of US dollars, and exact in `*_nano`."""
        good = sum(each == 1.0 for each in self.scores)
        first, second = self.places
        verdicts = 2 * self.judged
        named_first = sum((one == "win") + (other == "loss") for one, other in self.pairs)
        named = sum((one != "tie") + (other != "tie") for one, other in self.pairs)
        total = sum(self.spent.values())
        return {
            "judge": self.judge,
            "baseline": self.baseline,
            "judges_itself": self.judges_itself,
            "seed": self.seed,
            "rate": self.rate,
            "eligible": self.eligible,
            "baseline_answered": self.own,
            "not_kept": self.unkept,
            "not_text": self.unfit,
            "sampled": self.sampled,
            "judged_before": self.before,
            "judged": self.judged,
            "win": self.count("win"),
            "tie": self.count("tie"),
            "loss": self.count("loss"),
            "score": sum(self.scores) / self.judged if self.judged else None,
            "at_least_as_good": good / self.judged if self.judged else None,
            "at_least_as_good_interval": wilson(good, self.judged),
            "position_bias": {
                "changed": self.swapped,
                "changed_share": self.swapped / self.judged if self.judged else None,
                "verdicts": verdicts,
                "named_first": named_first / named if named else None,
                "same_place": first + second,
                "prefers_first": first / (first + second) if first + second else None,
                "prefers_first_interval": wilson(first, first + second),
            },
            "agreement": {kind: found.as_dict() for kind, found in self.agreement.items()},
            "refused": self.refused,
            "unparseable": self.unparseable,
            "failed": self.failed,
            "shadow_answers_reused": self.reused,
            "spent_usd": {name: nano / NANO_PER_USD for name, nano in self.spent.items()},
            "spent_nano": dict(self.spent),
            "total_spent_nano": total,
            "ceiling_nano": self.ceiling,
            "stopped": self.stopped,
        }
