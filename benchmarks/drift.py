"""How often drift alarms are false, and how soon a change is found, on recorded outcomes.

    python benchmarks/drift.py [--outcomes DIR] [--seed N] [--streams N]

Writes benchmarks/results/drift.json. A simulation over recorded outcomes: each stream is a series
of requests drawn from one file, routed by the shipped predictor at one cost weight; answers, their
tokens and their faults of form are the recorded ones of the tier that was taken. What is watched
are the quantities of a policy with four tiers, at the default alpha and reference.

`false_alarms`, with nothing changed: `shuffled`, the file in random orders (exchangeable, as the
bound assumes); `long`, requests drawn with replacement, many times the file's length. Beside them
the usual way: a Kolmogorov-Smirnov test of each 200 values against the reference, at 1% a look,
shared over the quantities. `by_half_its_length` says how often either had been wrong half way.

`changes` come after 2,000 requests, and have 4,000 to be found in: another mix of tasks; another
recorded model behind the busiest tier below the baseline; and injected into that tier's recorded
answers: more tokens, refusals. `requests` and `answers` are quartiles of the delay, the latter in
answers of the tier that changed; `first` says which quantity raised the first alarm; `usual`, how
soon the usual way found it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from predictor_data import LADDERS
from stamp import ROOT, commit, machine, rounded

from router.drift.change import Streams
from router.drift.quantities import BINS, score_bin, tokens_bin
from router.gates.answer import Answer
from router.gates.structural import faults
from router.policy.drift import DriftOptions
from router.predict import extract_many, load_predictor
from router.types import TIERS, Request

OPTIONS = DriftOptions()
ALPHA, REFERENCE = float(OPTIONS.alpha), OPTIONS.reference
COST_WEIGHT = 20.0
WARM, AFTER, LONG = 2000, 4000, 20_000
WINDOW, LOOK = 200, 0.01  # of the usual way
NAMES = (*(f"{k}/{t}" for k in ("scores", "tokens", "refusals", "faults") for t in TIERS), "novel")
Q = len(NAMES)
# Who stands in for the ladder's model of a tier.
SWAPS = {
    "zeroeval": {"mini": "claude-3-5-haiku-20241022"},
    "mmlu_pro_a": {"mid": "Meta-Llama-3_1-70B-Instruct"},
}
TASKS = {"zeroeval": "math-l5", "mmlu_pro_a": "mmlu_pro_law"}
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """N requests of a file: `task`, and the tier that is taken (N,); `values` (N, Q) in bins, -1
    for none; `predicted` and `tokens` (N,) of the answer."""

    task: NDArray[np.str_]
    taken: Ints
    values: NDArray[np.int8]
    predicted: Floats
    tokens: Floats
    answers: list[str]


def load(folder: Path, source: str, swapped: str | None = None) -> Recorded:
    """Read a file and route it; `swapped`: the tier behind which another model answers."""
    ladder = dict(LADDERS[source])
    asked = set(ladder.values()) | set(SWAPS[source].values())
    columns = ["query_id", "task", "prompt", "model", "output_tokens", "cost_usd", "response"]
    table = pq.read_table(
        folder / f"{source}.parquet", columns=columns, filters=[("model", "in", list(asked))]
    )
    rows: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        if row["output_tokens"] is not None and row["cost_usd"] is not None:
            rows.setdefault(row["query_id"], {})[row["model"]] = row
    whole = [answers for answers in rows.values() if asked <= answers.keys()]
    texts = [answers[ladder["frontier"]] for answers in whole]
    requests = [Request("", [{"role": "user", "content": t["prompt"]}], {}, 0.0) for t in texts]
    prediction = load_predictor().batch(extract_many(requests))
    cost = np.array([[answers[ladder[t]]["cost_usd"] for t in TIERS] for answers in whole])
    utility = prediction.quality - COST_WEIGHT * cost.mean(axis=0)
    taken = utility.argmax(axis=1)
    values = np.full((len(whole), Q), -1, dtype=np.int8)
    tokens = np.empty(len(whole))
    for at, (answers, tier) in enumerate(zip(whole, taken.tolist(), strict=True)):
        name = TIERS[tier]
        answer = answers[SWAPS[source][name] if name == swapped else ladder[name]]
        tokens[at] = answer["output_tokens"]
        found = faults({}, Answer(answer["response"] or "", "stop"))
        said = {
            f"tokens/{name}": tokens_bin(tokens[at], prediction.output_tokens[at, tier]),
            f"refusals/{name}": int("refusal" in found),
            f"faults/{name}": int(any(fault != "refusal" for fault in found)),
            "novel": int(prediction.novel[at]),
            **{
                f"scores/{t}": score_bin(q)
                for t, q in zip(TIERS, prediction.quality[at], strict=True)
            },
        }
        for quantity, value in said.items():
            values[at, NAMES.index(quantity)] = value
    predicted = prediction.output_tokens[np.arange(len(whole)), taken]
    task = np.array([text["task"] for text in texts])
    answered = [answers[ladder["mini"]]["response"] or "" for answers in whole[:1000]]
    return Recorded(task, taken, values, predicted, tokens, answered)


class Windows:
    """The usual way: each window of values against the reference, at a fixed level."""

    def __init__(self, rows: int):
        self.reference, self.window = np.zeros((rows, BINS)), np.zeros((rows, BINS))
        self.alarm = np.zeros(rows, dtype=bool)
        level, n, m = LOOK / Q, REFERENCE, WINDOW
        self.most = np.sqrt(-np.log(level / 2) / 2 * (n + m) / (n * m))

    def see(self, rows: Ints, bins: Ints) -> None:
        early = self.reference[rows].sum(axis=1) < REFERENCE
        self.reference[rows[early], bins[early]] += 1
        rows, bins = rows[~early], bins[~early]
        self.window[rows, bins] += 1
        full = rows[self.window[rows].sum(axis=1) >= WINDOW]
        if len(full):
            apart = np.cumsum(self.reference[full] / REFERENCE - self.window[full] / WINDOW, axis=1)
            self.alarm[full] |= np.abs(apart).max(axis=1) > self.most
            self.window[full] = 0


def play(draw: Any, streams: int, length: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Run streams; `draw(t)` gives values (streams, Q) at t. Returns the time of each stream's
    first alarm (-1 for none) and its quantity, and the time of the usual way's first alarm."""
    tests, needed = Streams.new(streams * Q, BINS), Q / ALPHA
    first, which, theirs = (np.full(streams, -1) for _ in range(3))
    usual = Windows(streams * Q)
    for t in range(length):
        values = draw(t)
        row, column = np.nonzero(values >= 0)
        at, bins = row * Q + column, values[row, column].astype(np.int64)
        tests.see(at, bins, rng.random(len(at)), REFERENCE)
        over = tests.peak.reshape(streams, Q) >= needed
        new = (first < 0) & over.any(axis=1)
        first[new], which[new] = t, over[new].argmax(axis=1)
        usual.see(at, bins)
        theirs[(theirs < 0) & usual.alarm.reshape(streams, Q).any(axis=1)] = t
    return first, which, theirs


