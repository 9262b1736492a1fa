"""How much traffic a certificate moves, and how often its promise is broken, on recorded outcomes.

    python benchmarks/certificates.py [--outcomes DIR] [--seed N] [--splits N]

Writes benchmarks/results/certificates.json. Two parts: `methods` compares bounds for one promise
(RouteLLM MMLU, a loss of at most 2 points, 2,000 calibration rows) on one and the same path;
`promises` certifies three shares of the frontier's quality on three ladders.

Predictions are out of fold (5 folds, equal questions in one fold). Truth, in three ways:
`broken_on_the_rest`: the mean over the rows that are not in the calibration sample. That truth is
itself a sample, drawn against the calibration rows, so at a policy whose promise just holds it
breaks more often than the confidence says: the standard error of the comparison is larger by
sqrt(N / (N - n)), 1.08-fold for 2,000 of 14,037 rows and 1.41-fold for half of them.
`broken_on_the_file`: the mean over all rows, the calibration rows among them: too kind, by the
reverse. `broken_exactly`: calibration rows drawn with replacement, so that they are independent
draws from the file and the file's mean is the exact truth: the guarantee's own terms.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from predictor_data import LADDERS, question_key
from scipy.stats import beta
from stamp import ROOT, commit, machine, rounded

from router.decide.betting import betting_p_value, fixed_sequence
from router.decide.certify import Certificate, argmax_utility, certify, path
from router.predict import extract_many
from router.predict.examples import Examples, folds_of
from router.predict.scorer import Predictor
from router.predict.training import fit
from router.types import TIERS, Request

FOLDS = 5
CONFIDENCE, EPSILON, ROWS = 0.95, 0.02, 2000
DELTA = 1 - CONFIDENCE
KEEPS = (0.96, 0.98, 0.99)
_TIERS_OF = {2: [1, 3], 4: [0, 1, 2, 3]}  # size of a ladder → positions of its tiers
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """Questions and, per tier of the ladder with the frontier last, score and USD: (N, A)."""

    name: str
    text: list[str]
    score: Floats
    cost: Floats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    started = time.perf_counter()
    results: dict[str, Any] = {
        "protocol": {
            "seed": options.seed,
            "splits": options.splits,
            "confidence": CONFIDENCE,
            "calibration_rows": f"{ROWS}, or half of the rows where those are fewer",
            "commit": commit(),
            "machine": machine(),
            "predictor": "router.predict.training.fit, out of 5 folds",
        },
        "promises": {},
    }
    for source, prefix in (("routellm", "mmlu"), ("mmlu_pro_a", ""), ("zeroeval", "")):
        outcomes = load(options.outcomes, source, prefix)
        quality = out_of_fold(outcomes, options.seed)
        expected = expected_cost(outcomes)
        if source == "routellm":
            results["methods"] = methods(outcomes, quality, expected, options.splits, options.seed)
        results["promises"][outcomes.name] = promises(
            outcomes, quality, expected, options.splits, options.seed
        )
    results["protocol"]["seconds"] = round(time.perf_counter() - started)
    options.results.mkdir(parents=True, exist_ok=True)
    target = options.results / "certificates.json"
    target.write_text(json.dumps(rounded(results), indent=1) + "\n")
    print(f"saved {target.name}, {results['protocol']['seconds']} s")


# ── outcomes and predictions ───────────────────────────────────────────────────────────────────
def load(folder: Path, source: str, prefix: str) -> Outcomes:
    """Questions that every tier answered, less the rows that routellm marks as contaminated."""
    ladder = list(LADDERS[source].values())
    table = pq.read_table(folder / f"{source}.parquet", filters=[("model", "in", ladder)])
    questions: dict[str, tuple[str, list[list[float]], list[list[float]]]] = {}
    for row in table.to_pylist():
        if row.get("contaminated") or not row["task"].startswith(prefix):
            continue
        _, score, cost = questions.setdefault(
            row["query_id"],
            (row.get("question") or row["prompt"], [[] for _ in ladder], [[] for _ in ladder]),
        )
        score[ladder.index(row["model"])].append(row["score"])
        cost[ladder.index(row["model"])].append(row["cost_usd"])
    known = [q for q in questions.values() if all(q[1]) and all(q[2])]
    return Outcomes(
        name=f"{source}_{prefix}" if prefix else source,
        text=[q[0] for q in known],
        score=np.array([[np.mean(values) for values in q[1]] for q in known]),
        cost=np.array([[np.mean(values) for values in q[2]] for q in known]),
    )


def out_of_fold(outcomes: Outcomes, seed: int) -> Floats:
    """Predicted quality (N, A), each question by a model that was trained on other questions."""
    n, ladder = outcomes.score.shape
    tiers = _TIERS_OF[ladder]
    score = np.full((n, len(TIERS)), np.nan)
    score[:, tiers] = outcomes.score
    examples = Examples(
        features=extract_many(
            [
                Request("", [{"role": "user", "content": text}], {}, now=0.0)
                for text in outcomes.text
            ]
        ),
        score=score,
        output_tokens=np.full(score.shape, np.nan),
        input_tokens=np.full(n, np.nan),
        group=np.array([question_key(text) for text in outcomes.text]),
        task=np.full(n, ""),
        weight=np.ones(n),
    )
    fold = folds_of(examples.group, FOLDS, seed)
    quality = np.empty(outcomes.score.shape)
    for held in range(FOLDS):
        model = Predictor(fit(examples.take(fold != held), seed))
        test = np.flatnonzero(fold == held)
        quality[test] = model.batch(examples.features[test]).quality[:, tiers]
    return quality


def expected_cost(outcomes: Outcomes) -> Floats:
    """Each tier's mean cost; 0 and 1 for routellm, whose published curves count strong calls."""
    if outcomes.name.startswith("routellm"):
        return np.tile([0.0, 1.0], (len(outcomes.text), 1))
    return np.tile(outcomes.cost.mean(axis=0), (len(outcomes.text), 1))


