"""Outcomes of made-up subjects, as files, examples and arguments of `router train`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.cli import main
from router.predict import extract_many
from router.predict.examples import Examples
from router.types import TIERS, Request

# Made-up subjects: which of them are hard stands in no other data.
EASY = ("florin", "wexel", "grommit", "talvane", "osprin")
HARD = ("quendle", "zorbit", "maskel", "yttrane", "plimsen")
CHANCE = {
    True: {"nano": 0.05, "mini": 0.3, "mid": 0.6, "frontier": 0.95},
    False: {"nano": 0.9, "mini": 0.9, "mid": 0.9, "frontier": 0.9},
}
MODELS = ",".join(f"{tier}=m-{tier}" for tier in TIERS)
VERBS = ("Describe", "Compute", "Explain", "List", "Estimate", "Compare")


def prompt_of(number: int) -> str:
    subject = (EASY + HARD)[number % 10]
    return f"{VERBS[number % 6]} the {subject} of batch {number} in a few words."


def rows(
    count: int, tiers: Sequence[str] = TIERS, *, seed: int = 0, shuffled: bool = False
) -> list[dict[str, Any]]:
    """`count` questions; a dearer tier gains only on the hard subjects."""
    rng = np.random.default_rng(seed)
    told = rng.permutation(count) if shuffled else np.arange(count)
    return [
        {
            "query_id": f"q{number}",
            "prompt": prompt_of(number),
            "model": f"m-{tier}",
            "score": float(rng.random() < CHANCE[int(told[number]) % 10 >= 5][tier]),
            "output_tokens": int(rng.integers(40, 400)),
        }
        for number in range(count)
        for tier in tiers
    ]


def write(path: Path, found: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def examples_of(count: int, **more: Any) -> Examples:
    found = rows(count, **more)
    tier_of = {f"m-{tier}": at for at, tier in enumerate(TIERS)}
    score = np.full((count, 4), np.nan)
    for row in found:
        score[int(row["query_id"][1:]), tier_of[row["model"]]] = row["score"]
    asked = [[{"role": "user", "content": prompt_of(number)}] for number in range(count)]
    return Examples(
        extract_many([Request("", messages, {}, now=0.0) for messages in asked]),
        score,
        np.full((count, 4), np.nan),
        np.full(count, 12.0),
        np.array([f"g{number}" for number in range(count)]),
        np.full(count, ""),
        np.ones(count),
    )


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err
