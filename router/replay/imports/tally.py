"""What came of an import, and what is missing for replay, in plain words and with counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from router.errors import ImportFileError
from router.money import usd_text
from router.replay.imports.record import ImportedCall
from router.replay.imports.writer import Written

_MEANS = {
    "propensities": "the log does not say how likely each model was to be chosen: only the direct "
    "model can be used for replay, no weighting by propensities",
    "prompt text": "without it there are no features, and so no predictions and no quotes",
    "labels": "nothing says which answers were good: costs can be replayed, quality cannot, and "
    "nothing can be learnt",
    "token counts": "without them no cost can be computed where none was reported",
    "cost": "neither reported nor to be computed, so these calls are in no sum; of models",
    "latency": "logged as 0, with a note",
    "a policy": "no tier is known: import into a new store with --policy to replay, to see savings "
    "and to train",
    "models of the policy": "the policy has no arm of the recorded model, so no tier is known",
    "effort": "several arms have the recorded model, and which effort was asked for is not "
    "recorded: the first such arm stands in the log",
    "plans": "the policy cannot take these requests, so they have no predictions and no quotes",
}
OTHERWISE = (
    "in the store at another cost, which stays: another line has this id, or the price book or the "
    "record has changed since; a new store takes today's"
)
_LISTED = 20  # bad lines and unknown models that are named; all are counted


@dataclass(slots=True)
class Tally:
    """Counts of one import; `cost` in nano-USD, over the added calls whose cost is known: what the
    store's spend has grown by. `costs` counts the added ones by the source of their cost.

    `added` are new in the store, `already` were there. What is missing is counted over both: it is
    what the files lack. `planned` says whether a policy was given.
    """

    planned: bool = False
    added: int = 0
    already: int = 0
    failed: int = 0
    labels: int = 0
    cost: int = 0
    first: float | None = None
    last: float | None = None
    bad: int = 0
    truncated: int = 0
    listed: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    costs: Counter[str] = field(default_factory=Counter)
    lacks: Counter[str] = field(default_factory=Counter)
    unpriced: Counter[str] = field(default_factory=Counter)
    unmatched: Counter[str] = field(default_factory=Counter)
    unplanned: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        """Calls that are in the store now, of those that the files have."""
        return self.added + self.already

    def add(self, call: ImportedCall, written: Written) -> None:
        """Count a call."""
        self.added += written.new
        self.already += not written.new
        self.labels += written.labelled
        self.first = call.time if self.first is None else min(self.first, call.time)
        self.last = call.time if self.last is None else max(self.last, call.time)
        self.notes.update(call.notes)
        if written.otherwise:
            self.notes[OTHERWISE] += 1
        if written.new:
            self.costs["unknown" if written.cost is None else written.source] += 1
            self.cost += written.cost or 0
        if written.cost is None:
            self.unpriced[call.model] += 1
        self.lacks["prompt"] += call.messages is None
        self.lacks["latency"] += call.latency is None
        if call.error is None:
            self.lacks["label"] += call.label is None
            self.lacks["tokens"] += written.usage is None
        else:
            self.failed += 1
        if self.planned:
            if written.planned.arm is None:
                self.unmatched[call.model] += 1
            self.lacks["effort"] += written.planned.several
            if written.planned.problem is not None:
                self.unplanned[written.planned.problem] += 1

    def add_bad(self, problem: ImportFileError) -> None:
        """Count a line that could not be read."""
        self.bad += 1
        self.truncated += problem.truncated
        if len(self.listed) < _LISTED:
            self.listed.append(str(problem))

    def missing(self) -> list[dict[str, Any]]:
        """What replay lacks: `what`, how many calls lack it (`count`), and what that `means`."""
        if not self.calls:
            return []
        counts = {
            "propensities": self.calls,
            "prompt text": self.lacks["prompt"],
            "labels": self.lacks["label"],
            "token counts": self.lacks["tokens"],
            "cost": sum(self.unpriced.values()),
            "latency": self.lacks["latency"],
            "a policy": 0 if self.planned else self.calls,
            "models of the policy": sum(self.unmatched.values()),
            "effort": self.lacks["effort"],
            "plans": sum(self.unplanned.values()),
        }
        named = {
            "cost": self.unpriced,
            "models of the policy": self.unmatched,
            "plans": self.unplanned,
        }
        return [
            {
                "what": what,
                "count": count,
                "means": _MEANS[what] + (f": {_named(named[what])}" if what in named else ""),
            }
            for what, count in counts.items()
            if count
        ]

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            "requests": self.calls,
            "added": self.added,
            "already_there": self.already,
            "failed_calls": self.failed,
            "labels_added": self.labels,
            "first": _day(self.first),
            "last": _day(self.last),
            "known_cost_usd": usd_text(self.cost),
            "known_cost_nano": self.cost,
            "cost": {name: self.costs[name] for name in ("reported", "computed", "unknown")},
            "left_out": dict(self.left_out.most_common()),
            "notes": dict(self.notes.most_common()),
            "bad_lines": self.bad,
            "bad": list(self.listed),
            "truncated": self.truncated > 0,
            "missing": self.missing(),
        }


def _named(counts: Counter[str]) -> str:
    named = [f"{name} ({count:,})" for name, count in counts.most_common(_LISTED)]
    return ", ".join(named) + (", …" if len(counts) > _LISTED else "")


def _day(moment: float | None) -> str | None:
    return None if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
