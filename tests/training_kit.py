"""Recorded outcomes that are made up: words of a text decide which tiers answer it well."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from router.predict.examples import Examples
from router.predict.features import FeatureBatch, extract_many
from router.predict.model_file import ModelFile
from router.predict.training import fit
from router.types import Request

# Words by how able a tier must be that answers them.
LEVELS = (
    ("greet", "thank", "repeat", "spell", "list"),
    ("translate", "summarise", "rewrite", "sort", "explain"),
    ("derive", "refactor", "diagnose", "schedule", "estimate"),
    ("prove", "optimise", "verify", "decompile", "integrate"),
)
SUBJECTS = ("letters", "theorems", "tables", "fences", "sheep", "planets", "rivers", "graphs")
LENGTHS = {"briefly": 20.0, "thoroughly": 400.0}
# P(good) of a tier by its rank less the level, from -3 to 3.
GOOD = np.array([0.1, 0.1, 0.15, 0.9, 0.92, 0.94, 0.96])
SPREAD = 0.4  # standard deviation of the logarithm of an answer's length


@dataclass(frozen=True)
class Planted:
    """Examples and what their labels were drawn from: `quality` (N, 4)."""

    examples: Examples
    quality: Any
    texts: list[str]


def batch_of(*texts: str) -> FeatureBatch:
    turns = [[{"role": "user", "content": text}] for text in texts]
    return extract_many([Request("r", messages, {}, now=0.0) for messages in turns])


@cache
def planted(rows: int = 300, seed: int = 0, good: tuple[float, ...] = tuple(GOOD)) -> Planted:
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 4, rows)
    pace = rng.choice(list(LENGTHS), rows)
    texts = [
        f"please {rng.choice(LEVELS[hard])} the {rng.choice(SUBJECTS)} and "
        f"{rng.choice(LEVELS[hard])} some {rng.choice(SUBJECTS)} {how}"
        for hard, how in zip(level, pace, strict=True)
    ]
    quality = np.array(good)[np.arange(4) - level[:, None] + 3]
    mean = np.log([LENGTHS[how] for how in pace])[:, None] + 0.3 * np.arange(4)
    examples = Examples(
        batch_of(*texts),
        (rng.random((rows, 4)) < quality).astype(float),
        np.exp(mean + SPREAD * rng.normal(size=(rows, 4))),
        np.full(rows, 20.0),
        np.array([f"question {seed} {row}" for row in range(rows)]),
        np.full(rows, "made up"),
        np.ones(rows),
    )
    return Planted(examples, quality, texts)


def with_score(examples: Examples, score: Any, **changes: Any) -> Examples:
    return replace(examples, score=np.asarray(score, dtype=float), **changes)


@cache
def trained() -> ModelFile:
    """A model of all four tiers, trained once for all tests."""
    return fit(planted().examples)