# ── one promise, many bounds ───────────────────────────────────────────────────────────────────
# Each says which policies (P,) it accepts from their losses (P, N) on the calibration rows.
def hoeffding(loss: Floats) -> NDArray[np.bool_]:
    """Range [-1, 1]; Hoeffding 1963."""
    radius = 2 * math.sqrt(-math.log(DELTA) / (2 * loss.shape[1]))
    return loss.mean(axis=1) + radius <= EPSILON


def empirical_bernstein(loss: Floats) -> NDArray[np.bool_]:
    """Maurer & Pontil 2009, theorem 4, scaled to the range [-1, 1]."""
    n, log_term = loss.shape[1], math.log(2 / DELTA)
    radius = np.sqrt(2 * loss.var(axis=1, ddof=1) * log_term / n) + 2 * 7 * log_term / (3 * (n - 1))
    return loss.mean(axis=1) + radius <= EPSILON


def clopper_pearson(loss: Floats) -> NDArray[np.bool_]:
    """The exact upper bound on how often the policy is worse, gains not counted."""
    harms = (loss > 0).sum(axis=1)
    return beta.ppf(CONFIDENCE, harms + 1, loss.shape[1] - harms) <= EPSILON


def normal(loss: Floats) -> NDArray[np.bool_]:
    """The z-test: right in the limit only."""
    error = loss.std(axis=1, ddof=1) / math.sqrt(loss.shape[1])
    return loss.mean(axis=1) + 1.6449 * error <= EPSILON


def wsr_plug_in(loss: Floats) -> NDArray[np.bool_]:
    """Predictable plug-in bets for a fixed n, arXiv:2010.09686, section 4.1, largest 0.75."""
    n = loss.shape[1]
    x = loss - EPSILON
    t = np.arange(1, n + 1)
    mean = np.cumsum(x, axis=1) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2, axis=1)) / (t + 1)
    variance = np.concatenate([np.full((len(x), 1), 0.25), variance[:, :-1]], axis=1)
    bet = np.minimum(0.75 / (1 - EPSILON), np.sqrt(-2 * math.log(DELTA) / (n * variance)))
    return np.cumsum(np.log1p(-bet * x), axis=1).max(axis=1) >= -math.log(DELTA)


