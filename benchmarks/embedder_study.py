"""Does a text embedder earn its milliseconds? RouteLLM's data, with and without its vectors.

    python benchmarks/embedder_study.py [--outcomes DIR] [--embedder NAME] [--seed N]

APGR by cross-validation, and what a request's features take, with and without, in one run.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from predictor_data import LADDERS, outcomes_of
from routing_quality import SETTINGS, apgr_of_folds, learn
from stamp import ROOT, commit, machine, rounded

from router.predict import extract
from router.predict.embedder import TextEmbedder, load_embedder
from router.replay.evaluation.evaluate import evaluate
from router.types import Request

RESULTS = ROOT / "benchmarks/results/embedder_study.json"
NAMES = ("routellm_gsm8k", "routellm_mmlu_1500_labels", "routellm_mmlu")
CHARACTERS = (120, 1200)  # about 30 and 300 tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--embedder", default="wordllama")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    embedder = load_embedder(options.embedder)
    results: dict[str, Any] = {
        "embedder": embedder.name, "seed": options.seed, "commit": commit(), "machine": machine(),
        "features_us": {str(n): timed(n, embedder) for n in CHARACTERS},
    }  # fmt: skip
    for name in NAMES:
        results[name] = {
            which: measured(name, options.outcomes, options.seed, used)
            for which, used in (("without", None), ("with", embedder))
        }
        print(name, rounded(results[name]), flush=True)
    RESULTS.write_text(json.dumps(rounded(results), indent=1) + "\n")
    print(results["features_us"])


def measured(name: str, folder: Path, seed: int, embedder: TextEmbedder | None) -> dict[str, Any]:
    """APGR of one setting of `routing_quality`: pooled, and over folds."""
    source, task, labels = SETTINGS[name]
    found = evaluate(
        outcomes_of(folder, source, task, LADDERS[source]),
        seed=seed,
        learner=partial(learn, labels=labels, embedder=embedder),
        embedder=embedder,
        draws=0,
        compare=(),
    )
    return {"apgr": found.report["apgr"], "of_folds": apgr_of_folds(found)}


def timed(characters: int, embedder: TextEmbedder) -> dict[str, float]:
    """Median microseconds of a request's features, the two kinds taking turns."""
    text = ("Explain how the harbour's tide tables were computed. " * 40)[:characters]
    request = Request("", [{"role": "user", "content": text}], {}, now=0.0)
    kinds = {"without": extract, "with": partial(extract, embedder=embedder)}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(500):
        for kind, work in kinds.items():
            began = time.perf_counter()
            work(request)
            seconds[kind].append(time.perf_counter() - began)
    return {kind: float(np.median(each)) * 1e6 for kind, each in seconds.items()}


if __name__ == "__main__":
    main()
