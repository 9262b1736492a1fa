"""Recorded outcomes → one row a question: its text, and score, tokens and cost for each tier."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from router.predict.features import BUCKETS, DENSE_NAMES, extract
from router.types import TIERS, Features, Request

# Which recorded model stands for which tier. A file that is absent here is left out on purpose:
# llmrouter_uiuc's "largest" models lose to smaller ones by its graders' answer formats, routerarena
# holds two models of one tier (and training on it disqualifies from its own benchmark), tau2_bench
# scores whole agent runs.
LADDERS: dict[str, dict[str, str]] = {
    "zeroeval": {
        "nano": "gemma-2-9b-it",
        "mini": "gpt-4o-mini-2024-07-18",
        "mid": "gpt-4o-2024-08-06",
        "frontier": "claude-3-5-sonnet-20241022",
    },
    "mmlu_pro_a": {
        "nano": "Meta-Llama-3_1-8B-Instruct",
        "mini": "gemini-1.5-flash-002",
        "mid": "gemini-1.5-pro-002",
        "frontier": "gpt-4o-2024-05-13",
    },
    "arena_bench_v1": {
        "nano": "mistralai/Mistral-7B-Instruct-v0.1",
        "mini": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "mid": "gpt-3.5-turbo",
        "frontier": "gpt-4-1106-preview",
    },
    "routellm": {
        "mini": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "frontier": "gpt-4-1106-preview",
    },
    "routellm_mtbench": {
        "mini": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "frontier": "gpt-4-1106-preview",
    },
    "paretobandit_val": {
        "nano": "meta-llama/llama-3.1-8b-instruct",
        "mid": "mistralai/mistral-large-2512",
        "frontier": "google/gemini-2.5-pro",
    },
    "misguided_attention": {
        "nano": "gpt-4.1-nano",
        "mini": "gpt-4.1-mini",
        "mid": "gpt-4.1",
        "frontier": "claude-opus-4",
    },
}
# Answers there are one letter, forced by a few-shot prompt: no guide to what a tier would write.
_NO_TOKENS = frozenset({"routellm"})
_OPTIONS = re.compile(r"\n\s*(?:options:|choices:|\(?a[.):]\s)", re.IGNORECASE)
BELIEFS = "beliefs"  # the source of what we judged ourselves
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Rows:
    """N questions. `score`, `tokens` and `cost` have shape (N, 4), NaN where nothing is known."""

    source: NDArray[np.str_]
    task: NDArray[np.str_]
    key: NDArray[np.str_]  # normalised question: equal keys are the same question
    score: NDArray[np.float64]
    input_tokens: NDArray[np.float64]
    tokens: NDArray[np.float64]
    cost: NDArray[np.float64]
    features: tuple[Features, ...]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, chosen: NDArray[Any]) -> Rows:
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        arrays = (self.source, self.task, self.key, self.score)
        more = (self.input_tokens, self.tokens, self.cost)
        return Rows(
            *(array[index] for array in (*arrays, *more)), tuple(self.features[i] for i in index)
        )


def question_key(text: str) -> str:
    """Normalise a question to compare across sources: its stem, without answer options."""
    stem = _OPTIONS.split(text, maxsplit=1)[0]
    return hashlib.sha256(_NOT_WORD.sub(" ", stem.lower()).strip().encode()).hexdigest()[:16]


def fold_of(key: str, seed: int, folds: int) -> int:
    """Deal a question to a fold; equal questions of all sources land in the same fold."""
    return int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:8], 16) % folds


def load(folder: Path) -> Rows:
    """Read every ladder of `LADDERS` and extract features.

    The answer-format template that zeroeval puts around each question is left out, and so are the
    rows that routellm marks as contaminated.
    """
    return join(*(_load_source(folder, source) for source in LADDERS))


def join(*parts: Rows) -> Rows:
    return Rows(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("source", "task", "key", "score", "input_tokens", "tokens", "cost")
        ),
        tuple(feature for part in parts for feature in part.features),
    )


def load_beliefs(path: Path) -> Rows:
    """Read our own prompts with the regrets that we judged: labels by belief, not recorded."""
    beliefs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    n = len(beliefs)
    frontier = np.array([[b["quality"]] for b in beliefs])
    regret = np.array([[*b["regret"], 0.0] for b in beliefs])
    unknown = np.full((n, len(TIERS)), np.nan)
    requests = [
        Request("", [{"role": "user", "content": b["text"]}], _params(b), now=0.0) for b in beliefs
    ]
    return Rows(
        source=np.full(n, BELIEFS),
        task=np.array([b["task"] for b in beliefs]),
        key=np.array([question_key(b["text"]) for b in beliefs]),
        score=frontier - regret,
        input_tokens=np.full(n, np.nan),
        tokens=unknown,
        cost=unknown,
        features=tuple(extract(request) for request in requests),
    )


def _params(belief: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [{"type": "function"}]} if belief.get("tools") else {}


def _load_source(folder: Path, source: str) -> Rows:
    ladder = {model: TIERS.index(tier) for tier, model in LADDERS[source].items()}
    table = pq.read_table(folder / f"{source}.parquet", filters=[("model", "in", list(ladder))])
    questions: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        if row.get("contaminated"):
            continue
        question = questions.setdefault(
            row["query_id"],
            {
                "task": row["task"],
                "text": row.get("question") or row["prompt"],
                "input_tokens": np.nan,
                **{name: [[] for _ in TIERS] for name in ("score", "tokens", "cost")},
            },
        )
        tier = ladder[row["model"]]
        question["score"][tier].append(row["score"])
        if row["output_tokens"] is not None and source not in _NO_TOKENS:
            question["tokens"][tier].append(row["output_tokens"])
        if row["input_tokens"] is not None:
            question["input_tokens"] = row["input_tokens"]
        if row["cost_usd"] is not None:
            question["cost"][tier].append(row["cost_usd"])
    known = [q for q in questions.values() if q["score"][-1]]
    messages = [_messages(q["text"]) for q in known]
    return Rows(
        source=np.full(len(known), source),
        task=np.array([q["task"] for q in known]),
        key=np.array([question_key(m[-1]["content"]) for m in messages]),
        score=_means(known, "score"),
        input_tokens=np.array([q["input_tokens"] for q in known], dtype=np.float64),
        tokens=_means(known, "tokens"),
        cost=_means(known, "cost"),
        features=tuple(
            extract(Request(request_id="", messages=m, params={}, now=0.0)) for m in messages
        ),
    )


def _messages(text: str) -> list[dict[str, str]]:
    if text.startswith('[{"role"'):
        conversation: list[dict[str, str]] = json.loads(text)
        return conversation
    return [{"role": "user", "content": text}]


def _means(questions: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array(
        [[np.mean(values) if values else np.nan for values in q[name]] for q in questions]
    )


def dense_matrix(features: tuple[Features, ...]) -> NDArray[np.float64]:
    if not features:
        return np.zeros((0, len(DENSE_NAMES)))
    return np.stack([one.dense for one in features]).astype(np.float64)


def hashed_matrix(features: tuple[Features, ...]) -> sparse.csr_matrix:
    ends = np.cumsum([0, *(one.buckets.size for one in features)])
    return sparse.csr_matrix(
        (
            np.concatenate([one.weights for one in features]),
            np.concatenate([one.buckets for one in features]),
            ends,
        ),
        shape=(len(features), BUCKETS),
        dtype=np.float32,
    )
