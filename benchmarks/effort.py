"""What thinking adds to the log odds of a good answer, and how far one model's answers with and
without it are good on the same questions: fitted to models that were recorded both ways.

    python benchmarks/effort.py [--outcomes DIR] [--seed N]

Prints the figures behind `router.predict.effort` and `router.gates.gate.SAME_MODEL`. Of these
answers neither tokens nor dollars were recorded, so what an effort costs cannot be measured here.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from stamp import ROOT, commit, machine

# (without or with less thinking, with more), and what the latter's effort is about.
THINKING = {
    ("claude-3.7-sonnet", "claude-3.7-thinking-4k"): "high",
    ("claude-sonnet-4", "claude-4-sonnet-0522-thinking"): "high",
    (
        "gemini-2.5-flash-preview-05-20",
        "gemini-2.5-flash-preview-05-20:thinking",
    ): "medium",
    ("qwen3-235b-a22b-nothink", "qwen3-235b-a22b-think"): "medium",
    ("qwen3-30b-a3b-nothink", "qwen3-30b-a3b-think"): "medium",
}
LESS_AND_MORE = {("gemini-2.5-pro-low", "gemini-2.5-pro-high"): "low to high"}
DRAWS = 2000


def log_odds(share: Any) -> Any:
    return np.log(share / (1 - share))


def pair(scores: dict[str, dict[str, list[float]]], names: tuple[str, str], rng: Any) -> Any:
    """The gain in log odds with its standard error (over questions), and how far the two are good
    on the same questions: 0 as by chance, 1 as much as their shares allow."""
    asked = sorted(set(scores[names[0]]) & set(scores[names[1]]))
    less, more = (np.array([np.mean(scores[name][q]) for q in asked]) for name in names)
    again = rng.integers(0, len(asked), (DRAWS, len(asked)))
    drawn = log_odds(more[again].mean(axis=1)) - log_odds(less[again].mean(axis=1))
    one, other = less.mean(), more.mean()
    apart = one * other
    return {
        "questions": len(asked),
        "good": [round(float(one), 3), round(float(other), 3)],
        "gain_log_odds": round(float(log_odds(other) - log_odds(one)), 3),
        "standard_error": round(float(drawn.std()), 3),
        "together": round(float(((less * more).mean() - apart) / (min(one, other) - apart)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=Path("../shared/outcomes"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    table = parquet.read_table(
        asked.outcomes / "misguided_attention.parquet", columns=["model", "query_id", "score"]
    ).to_pydict()
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for model, query, score in zip(*table.values(), strict=True):
        scores[model][query].append(score)
    rng = np.random.default_rng(asked.seed)
    pairs = {
        " / ".join(names): {"effort": effort, **pair(scores, names, rng)}
        for names, effort in {**THINKING, **LESS_AND_MORE}.items()
    }
    gains = np.array([pairs[" / ".join(names)]["gain_log_odds"] for names in THINKING])
    found = {
        "seed": asked.seed,
        "commit": commit(),
        "machine": machine(),
        "source": "misguided_attention: 52 riddles, about three answers each; scores are rubrics'",
        "pairs": pairs,
        "gain_mean": round(float(gains.mean()), 3),
        "gain_std_over_models": round(float(gains.std(ddof=1)), 3),
        "together_mean": round(float(np.mean([each["together"] for each in pairs.values()])), 3),
    }
    text = json.dumps(found, indent=2) + "\n"
    (ROOT / "benchmarks" / "results" / "effort.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
