"""Fit the curves of the demo's simulated provider, and write `router/demo/curves.json`.

    python benchmarks/fit_demo_curves.py [--outcomes ../shared/outcomes] [--out …] [--seed 0]

The difficulty of a recorded query is the share of the models *outside* the ladder that failed it,
so that no tier's own answers enter its x axis. Per tier, over both sources with equal weight:

- P(good answer | difficulty): a logistic curve, scored on held-out folds of queries;
- output tokens: log-normal, its log-mean linear in difficulty, its sigma the residuals' spread;
  answers that are a multiple choice's letter alone are left out, and the level is the mean of
  the sources' levels.

Latency is in none of the recorded sources: the speeds below are assumptions, and labelled so.
Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import KFold
from stamp import ROOT, commit

TIERS = ("nano", "mini", "mid", "frontier")
LADDERS = {
    "zeroeval": (
        "gemma-2-9b-it",
        "gpt-4o-mini-2024-07-18",
        "gpt-4o-2024-08-06",
        "claude-3-5-sonnet-20241022",
    ),
    "mmlu_pro_a": (
        "Meta-Llama-3_1-8B-Instruct",
        "gemini-1.5-flash-002",
        "gemini-1.5-pro-002",
        "gpt-4o-2024-05-13",
    ),
}
MIN_OTHERS = 8  # a share over fewer models is too coarse a difficulty
BARE_ANSWER = 20  # tokens; a lone letter of a multiple choice says nothing about chat
FOLDS = 5
# No source records time. Orders of magnitude of hosted models of each size.
SPEEDS = {
    "nano": {"first_token_s": 0.3, "tokens_per_s": 180},
    "mini": {"first_token_s": 0.4, "tokens_per_s": 130},
    "mid": {"first_token_s": 0.6, "tokens_per_s": 80},
    "frontier": {"first_token_s": 0.9, "tokens_per_s": 55},
}
# No ladder model reports reasoning tokens: hidden tokens per visible one, at difficulty 1.
REASONING = {"nano": 0.0, "mini": 0.0, "mid": 0.25, "frontier": 0.5}


def observations(path: Path, ladder: tuple[str, ...]) -> Iterator[tuple[str, float, float, int]]:
    """Yield (tier, difficulty, score, output tokens) for every ladder answer in one source."""
    columns = ["query_id", "model", "score", "output_tokens"]
    queries: dict[str, dict[str, tuple[float, int | None]]] = {}
    for row in pq.read_table(path, columns=columns).to_pylist():
        if row["score"] is not None:
            answers = queries.setdefault(row["query_id"], {})
            answers[row["model"]] = (row["score"], row["output_tokens"])
    for answers in queries.values():
        others = [score for model, (score, _) in answers.items() if model not in ladder]
        if len(others) < MIN_OTHERS or any(model not in answers for model in ladder):
            continue
        difficulty = 1 - float(np.mean(others))
        for tier, model in zip(TIERS, ladder, strict=True):
            score, tokens = answers[model]
            yield tier, difficulty, score, tokens or 0


def fit_tier(
    difficulty: np.ndarray, score: np.ndarray, tokens: np.ndarray, source: np.ndarray, seed: int
) -> dict[str, Any]:
    """Fit one tier's curves: arrays of shape (N,), one entry per recorded answer."""
    x, good = difficulty.reshape(-1, 1), (score >= 0.5).astype(int)
    weight = np.array([1 / np.sum(source == name) for name in source])
    weight *= len(weight) / weight.sum()

    def success_curve(rows: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=1e6).fit(x[rows], good[rows], sample_weight=weight[rows])

    everything = np.arange(len(x))
    held_out, constant = np.empty(len(x)), np.empty(len(x))
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        held_out[test] = success_curve(train).predict_proba(x[test])[:, 1]
        constant[test] = np.average(good[train], weights=weight[train])
    bins = np.minimum((held_out * 10).astype(int), 9)
    gaps = [
        weight[rows].sum() * abs(np.average(held_out[rows] - good[rows], weights=weight[rows]))
        for rows in (np.flatnonzero(bins == bin_) for bin_ in range(10))
        if len(rows)
    ]
    curve = success_curve(everything)

    # A level of its own for each source, one slope in common: sources ask for other lengths.
    spoke = tokens > BARE_ANSWER
    log_tokens, names = np.log(tokens[spoke]), sorted(LADDERS)
    levels = np.stack([source[spoke] == name for name in names], axis=1).astype(float)
    design = np.hstack([levels, x[spoke]])
    line = LinearRegression(fit_intercept=False).fit(
        design, log_tokens, sample_weight=weight[spoke]
    )
    residual = log_tokens - line.predict(design)
    return {
        "success": {
            "intercept": round(float(curve.intercept_[0]), 4),
            "slope": round(float(curve.coef_[0, 0]), 4),
        },
        "output_tokens": {
            "log_mean": round(float(line.coef_[:-1].mean()), 4),
            "log_slope": round(float(line.coef_[-1]), 4),
            "log_sigma": round(float(np.sqrt(np.average(residual**2, weights=weight[spoke]))), 4),
        },
        "fit": {
            "answers": len(x),
            "good_share": round(float(np.average(good, weights=weight)), 4),
            "brier": round(brier_score_loss(good, held_out, sample_weight=weight), 4),
            "brier_constant": round(brier_score_loss(good, constant, sample_weight=weight), 4),
            "auc": round(float(roc_auc_score(good, held_out, sample_weight=weight)), 4),
            "calibration_error": round(float(sum(gaps) / weight.sum()), 4),
            "tokens_r2": round(
                float(line.score(design, log_tokens, sample_weight=weight[spoke])), 4
            ),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--out", type=Path, default=ROOT / "router/demo/curves.json")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rows = [
        (*observation, source)
        for source, ladder in LADDERS.items()
        for observation in observations(options.outcomes / f"{source}.parquet", ladder)
    ]
    tiers = {}
    for tier in TIERS:
        _, difficulty, score, tokens, source = zip(
            *(row for row in rows if row[0] == tier), strict=True
        )
        tiers[tier] = fit_tier(
            np.array(difficulty), np.array(score), np.array(tokens), np.array(source), options.seed
        )
        tiers[tier] |= {"speed": SPEEDS[tier], "reasoning_per_token": REASONING[tier]}
        print(tier, json.dumps(tiers[tier]))
    document = {
        "about": "What the demo's simulated provider draws from; see benchmarks/fit_demo_curves.py",
        "fitted": ["success", "output_tokens"],
        "assumed": ["speed", "reasoning_per_token"],
        "difficulty": "share of the models outside the ladder that failed the query",
        "ladders": LADDERS,
        "queries": {
            name: sum(row[0] == "nano" and row[4] == name for row in rows) for name in LADDERS
        },
        "folds": FOLDS,
        "seed": options.seed,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "tiers": tiers,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
