"""Train one verifier of answers on all sources, and see whether it transfers to unseen ones.

    python benchmarks/train_verifier.py [--outcomes DIR] [--seed N] [--out DIR] [--cache DIR]
                                        [--steps N] [--only-transfer]

Writes the verifier's folder and benchmarks/results/verifier.json. Every prior is of a predictor
that saw nothing of the row's source: a request comes from no source that the shipped one knows. The
figures leave a whole source out, of predictor and verifier both; `--cache` keeps predictors.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from predictor_data import (
    LADDERS,
    Rows,
    Wordings,
    load,
    load_beliefs,
    load_wordings,
    outcomes_of,
)
from predictor_fit import fit
from stamp import ROOT, commit, machine, rounded
from train_predictor import without_repeats

from router.gates.reading import SHAPE_NAMES
from router.gates.verifier import NAMES, Verifier
from router.predict.features import FeatureBatch
from router.predict.model_file import ModelFile, load_model, save_model
from router.predict.scorer import Predictor
from router.replay.evaluation.by_form import ByForm
from router.replay.evaluation.curves import resamples
from router.replay.evaluation.evaluate import evaluate
from router.replay.evaluation.figures import Measured, measure
from router.replay.evaluation.sweep import Sweep
from router.replay.evaluation.verifier_training import as_verifier, train_verifier
from router.replay.recorded.answers import Answers, read_answers
from router.replay.recorded.featurise import features_of
from router.replay.recorded.outcomes import Outcomes
from router.replay.training.train_verifier import aucs, lead_in_auc
from router.types import TIERS

SOURCES = ("mmlu_pro_a", "zeroeval", "arena_bench_v1")
SWEEP, DRAWS = 61, 500
Floats = NDArray[np.float64]
# What does not hang on one benchmark's length and layout of answers.
FORM = {"cut", "refusal", "hard_fault", "bad_code", "no_final_answer"}
RECIPES: dict[str, frozenset[str]] = {
    "everything": frozenset(NAMES),
    "agreement and form": frozenset(NAMES) - (frozenset(SHAPE_NAMES) - FORM),
}
RIDGE = 10.0


@dataclass(frozen=True)
class Source:
    outcomes: Outcomes
    answers: Answers
    features: FeatureBatch


class Predictors:
    """The shipped recipe without some sources, remembered in a folder if one is given."""

    def __init__(
        self, pool: Rows, beliefs: Rows, wordings: Wordings, seed: int, cache: Path | None
    ):
        self.pool, self.beliefs, self.wordings = pool, beliefs, wordings
        self.seed, self.cache = seed, cache
        self.known: dict[frozenset[str], Predictor] = {}

    def without(self, *left_out: str) -> Predictor:
        key = frozenset(left_out)
        if key not in self.known:
            self.known[key] = Predictor(self._model(sorted(key)))
        return self.known[key]

    def _model(self, left_out: list[str]) -> ModelFile:
        place = None if self.cache is None else self.cache / "-".join(["without", *left_out])
        if place is not None and (place / "model.json").exists():
            return load_model(place)
        print("predictor without", ", ".join(left_out), flush=True)
        rest = self.pool.take(~np.isin(self.pool.source, left_out))
        model = fit(rest, self.beliefs, self.wordings, self.seed)
        if place is not None:
            save_model(place, model.name, model.arrays, dict(model.facts))
        return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "router/gates/default_verifier")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default="agreement and form")
    parser.add_argument("--only-transfer", action="store_true", help="save no verifier")
    options = parser.parse_args()
    trained_at = commit()
    sources = {name: read(options.outcomes, name) for name in SOURCES}
    predictors = Predictors(
        without_repeats(load(options.outcomes)),
        load_beliefs(ROOT / "benchmarks/beliefs.jsonl"),
        load_wordings(ROOT / "benchmarks/wordings.jsonl"),
        options.seed,
        options.cache,
    )
    transfer: dict[str, Any] = {}
    for left_out in SOURCES:
        transfer[left_out] = {}
        for recipe in RECIPES:
            rest = [name for name in SOURCES if name != left_out]
            trained = train(sources, rest, predictors, RECIPES[recipe], (left_out,))
            found = judge(
                sources[left_out],
                predictors.without(left_out),
                trained,
                options.steps,
                options.seed,
            )
            transfer[left_out][recipe] = found
            shown = {name: found[name] for name in ("aiq_lead", "auc_lead")}
            costs = {n: f["cost_pct_at_quality"] for n, f in found["chains"].items()}
            print(left_out, "|", recipe, json.dumps(rounded({**shown, **costs})), flush=True)
    results: dict[str, Any] = {
        "protocol": {
            "seed": options.seed,
            "steps": options.steps,
            "ridge": RIDGE,
            "commit": trained_at,
            "machine": machine(),
            "ladders": {name: LADDERS[name] for name in SOURCES},
            "queries": {name: len(source.outcomes) for name, source in sources.items()},
            "shipped_recipe": options.recipe,
        },
        "left_out": transfer,
    }
    if not options.only_transfer:
        verifier = train(sources, list(SOURCES), predictors, RECIPES[options.recipe], ())
        facts = {
            "inputs": list(NAMES),
            "recipe": options.recipe,
            "ridge": RIDGE,
            "seed": options.seed,
            "trained_on": list(SOURCES),
        }
        digest = save_model(options.out, "verifier", verifier, facts)
        size = sum(file.stat().st_size for file in options.out.iterdir() if file.is_file())
        results["protocol"] |= {"verifier": digest[:12], "bytes": size}
        print(f"saved verifier@{digest[:12]}, {size / 1e3:.0f} kB")
    path = options.results / "verifier.json"
    path.write_text(json.dumps(rounded(results), indent=1) + "\n")


def read(folder: Path, name: str) -> Source:
    outcomes = outcomes_of(folder, name, "", LADDERS[name])
    return Source(outcomes, read_answers(outcomes), features_of(outcomes))


def train(
    sources: dict[str, Source],
    names: list[str],
    predictors: Predictors,
    reads: frozenset[str],
    left_out: tuple[str, ...],
) -> dict[str, NDArray[Any]]:
    """Fit a verifier on some sources, each counting by the square root of its size."""
    parts = [sources[name] for name in names]
    prior = np.concatenate(
        [
            predictors.without(name, *left_out).batch(sources[name].features).quality
            for name in names
        ]
    )
    weight = np.concatenate(
        [np.full(len(part.outcomes), len(part.outcomes) ** -0.5) for part in parts]
    )
    answers = Answers(
        np.concatenate([part.answers.shape for part in parts]),
        np.concatenate([part.answers.alike for part in parts]),
        np.concatenate([part.answers.order for part in parts]),
        np.concatenate([part.answers.comparable for part in parts]),
        np.concatenate([part.answers.said for part in parts]),
        np.concatenate([part.answers.coincide for part in parts]),
    )
    score = np.concatenate([part.outcomes.score for part in parts])
    columns = list(range(len(TIERS)))
    weight *= len(weight) / weight.sum()
    return train_verifier(prior, score, answers, columns, ridge=RIDGE, weight=weight, names=reads)


def judge(
    source: Source,
    predictor: Predictor,
    arrays: dict[str, NDArray[Any]],
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """The chains of a source under a verifier that never saw it, beside the structural gate."""
    outcomes = source.outcomes
    verifier = as_verifier(arrays)
    judges: dict[str, Any] = {"router": verifier, "structural": ByForm()}
    sweeps: dict[str, Sweep] = {}
    for name, each in judges.items():
        found = evaluate(
            outcomes,
            model=predictor,
            max_steps=steps,
            verifier=each,
            sweep=SWEEP,
            draws=0,
            splits=1,
            compare=(),
        )
        sweeps[name] = Sweep(found.chosen, None, name, found.called)
    one = evaluate(outcomes, model=predictor, sweep=SWEEP, draws=0, splits=1, compare=())
    sweeps["pre_call"] = Sweep(one.chosen)
    chains = measure(sweeps, Measured(outcomes, DRAWS, seed))
    quality = predictor.batch(source.features).quality
    said = {"before": quality}
    said |= {
        name: first_words(each, quality, source.answers, outcomes.columns)
        for name, each in (("learned", verifier), ("structural", ByForm()))
    }
    drawn = resamples(outcomes.group, DRAWS, seed)
    names = {"router": "learned"}
    keep = ("cost_pct_at_quality", "peak_quality_ratio", "aiq")
    lead = chains["structural"]
    return {
        "aiq_lead": [lead["router_aiq_lead"], lead["intervals"]["router_aiq_lead"]],
        "auc_lead": lead_in_auc(said, outcomes.score, outcomes.columns, drawn).as_dict(),
        "auc": aucs(said, outcomes.score, outcomes.columns, drawn),
        "chains": {
            names.get(name, name): {
                **{key: figures[key] for key in keep},
                "intervals": {key: figures["intervals"].get(key) for key in keep},
            }
            for name, figures in chains.items()
        },
    }


def first_words(
    each: Verifier | ByForm, quality: Floats, answers: Answers, columns: list[int]
) -> Floats:
    """P(good) of each tier's own answer once it, as the first, was read: (N, 4)."""
    found = np.full_like(quality, np.nan)
    for tier in columns:
        after = each.after(quality, quality, answers, (tier,))
        found[:, tier] = after[:, tier]
    return found


if __name__ == "__main__":
    main()
