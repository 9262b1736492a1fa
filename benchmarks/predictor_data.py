"""Recorded outcomes → one row a question: its text, and score, tokens and cost for each tier."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from router.predict.examples import Examples, join_examples, text_key
from router.predict.features import FeatureBatch, extract_many
from router.replay.recorded.outcomes import Outcomes, read_outcomes
from router.types import TIERS, Request

_OPTIONS = re.compile(r"\n\s*(?:options:|choices:|\(?a[.):]\s)", re.IGNORECASE)


def question_key(text: str) -> str:
    """Name a recorded question by its words alone, without answer options: the same in every
    spelling, and where several benchmarks ask it with other options."""
    return text_key(_OPTIONS.split(text, maxsplit=1)[0])


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
BELIEFS = "beliefs"  # the source of what we judged ourselves


@dataclass(frozen=True)
class Rows:
    """N questions: training examples, with source and dollars; `cost` (N, 4), NaN where unknown."""

    source: NDArray[np.str_]
    examples: Examples
    cost: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def key(self) -> NDArray[np.str_]:
        return self.examples.group

    def take(self, chosen: NDArray[Any]) -> Rows:
        return Rows(self.source[chosen], self.examples.take(chosen), self.cost[chosen])


def load(folder: Path) -> Rows:
    """Read every ladder of `LADDERS` and extract features.

    The answer-format template that zeroeval puts around each question is left out, and so are the
    rows that routellm marks as contaminated.
    """
    return join(*(_load_source(folder, source) for source in LADDERS))


def join(*parts: Rows) -> Rows:
    return Rows(
        np.concatenate([part.source for part in parts]),
        join_examples([part.examples for part in parts]),
        np.concatenate([part.cost for part in parts]),
    )


def load_beliefs(path: Path) -> Rows:
    """Read our own prompts with the regrets that we judged: labels by belief, not recorded.

    Each stands twice, the second time hastily typed, and most a third time, in other words: what
    is asked stays the same, and `group` says which belong together.
    """
    judged = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    beliefs = judged + [{**b, "text": _said_otherwise(b["text"], rng)} for b in judged]
    reworded = [b for b in judged if "again" in b]
    beliefs += [{**b, "text": b["again"]} for b in reworded]
    n = len(beliefs)
    frontier = np.array([[b["quality"]] for b in beliefs])
    regret = np.array([[*b["regret"], 0.0] for b in beliefs])
    unknown = np.full((n, len(TIERS)), np.nan)
    requests = [
        Request("", [{"role": "user", "content": b["text"]}], _params(b), now=0.0) for b in beliefs
    ]
    examples = Examples(
        features=extract_many(requests),
        score=frontier - regret,
        output_tokens=unknown,
        input_tokens=np.full(n, np.nan),
        group=np.array([question_key(b["text"]) for b in judged * 2 + reworded]),
        task=np.array([b["task"] for b in beliefs]),
        weight=np.full(n, 0.5),
    )
    return Rows(np.full(n, BELIEFS), examples, unknown)


@dataclass(frozen=True)
class Wordings:
    """N texts that nobody judged; those of one `group` (N,) ask the same in other words."""

    features: FeatureBatch
    group: NDArray[np.int64]


def load_wordings(path: Path) -> Wordings:
    """Read our own frames ("Show that {}.") and topics: each topic in every frame is one group."""
    texts: list[str] = []
    group: list[int] = []
    topics = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        family = json.loads(line)
        for topic in family["topics"]:
            for frame in family["frames"]:
                text = frame.replace("{}", topic)
                texts.append(text[:1].upper() + text[1:])
                group.append(topics)
            topics += 1
    requests = [Request("", [{"role": "user", "content": text}], {}, now=0.0) for text in texts]
    return Wordings(extract_many(requests), np.array(group))


def _said_otherwise(text: str, rng: random.Random) -> str:
    """The text in lower case without its last mark, with a letter dropped in one word in ten."""
    words = text.lower().rstrip(".!?。？！").split(" ")
    for i, word in enumerate(words):
        if len(word) > 4 and word.isalpha() and rng.random() < 0.1:
            at = rng.randrange(1, len(word))
            words[i] = word[:at] + word[at + 1 :]
    return " ".join(words)


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
    examples = Examples(
        features=extract_many([Request("", m, {}, now=0.0) for m in messages]),
        score=_means(known, "score"),
        output_tokens=_means(known, "tokens"),
        input_tokens=np.array([q["input_tokens"] for q in known], dtype=np.float64),
        group=np.array([question_key(m[-1]["content"]) for m in messages]),
        task=np.array([q["task"] for q in known]),
        weight=np.ones(len(known)),
    )
    return Rows(np.full(len(known), source), examples, _means(known, "cost"))


def _messages(text: str) -> list[dict[str, str]]:
    if text.startswith('[{"role"'):
        conversation: list[dict[str, str]] = json.loads(text)
        return conversation
    return [{"role": "user", "content": text}]


def _means(questions: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array(
        [[np.mean(values) if values else np.nan for values in q[name]] for q in questions]
    )


def outcomes_of(folder: Path, source: str, task: str, ladder: dict[str, str]) -> Outcomes:
    """Read a source's outcomes for `evaluate`; of the tasks that begin with `task`, if given."""
    path = folder / f"{source}.parquet"
    if not task:
        return read_outcomes(path, ladder)
    table = pq.read_table(path)
    with TemporaryDirectory() as place:  # a part of a file is a file of its own
        part = Path(place) / path.name
        pq.write_table(table.filter(pc.starts_with(table["task"], task)), part)
        return read_outcomes(part, ladder)
