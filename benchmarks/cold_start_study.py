"""Who gains from the frontier, learnt on some sources of recorded outcomes and used on another.

One direction for all sources: a ridge of gains, standardised within each source and tier, on few
dense features. `cold_start.py` measures it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from predictor_data import LADDERS, Rows, join, load, question_key

from router.predict.design import least_scales
from router.predict.examples import Examples
from router.predict.features import DENSE_NAMES, extract_many
from router.predict.scorer import DENSE_LIMIT
from router.types import TIERS, Request

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# routellm's two halves are different benchmarks of one pair of models. The eight sources count the
# same in the average; the further ones are trained on (llmrouter_uiuc) or only looked at.
COUNTED = (
    "zeroeval",
    "mmlu_pro_a",
    "arena_bench_v1",
    "routellm_mmlu",
    "routellm_gsm8k",
    "routellm_mtbench",
    "paretobandit_val",
    "misguided_attention",
)
TRAINED_ON = (*COUNTED, "llmrouter_uiuc")
# Further ladders, of two tiers. llmrouter_uiuc: one family in two sizes, and only the tasks whose
# grader reads the answer (token overlap punishes the longer answers of the larger model). In
# routerarena the better model is also the cheaper one, and training on it is forbidden by its
# rules, so it is only ever a test.
FURTHER = {
    "llmrouter_uiuc": {
        "nano": "llama-3.1-8b-instruct",
        "frontier": "llama-3.1-nemotron-51b-instruct",
    },
    "routerarena": {"nano": "claude-3-haiku-20240307", "frontier": "gemini-2.0-flash-001"},
}
_NOT_GRADED = frozenset({"f1_score", "commongen_coverage"})
_PREFIX = re.compile(r"^\s*(?:\[[^\]\n]{1,40}\]\s*\n|question:|context: none|q:)\s*", re.I)
_OPTIONS = re.compile(r"\n\s*(?:options:|choices:|\(?a[.):]\s)", re.I)
_NOT_WORD = re.compile(r"[\W_]+")
_STEM = 60  # characters

_CUES = tuple(name for name in DENSE_NAMES if name.startswith("cue_"))
_LENGTHS = ("log_turn_characters", "log_words")
_STRUCTURE = (
    *_LENGTHS,
    "log_lines",
    "log_clauses",
    "share_digit",
    "share_mathematical",
    "share_latex",
    "share_code",
    "answer_options",
    "questions",
    "word_length",
)
FEATURES: dict[str, tuple[str, ...]] = {
    "length": _LENGTHS[:1],
    "cues": _CUES,
    "cues and length": (*_CUES, *_LENGTHS),
    "cues and structure": (*_CUES, *_STRUCTURE),
    "all": DENSE_NAMES[:-3],  # no source has tools, schemas or media
}
LEAST_QUESTIONS = 40
PLAIN_PENALTY = 300.0


@dataclass(frozen=True)
class Recipe:
    """Ridge on standardised gains. A source of n questions weighs n / (n + `half_weight`)."""

    features: str
    penalty: float
    half_weight: float


GRID = tuple(
    Recipe(*one)
    for one in product(FEATURES, (0.3, 1.0, 3.0, 10.0, 30.0), (0.0, 100.0, 300.0, 1000.0))
)


@dataclass(frozen=True)
class Source:
    rows: Rows
    dense: Floats  # (N, D)
    gain: Floats  # (N, 3): the frontier's score less the tier's
    stem: NDArray[np.str_]

    @property
    def pairs(self) -> list[int]:
        """Tiers measured against the frontier: nano and mini, where the source has them."""
        return [t for t in (0, 1) if np.isfinite(self.gain[:, t]).sum() >= LEAST_QUESTIONS]


@dataclass(frozen=True)
class Moments:
    """Second moments within a source, about its own means."""

    n: int
    mean: Floats  # (D,)
    among: Floats  # (D, D)
    with_gain: Floats  # (D,): gain standardised within source and tier, mean over the tiers


@dataclass(frozen=True)
class Direction:
    """`slope` of the standardised gain on the clipped, standardised dense features."""

    mean: Floats
    scale: Floats
    slope: Floats

    def of(self, dense: Floats) -> Floats:
        z = np.clip((dense - self.mean) / self.scale, -DENSE_LIMIT, DENSE_LIMIT)
        return z @ self.slope


@dataclass(frozen=True)
class Regret:
    """Regret of each tier against the frontier: level + trust × direction; (3,) each."""

    level: Floats
    trust: Floats


def stem_of(text: str) -> str:
    """Reduce a question to the head of its stem, for it comes with different frames.

    `question_key` misses most of the questions that paretobandit_val shares with routellm, since
    they come with the subject in front and the options in another layout.
    """
    bare = _OPTIONS.split(_PREFIX.sub("", text), maxsplit=1)[0]
    return _NOT_WORD.sub("", bare.lower())[:_STEM]


def read(folder: Path) -> dict[str, Source]:
    rows = join(load(folder), *(further(folder, name) for name in FURTHER))
    stems = {
        (name, question_key(text)): stem_of(text)
        for name in (*LADDERS, *FURTHER)
        for text in texts(folder / f"{name}.parquet")
    }
    stem = np.array([stems[s, k] for s, k in zip(rows.source, rows.key, strict=True)])
    name = rows.source.astype("U24")
    is_gsm8k = rows.examples.task == "gsm8k"
    name[(rows.source == "routellm") & is_gsm8k] = "routellm_gsm8k"
    name[(rows.source == "routellm") & ~is_gsm8k] = "routellm_mmlu"
    found = {}
    for one in (*TRAINED_ON, "routerarena"):
        mine = rows.take(name == one)
        score = mine.examples.score
        gain = score[:, -1:] - score[:, :-1]
        found[one] = Source(
            mine, mine.examples.features.dense.astype(np.float64), gain, stem[name == one]
        )
    return found


def texts(path: Path) -> Iterator[str]:
    table = pq.read_table(path)
    names = [name for name in ("question", "prompt") if name in table.column_names]
    for row in table.select(names).to_pylist():
        text = row.get("question") or row["prompt"]
        yield json.loads(text)[-1]["content"] if text.startswith('[{"role"') else text


def further(folder: Path, name: str) -> Rows:
    ladder = {model: TIERS.index(tier) for tier, model in FURTHER[name].items()}
    table = pq.read_table(folder / f"{name}.parquet", filters=[("model", "in", list(ladder))])
    questions: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        if row["metric"] in _NOT_GRADED:
            continue
        question = questions.setdefault(
            row["query_id"],
            {"task": row["task"], "text": row["prompt"], **{k: [np.nan] * 4 for k in "sc"}},
        )
        question["s"][ladder[row["model"]]] = row["score"]
        question["c"][ladder[row["model"]]] = row["cost_usd"] or np.nan
    known = [q for q in questions.values() if np.isfinite(q["s"][-1])]
    n = len(known)
    requests = [Request("", [{"role": "user", "content": q["text"]}], {}, now=0.0) for q in known]
    examples = Examples(
        features=extract_many(requests),
        score=np.array([q["s"] for q in known]),
        output_tokens=np.full((n, len(TIERS)), np.nan),
        input_tokens=np.full(n, np.nan),
        group=np.array([question_key(q["text"]) for q in known]),
        task=np.array([q["task"] for q in known]),
        weight=np.ones(n),
    )
    return Rows(np.full(n, name), examples, np.array([q["c"] for q in known]))


class Study:
    """All fits; moments are kept, since the same ones serve many fits."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self.sources = sources
        self.moments = cache(self._moments)
        self.inner = cache(self._inner)
        self.kept = cache(self._kept)

    def _kept(self, name: str, held: frozenset[str]) -> Integers:
        """Rows of a source less the questions that a held-out source shares."""
        other = [self.sources[h] for h in held]
        stems = {s for one in other for s in one.stem.tolist()}
        keys = {k for one in other for k in one.rows.key.tolist()}
        mine = self.sources[name]
        pairs = zip(mine.stem.tolist(), mine.rows.key.tolist(), strict=True)
        return np.flatnonzero([s not in stems and k not in keys for s, k in pairs])

    def _moments(self, name: str, held: frozenset[str]) -> Moments | None:
        index = self.kept(name, held)
        if len(index) < LEAST_QUESTIONS:
            return None
        source = self.sources[name]
        dense, gain = source.dense[index], source.gain[index]
        mean = dense.mean(axis=0)
        centred = dense - mean
        products = []
        for tier in source.pairs:
            known = np.isfinite(gain[:, tier])
            standard = (gain[known, tier] - gain[known, tier].mean()) / gain[known, tier].std()
            products.append(centred[known].T @ standard / known.sum())
        among = centred.T @ centred / len(index)
        return Moments(len(index), mean, among, np.mean(products, axis=0))

    def direction(self, recipe: Recipe, train: Sequence[str], held: frozenset[str]) -> Direction:
        """Solve the ridge on the sources' weighted mean moments: offsets of sources drop out."""
        found = [m for m in (self.moments(name, held) for name in train) if m is not None]
        weight = np.array([m.n / (m.n + recipe.half_weight) for m in found])
        weight /= weight.sum()

        def mean(name: str) -> Floats:
            parts = np.array([getattr(m, name) for m in found])
            return np.tensordot(weight, parts, axes=1)

        among = mean("among")
        scale = np.maximum(np.sqrt(np.diag(among)), least_scales())
        chosen = [DENSE_NAMES.index(name) for name in FEATURES[recipe.features]]
        of_chosen = scale[chosen]
        system = among[np.ix_(chosen, chosen)] / np.outer(of_chosen, of_chosen)
        system += recipe.penalty * np.eye(len(chosen))
        slope = np.zeros(len(DENSE_NAMES))
        slope[chosen] = np.linalg.solve(system, mean("with_gain")[chosen] / of_chosen)
        return Direction(mean("mean"), scale, slope)

    def apgr(self, name: str, predicted: Floats, index: Integers | None = None) -> float:
        """Mean over the tiers; on the rows at `index`, where given."""
        source = self.sources[name]
        rows = np.arange(len(predicted)) if index is None else index
        pairs = [known(predicted[rows], source.gain[rows, t]) for t in source.pairs]
        return float(np.mean([apgr(*pair) for pair in pairs]))

    def _inner(self, recipe: Recipe, held: str) -> dict[str, tuple[int, float]]:
        """Leave out each training source as well; questions of each, and APGR on them.

        Questions that the held-out source shares do not count: they must not guide the choice.
        """
        train = [name for name in TRAINED_ON if name != held]
        found = {}
        for test in train:
            index = self.kept(test, frozenset({held}))
            if len(index) < LEAST_QUESTIONS:
                continue
            rest = [name for name in train if name != test]
            direction = self.direction(recipe, rest, frozenset({test, held}))
            predicted = direction.of(self.sources[test].dense)
            found[test] = len(index), self.apgr(test, predicted, index)
        return found

    def choose(self, held: str, grid: Sequence[Recipe] = GRID) -> Recipe:
        """Choose by the inner mean APGR, sources weighed by the precision of theirs.

        The variance of an APGR is near 4/n at these gains; 0.02² stands for how sources differ.
        """

        def mean(recipe: Recipe) -> float:
            questions, found = zip(*self.inner(recipe, held).values(), strict=True)
            return float(np.average(found, weights=[1 / (4 / n + 0.02**2) for n in questions]))

        return max(grid, key=mean)

    def regret(self, recipe: Recipe, held: str) -> Regret:
        """Levels of the tiers, and how far each may trust the direction.

        Trust is the slope of a tier's gain on the prediction of a model that has not seen the
        source, averaged over the sources and shrunk by how much they differ (positive-part
        James-Stein on the mean); none is left where they do not agree.
        """
        train = [name for name in TRAINED_ON if name != held]
        level, trust = np.zeros(3), np.zeros(3)
        outside = frozenset({held})
        slopes: list[list[float]] = [[], [], []]
        levels: list[list[float]] = [[], [], []]
        weights: list[list[float]] = [[], [], []]
        for test in train:
            index = self.kept(test, outside)
            if len(index) < LEAST_QUESTIONS:
                continue
            rest = [name for name in train if name != test]
            source = self.sources[test]
            u = self.direction(recipe, rest, outside | {test}).of(source.dense[index])
            for tier in range(3):
                x, y = known(u, source.gain[index, tier])
                if len(x) >= LEAST_QUESTIONS:
                    slopes[tier].append(float(np.cov(x, y)[0, 1] / np.var(x, ddof=1)))
                    levels[tier].append(float(y.mean()))
                    weights[tier].append(len(x) / (len(x) + 300))
        for tier in range(3):
            w = np.array(weights[tier]) / np.sum(weights[tier])
            level[tier] = w @ levels[tier]
            mean = float(w @ slopes[tier])
            n = len(w)
            variance = float(w**2 @ (np.array(slopes[tier]) - mean) ** 2) * n / max(1, n - 1)
            trust[tier] = max(0.0, mean) * max(0.0, 1 - variance / max(mean**2, 1e-12))
        return Regret(level, trust)

    def plain(self, held: str) -> Floats:
        """Ridge of raw gains on all dense features, all rows alike: what one would try first."""
        dense, gain = [], []
        for name in TRAINED_ON:
            if name != held:
                source, index = self.sources[name], self.kept(name, frozenset({held}))
                dense.append(source.dense[index])
                gain.append(np.nanmean(source.gain[index][:, source.pairs], axis=1))
        x, y = np.concatenate(dense), np.concatenate(gain)
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), least_scales())
        z = np.clip((x - mean) / scale, -DENSE_LIMIT, DENSE_LIMIT)
        system = z.T @ z + PLAIN_PENALTY * np.eye(z.shape[1])
        slope = np.linalg.solve(system, z.T @ (y - y.mean()))
        direction = Direction(mean, scale, slope)
        return y.mean() + direction.of(self.sources[held].dense)


