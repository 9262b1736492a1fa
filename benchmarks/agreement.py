"""How often two models' answers say the same, where both are good, one is, or neither is.

    python benchmarks/agreement.py [--outcomes DIR]

Writes benchmarks/results/agreement.json, from which `router.gates.consensus` has its constants: by
source and kind of answer (a choice's letter, a number, words), over each two models of its ladder.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
from predictor_data import LADDERS, outcomes_of
from stamp import ROOT, commit, machine

from router.gates.final_answer import final_answer
from router.replay.evaluation.calibration import GOOD
from router.replay.recorded.outcomes import Outcomes
from router.replay.recorded.rows import read_responses

RESULTS = ROOT / "benchmarks/results/agreement.json"
SOURCES = ("mmlu_pro_a", "zeroeval")
STATES = ("neither_good", "one_good", "both_good")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    options = parser.parse_args()
    found = {
        source: rates(outcomes_of(options.outcomes, source, "", LADDERS[source]))
        for source in SOURCES
    }
    print(json.dumps(found, indent=1))
    record = {"commit": commit(), "machine": machine(), "sources": found}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def rates(outcomes: Outcomes) -> dict[str, dict[str, dict[str, float]]]:
    """By kind of answer and by how many of two are good: pairs of answers, and the share that says
    the same."""
    said = read_responses(Path(outcomes.path), outcomes.ladder)
    finals = {key: final_answer(text or "") for key, text in said.items()}
    counted: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((3, 2), dtype=int))
    ladder = list(zip(outcomes.ladder.values(), outcomes.columns, strict=True))
    for row, query in enumerate(outcomes.query_id.tolist()):
        for (one, mine), (other, its) in combinations(ladder, 2):
            answers = finals.get((query, one)), finals.get((query, other))
            scores = outcomes.score[row, [mine, its]]
            if None in answers or not np.isfinite(scores).all():
                continue
            kinds = {kind_of(answer) for answer in answers if answer is not None}
            state = int((scores >= GOOD).sum())
            counted[kinds.pop() if len(kinds) == 1 else "mixed"][state] += (
                1,
                answers[0] == answers[1],
            )
    return {
        kind: {
            name: {"pairs": int(n), "same": round(int(same) / n, 4) if n else None}
            for name, (n, same) in zip(STATES, table.tolist(), strict=True)
        }
        for kind, table in sorted(counted.items())
    }


def kind_of(answer: str) -> str:
    """Of what kind a final answer is."""
    if len(answer) == 1 and answer.isalpha():
        return "letter"
    try:
        float(answer)
    except ValueError:
        return "words"
    return "number"


if __name__ == "__main__":
    main()