def no_change(recorded: Recorded, streams: int, rng: np.random.Generator) -> dict[str, Any]:
    """How often there is a false alarm."""
    n = len(recorded.task)
    orders = np.array([rng.permutation(n) for _ in range(streams)])
    found = {}
    for name, many, length, draw in (
        ("shuffled", streams, n, lambda t: recorded.values[orders[:, t]]),
        ("long", streams // 5, LONG, lambda t: recorded.values[rng.integers(n, size=streams // 5)]),
    ):
        first, which, theirs = play(draw, many, length, rng)
        half, whole = (wrong_by(theirs, end) for end in (length // 2, length))
        found[name] = {
            "streams": many,
            "requests": length,
            "false_alarms": wrong_by(first, length),
            "bound": ALPHA,
            "by_half_its_length": wrong_by(first, length // 2),
            "by_quantity": dict(Counter(NAMES[w] for w in which[first >= 0])),
            "usual": {"by_half_its_length": half, "false_alarms": whole},
        }
    return found


def wrong_by(first: Ints, end: int) -> float:
    return float(((first >= 0) & (first < end)).mean())


def change(
    before: Recorded, after: Any, tier: int | None, streams: int, rng: np.random.Generator
) -> dict[str, Any]:
    """How soon it is found that requests come from `after(size)` instead of from `before`."""
    n = len(before.task)
    own = np.zeros((WARM + AFTER, streams), dtype=bool)

    def draw(t: int) -> Any:
        values = before.values[rng.integers(n, size=streams)] if t < WARM else after(streams)
        own[t] = True if tier is None else values[:, NAMES.index(f"tokens/{TIERS[tier]}")] >= 0
        return values

    first, which, theirs = play(draw, streams, WARM + AFTER, rng)
    late = first >= WARM
    answers = [own[WARM : t + 1, s].sum() for s, t in enumerate(first) if t >= WARM]
    return {
        **delays(first),
        "usual": delays(theirs),
        "answers": None if tier is None else quartiles(answers),
        "first": dict(Counter(NAMES[w] for w in which[late]).most_common()),
    }


def delays(first: Ints) -> dict[str, Any]:
    """How many streams found the change, of those without a false alarm before it, and how soon."""
    late = first >= WARM
    return {
        "found": float(late.sum() / max(1, ((first < 0) | late).sum())),
        "false_before": float(((first >= 0) & ~late).mean()),
        "requests": quartiles(first[late] - WARM + 1),
    }


def quartiles(values: Any) -> list[float] | None:
    return [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])] if len(values) else None


def study(folder: Path, source: str, streams: int, seed: int) -> dict[str, Any]:
    """Everything about one file."""
    rng = np.random.default_rng(seed)
    recorded = load(folder, source)
    shares = np.bincount(recorded.taken, minlength=4) / len(recorded.taken)
    busy = int(shares[:-1].argmax())  # below the baseline
    tier = TIERS[busy]
    print(source, len(recorded.task), "requests; tiers", shares.round(3).tolist(), flush=True)
    started = time.perf_counter()
    found: dict[str, Any] = {
        "requests": len(recorded.task),
        "tiers": dict(zip(TIERS, shares.tolist(), strict=True)),
        "busiest": tier,
        "microseconds": costs(recorded),
        "false_alarms": no_change(recorded, streams, rng),
    }
    print(json.dumps(rounded(found["false_alarms"])), f"{time.perf_counter() - started:.0f} s")
    n = len(recorded.task)
    of_task = np.flatnonzero(recorded.task == TASKS[source])
    mine = recorded.taken == busy
    column = {kind: NAMES.index(f"{kind}/{tier}") for kind in ("tokens", "refusals")}
    swapped = load(folder, source, tier)

    def mixed(share: float) -> Any:
        def after(size: int) -> Any:
            other = rng.random(size) < share
            drawn = np.where(other, rng.choice(of_task, size), rng.integers(n, size=size))
            return recorded.values[drawn]

        return after

    def longer(factor: float) -> Any:
        values = recorded.values.copy()
        for at in np.flatnonzero(mine):
            more = tokens_bin(recorded.tokens[at] * factor, recorded.predicted[at])
            values[at, column["tokens"]] = more
        return lambda size: values[rng.integers(n, size=size)]

    def refusing(share: float) -> Any:
        def after(size: int) -> Any:
            values = recorded.values[rng.integers(n, size=size)]
            hit = (rng.random(size) < share) & (values[:, column["refusals"]] >= 0)
            values[hit, column["refusals"]] = 1
            return values

        return after

    changes: list[tuple[str, Any, int | None]] = [
        (f"{TASKS[source]} +25%", mixed(0.25), None),
        (f"{TASKS[source]} +50%", mixed(0.5), None),
        (f"{tier}: {SWAPS[source][tier]}", lambda s: swapped.values[rng.integers(n, size=s)], busy),
        *((f"{tier}: tokens x{f:g}", longer(f), busy) for f in (1.25, 1.5, 2.0)),
        *((f"{tier}: {s:.0%} refusals", refusing(s), busy) for s in (0.02, 0.05, 0.2)),
    ]
    found["changes"] = {}
    for name, after, whose in changes:
        found["changes"][name] = change(recorded, after, whose, max(20, streams // 10), rng)
        print(name, json.dumps(rounded(found["changes"][name])), flush=True)
    return found


def costs(recorded: Recorded) -> dict[str, float]:
    """Microseconds: of testing all values of a request, which is done in a thread of its own; and
    of looking at an answer's form, which is done while it is settled."""
    tests, rng = Streams.new(Q, BINS), np.random.default_rng(0)
    spent = []
    for values in recorded.values[:2000]:
        at = np.flatnonzero(values >= 0)
        bins, ties = values[at].astype(np.int64), rng.random(len(at))
        started = time.perf_counter()
        tests.see(at, bins, ties, REFERENCE)
        spent.append(time.perf_counter() - started)
    looks = []
    for text in recorded.answers:
        answer = Answer(text, "stop")
        started = time.perf_counter()
        faults({}, answer)
        looks.append(time.perf_counter() - started)
    return {
        "tests_of_a_request": 1e6 * float(np.median(spent[REFERENCE:])),
        "form_of_an_answer": 1e6 * float(np.median(looks)),
        "form_of_an_answer_p99": 1e6 * float(np.quantile(looks, 0.99)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/drift.json")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "seed": options.seed,
        "alpha": ALPHA,
        "reference": REFERENCE,
        "quantities": Q,
        "change_after": WARM,
    }
    for source in TASKS:
        found = study(options.outcomes, source, options.streams, options.seed)
        results[source] = rounded(found)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
