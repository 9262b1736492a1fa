"""Recorded outcomes that the tests make themselves, and a learner small enough to wait for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from router.replay.recorded.outcomes import Outcomes, read_outcomes
from router.types import TIERS, Prediction

MODELS = {"nano": "tiny-1", "mini": "small-2", "mid": "middle-3", "frontier": "large-4"}
PRICES = {"nano": (0.1, 0.4), "mini": (0.4, 1.6), "mid": (2.0, 8.0), "frontier": (10.0, 40.0)}
_SKILL = {"nano": 0.2, "mini": 0.35, "mid": 0.5, "frontier": 0.95}
_SUBJECTS = ("cats", "rain", "bread", "trains", "gardens", "songs", "maps", "clocks", "boats")
_HARD = (
    "Prove the theorem about {s} {n}, step by step, and derive every bound.",
    "Optimise the algorithm for {s} in O({n} log n) and prove that it is correct.",
)
_EASY = ("What is nice about {s}? {n} words.", "Hello! Tell me about {s} number {n}, please.")


def make_rows(
    n: int = 200, tiers: Sequence[str] = tuple(MODELS), seed: int = 0, **leave: Any
) -> list[dict[str, Any]]:
    """n queries, half of them hard: P(good) falls with difficulty, less for a dearer tier."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        hard = bool(rng.random() < 0.5)
        templates = _HARD if hard else _EASY
        prompt = templates[i % 2].format(s=_SUBJECTS[i % len(_SUBJECTS)], n=i)
        for tier in tiers:
            chance = 0.95 if not hard else _SKILL[tier] - 0.1
            tokens_in, tokens_out = 10 + len(prompt) // 4, int(rng.integers(50, 60)) + 200 * hard
            price_in, price_out = PRICES[tier]
            rows.append(
                {
                    "query_id": f"q{i}",
                    "task": "proofs" if hard else "talk",
                    "prompt": prompt,
                    "model": MODELS[tier],
                    "score": float(rng.random() < chance),
                    "input_tokens": tokens_in,
                    "output_tokens": tokens_out,
                    "reasoning_tokens": None,
                    "cached_tokens": None,
                    "cost_usd": (tokens_in * price_in + tokens_out * price_out) / 1e6,
                    "response": f"answer {i} of {tier}",
                }
            )
    return [{k: v for k, v in row.items() if leave.get(k, True)} for row in rows]


def ladder_of(tiers: Sequence[str] = tuple(MODELS)) -> dict[Any, str]:
    return {tier: MODELS[tier] for tier in tiers}


def ladder_text(tiers: Sequence[str] = tuple(MODELS)) -> str:
    return ",".join(f"{tier}={MODELS[tier]}" for tier in tiers)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def outcomes_of(path: Path, rows: Sequence[dict[str, Any]], **more: Any) -> Outcomes:
    models = {row["model"] for row in rows}
    tiers = [tier for tier, model in MODELS.items() if model in models]
    return read_outcomes(write_jsonl(path / "outcomes.jsonl", rows), ladder_of(tiers), **more)


def dense(features: Any) -> np.ndarray[Any, Any]:
    whole = getattr(features, "dense", None)
    return np.stack([one.dense for one in features]) if whole is None else np.asarray(whole)


def prediction(quality: Any, tokens: Any) -> Prediction:
    """A prediction with all the fields of this version."""
    known = {"quality": np.asarray(quality), "novel": np.zeros(len(quality), dtype=bool)}
    return Prediction(**{f.name: known.get(f.name, np.asarray(tokens)) for f in fields(Prediction)})


class Linear:
    """Ridge on the dense features, for scores and for the logarithm of tokens."""

    def __init__(self, examples: Any, seed: int = 0):
        x = dense(examples.features).astype(np.float64)
        self.mean, self.scale = x.mean(axis=0), np.maximum(x.std(axis=0), 0.05)
        x = np.clip((x - self.mean) / self.scale, -3, 3)
        y = np.column_stack([examples.score, np.log(np.maximum(examples.output_tokens, 1))])
        self.centre = np.array(
            [c[np.isfinite(c)].mean() if np.isfinite(c).any() else np.nan for c in y.T]
        )
        gram = x.T @ x + 10 * np.eye(x.shape[1])
        self.slope = np.linalg.solve(gram, x.T @ np.nan_to_num(y - self.centre))

    def batch(self, features: Any) -> Prediction:
        x = np.clip((dense(features) - self.mean) / self.scale, -3, 3)
        found = self.centre + x @ self.slope
        return prediction(
            np.clip(found[:, : len(TIERS)], 0.01, 0.99), np.exp(found[:, len(TIERS) :])
        )
