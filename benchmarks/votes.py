"""What a vote of several samples gains: fitted and tried on answers that were recorded three times.

    python benchmarks/votes.py [--outcomes DIR] [--seed N]

Of misguided_attention each model answered each riddle about three times. The script fits how much a
model's samples of one riddle differ (the concentration of `router.decide.vote`), and holds votes on
the recorded samples themselves: what a vote of up to three predicts of itself, and what the answer
it hands out was really worth. Answers to riddles are free text: two count as the same where their
final answers are, else where their wording is nearly (`router.gates.agreement.likeness`). In
mmlu_pro_a and zeroeval each model was recorded once, so no vote of one model can be held there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from stamp import ROOT, commit, machine

from router.decide.vote import VoteRule, value_of
from router.gates.agreement import likeness

SAME = 0.6  # likeness of letter n-grams above which two free texts say the same
GOOD = 0.5  # a rubric's score above which an answer is good; one of just a half counts as neither


def read(outcomes: Path) -> dict[str, dict[str, list[tuple[float, str]]]]:
    """Scores and texts of each model's samples of each riddle."""
    names = ["model", "query_id", "score", "response"]
    table = parquet.read_table(outcomes / "misguided_attention.parquet", columns=names).to_pydict()
    found: dict[str, dict[str, list[tuple[float, str]]]] = defaultdict(lambda: defaultdict(list))
    for model, query, score, text in zip(*table.values(), strict=True):
        found[model][query].append((score, text or ""))
    return {m: q for m, q in found.items() if sum(map(len, q.values())) >= 100}


def concentration(samples: dict[str, Any]) -> tuple[float, int]:
    """The most likely concentration, each model's share of good answers being its prediction."""
    rows = []
    for queries in samples.values():
        known = [s > GOOD for q in queries.values() for s, _ in q if s != GOOD]
        share = float(np.clip(np.mean(known), 0.02, 0.98))
        for one in queries.values():
            good = [s > GOOD for s, _ in one if s != GOOD]
            if len(good) >= 2:
                rows.append((share, sum(good), len(good)))

    def loss(c: float) -> float:
        total = 0.0
        for share, good, count in rows:
            for number in range(count):
                side = share * c + number if number < good else (1 - share) * c + number - good
                total -= math.log(side / (c + number))
        return total

    grid = np.geomspace(0.02, 20, 200)
    return float(grid[int(np.argmin([loss(c) for c in grid]))]), len(rows)


def held(samples: dict[str, Any], rule: VoteRule, rng: np.random.Generator) -> dict[str, float]:
    """Votes on the recorded samples, each asked for only as far as the rule would have, against
    one of them, over models and riddles."""
    one, vote, paid, agreed = [], [], [], 0
    for queries in samples.values():
        for answers in queries.values():
            if len(answers) < rule.samples:
                continue
            waiting = [answers[at] for at in rng.permutation(len(answers))]
            one.append(np.mean([score for score, _ in waiting]))
            groups: list[list[tuple[float, str]]] = []
            while more := rule.wanted(0.5, sorted(map(len, groups), reverse=True)):
                for score, text in waiting[:more]:
                    count(groups, score, text)
                waiting = waiting[more:]
            leader = max(groups, key=len)
            vote.append(leader[0][0])
            paid.append(sum(map(len, groups)))
            agreed += len(leader) > 1
    gain = np.array(vote) - np.array(one)
    return {
        "votes": len(vote),
        "one_sample": round(float(np.mean(one)), 4),
        "vote_of_three": round(float(np.mean(vote)), 4),
        "gain": round(float(gain.mean()), 4),
        "standard_error": round(float(gain.std() / math.sqrt(len(vote))), 4),
        "samples_paid": round(float(np.mean(paid)), 3),
        "some_two_agree": round(agreed / len(vote), 4),
    }


def count(groups: list[list[tuple[float, str]]], score: float, text: str) -> None:
    """Put a sample to those that say the same."""
    for group in groups:
        if likeness(group[0][1], text) >= SAME:
            group.append((score, text))
            return
    groups.append([(score, text)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    samples = read(asked.outcomes)
    found, rows = concentration(samples)
    rule = VoteRule(3, False, 1.0, found)
    value = value_of(rule)
    predicted = {
        f"{share:.1f}": {
            "gain": round(float(np.interp(share, value.quality, value.good)) - share, 4),
            "samples": round(float(np.interp(share, value.quality, value.calls)), 2),
        }
        for share in (0.3, 0.5, 0.7, 0.9)
    }
    result = {
        "seed": asked.seed,
        "commit": commit(),
        "machine": machine(),
        "source": "misguided_attention: 52 riddles, about three answers of each model",
        "models": len(samples),
        "repeated_questions": rows,
        "concentration": round(found, 3),
        "predicted_gain_of_three_if_answers_could_be_compared": predicted,
        "held_on_free_text": held(samples, rule, np.random.default_rng(asked.seed)),
    }
    text = json.dumps(result, indent=1) + "\n"
    (ROOT / "benchmarks/results/votes.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