def betting(loss: Floats) -> NDArray[np.bool_]:
    return betting_p_value(loss - EPSILON, 1 - EPSILON, DELTA) <= DELTA


METHODS: dict[str, Callable[[Floats], NDArray[np.bool_]]] = {
    "betting (ours)": betting,
    "betting, WSR plug-in": wsr_plug_in,
    "normal (not valid at finite n)": normal,
    "empirical Bernstein": empirical_bernstein,
    "Clopper-Pearson on harms": clopper_pearson,
    "Hoeffding": hoeffding,
}
PLUG_IN = "plug-in (no bound)"


def methods(
    outcomes: Outcomes, quality: Floats, expected: Floats, splits: int, seed: int
) -> dict[str, Any]:
    """Compare bounds on RouteLLM's MMLU: share of traffic moved, and promises broken."""
    frontier = outcomes.score.shape[1] - 1
    arms, _ = distinct_policies(quality, expected)
    loss = outcomes.score[:, frontier] - outcomes.score[np.arange(len(quality)), arms]
    moved = arms != frontier
    figures = {name: [] for name in (PLUG_IN, *METHODS)}
    for n, replace in ((ROWS, False), (ROWS, True)):
        for split in range(splits):
            rows, rest = draw(len(quality), n, replace, seed, split)
            sample = loss[:, rows]
            kept = np.flatnonzero(sample.mean(axis=1) <= EPSILON)
            record(figures[PLUG_IN], kept[-1], replace, loss, moved, rest)
            for name, accepts in METHODS.items():
                record(figures[name], last_in_sequence(accepts, sample), replace, loss, moved, rest)
    found = {}
    for name, lines in figures.items():
        sampled = np.array([line[1:] for line in lines if not line[0]])
        exact = np.array([line[1:] for line in lines if line[0]])
        found[name] = {
            "share_off_frontier": sampled[:, 0].mean(),
            "share_interval_90_of_splits": np.percentile(sampled[:, 0], [5, 95]).tolist(),
            "broken_on_the_rest": sampled[:, 1].mean(),
            "broken_on_the_file": sampled[:, 2].mean(),
            "broken_exactly": exact[:, 2].mean(),
        }
        print(f"{name}: {rounded(found[name])}", flush=True)
    return {"rows": len(quality), "epsilon": EPSILON, "calibration_rows": ROWS, **found}


def distinct_policies(quality: Floats, expected: Floats) -> tuple[Ints, Ints]:
    """The path's distinct policies: arm of every row, (P, N), and each one's first point, (P,).

    The path does not depend on the rows, so that it is laid once and a split only picks rows.
    """
    lattice, frontier = path(), quality.shape[1] - 1
    arms = argmax_utility(quality, expected, frontier, lattice.margin, lattice.cost_weight)
    new = np.concatenate([[True], (arms[1:] != arms[:-1]).any(axis=1)])
    return arms[new], np.flatnonzero(new)


def last_in_sequence(accepts: Callable[[Floats], NDArray[np.bool_]], sample: Floats) -> int:
    """Fixed-sequence testing, a stretch of the path at a time; -1 if the first policy fails."""
    for start in range(0, len(sample), 100):
        refused = np.flatnonzero(~accepts(sample[start : start + 100]))
        if len(refused):
            return start + int(refused[0]) - 1
    return len(sample) - 1


def record(
    lines: list[tuple[float, ...]],
    chosen: int,
    replace: bool,
    loss: Floats,
    moved: NDArray[np.bool_],
    rest: Ints,
) -> None:
    if chosen < 0:
        lines.append((replace, 0.0, 0.0, 0.0))
        return
    broken = (loss[chosen, rest].mean() > EPSILON, loss[chosen].mean() > EPSILON)
    lines.append((replace, moved[chosen, rest].mean(), *broken))