def known(predicted: Floats, gain: Floats) -> tuple[Floats, Floats]:
    finite = np.isfinite(gain)
    return predicted[finite], gain[finite]


def apgr(predicted: Floats, gain: Floats) -> float:
    """Average performance gap recovered (RouteLLM, arXiv 2406.18665), over every threshold.

    Requests with equal predictions are sent up together or in random order: the curve is straight
    there, so that a constant prediction has exactly 0.5.
    """
    return float(apgr_resampled(predicted, gain, np.ones((1, len(gain))))[0])


def apgr_resampled(predicted: Floats, gain: Floats, weight: Floats) -> Floats:
    """Weighted: `weight` (R, N), one row a resample."""
    order = np.argsort(-predicted, kind="stable")
    steps = np.flatnonzero(np.diff(np.round(predicted[order], 12))) + 1
    corners = np.concatenate([[0], steps, [len(gain)]])
    zero = np.zeros((len(weight), 1))
    sent = np.concatenate([zero, np.cumsum(weight[:, order], axis=1)], axis=1)[:, corners]
    won = weight[:, order] * gain[order]
    won = np.concatenate([zero, np.cumsum(won, axis=1)], axis=1)[:, corners]
    area = np.sum((won[:, 1:] + won[:, :-1]) / 2 * np.diff(sent, axis=1), axis=1)
    return area / won[:, -1] / sent[:, -1]