def draw(total: int, n: int, replace: bool, seed: int, split: int) -> tuple[Ints, Ints]:
    """Calibration rows and the rest; with replacement, the rows of the file that were not drawn."""
    rng = np.random.default_rng([seed, split, int(replace)])
    rows = rng.choice(total, n, replace=replace)
    return rows, np.setdiff1d(np.arange(total), rows)


# ── three promises, three ladders ──────────────────────────────────────────────────────────────
def promises(
    outcomes: Outcomes, quality: Floats, expected: Floats, splits: int, seed: int
) -> dict[str, Any]:
    """Certify on 2,000 rows or half of them; read the promise off the others."""
    total, frontier = len(quality), outcomes.score.shape[1] - 1
    n = min(ROWS, total // 2)
    arms, first = distinct_policies(quality, expected)
    routed = Policies(
        first=first,
        moved=arms != frontier,
        score=outcomes.score[np.arange(total), arms],
        cost=outcomes.cost[np.arange(total), arms],
        best=outcomes.score[:, frontier],
        full=outcomes.cost[:, frontier],
    )
    found: dict[str, Any] = {"rows": total, "calibration_rows": n}
    found["mean_score"] = outcomes.score.mean(axis=0).tolist()
    for keep in KEEPS:
        lines: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
        for replace in lines:
            for split in range(splits):
                rows, rest = draw(total, n, replace, seed, split)
                chosen = routed.certified(keep, rows, split)
                lines[replace].append(routed.judge(chosen, keep, rest))
                if split == 0:
                    data = (quality[rows], expected[rows], outcomes.score[rows])
                    routed.same_as(certify(*data, frontier, keep=keep, seed=split), chosen)
        sampled, exact = np.array(lines[False]), np.array(lines[True])
        found[f"keep_{keep}"] = {
            "share_off_frontier": sampled[:, 0].mean(),
            "cost_pct_of_frontier": 100 * sampled[:, 1].mean(),
            "cost_pct_interval_90_of_splits": np.percentile(100 * sampled[:, 1], [5, 95]).tolist(),
            "quality_ratio": sampled[:, 2].mean(),
            "broken_on_the_rest": sampled[:, 3].mean(),
            "broken_on_the_file": sampled[:, 4].mean(),
            "broken_exactly": exact[:, 4].mean(),
            "nothing_moved": np.mean(sampled[:, 0] == 0),
        }
        print(f"{outcomes.name} keep {keep}: {rounded(found[f'keep_{keep}'])}", flush=True)
    return found


@dataclass(frozen=True)
class Policies:
    """What each distinct policy of the path would have got for every row: (P, N), and (N,)."""

    first: Ints
    moved: NDArray[np.bool_]
    score: Floats
    cost: Floats
    best: Floats
    full: Floats

    def certified(self, keep: float, rows: Ints, seed: int) -> int:
        """What `certify` does, with policies that were laid out beforehand."""
        blocks = (
            keep * self.best[rows] - self.score[start : start + 64, rows]
            for start in range(0, len(self.score), 64)
        )
        return fixed_sequence(blocks, keep, DELTA, seed)

    def same_as(self, certificate: Certificate, chosen: int) -> None:
        """Hold this shortcut to `certify` itself: both name the same policy."""
        lattice = path()
        at = np.flatnonzero(
            (lattice.margin == certificate.margin)
            & (lattice.cost_weight == certificate.cost_weight)
        )[0]
        assert at >= self.first[max(chosen, 0)], (certificate, chosen)
        if chosen + 1 < len(self.first):
            assert at < self.first[min(chosen + 1, len(self.first) - 1)], (certificate, chosen)

    def judge(self, chosen: int, keep: float, rest: Ints) -> tuple[float, ...]:
        if chosen < 0:
            return (0.0, 1.0, 1.0, 0.0, 0.0)
        score, best = self.score[chosen], self.best
        return (
            self.moved[chosen, rest].mean(),
            self.cost[chosen, rest].sum() / self.full[rest].sum(),
            score[rest].mean() / best[rest].mean(),
            score[rest].mean() < keep * best[rest].mean(),
            score.mean() < keep * best.mean(),
        )


if __name__ == "__main__":
    main()
