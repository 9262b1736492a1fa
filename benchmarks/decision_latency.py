"""Time one decision on one core: features, prediction, quotes and choice, and all together.

    python benchmarks/decision_latency.py [--repeats N] [--out FILE]

Ratios between rows of one run mean more than the microseconds, which depend on the machine's load;
litellm's own heuristic classifier, timed beside ours, is a yardstick that others have.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
from stamp import ROOT, commit, machine

from router.dispatch.heuristic import classify
from router.planning.deciding import decide
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.policy import load_policy
from router.policy.cascade import Cascade
from router.predict import extract, load_predictor, shape_of
from router.prices import load_book
from router.types import Request, Room
from router.walk.chain import Cascades

NOW = 1_790_000_000.0  # a day on which every price of the default policy is known

# About as many tokens to the word as everyday English, code and formulas mixed.
_PARAGRAPH = """Our warehouse ships 240 parcels a day, and returns have grown from 3% to 7.5% since
March. Write a Python function `forecast(history: list[int], days: int) -> list[float]` that fits a
straight line to the last 30 days, and explain why $R^2 = 1 - SS_{res}/SS_{tot}$ may mislead here.
Then list at least three causes that the support team should rule out first, most likely first.
"""


def prompt(tokens: int) -> str:
    """Return own text of about `tokens` tokens."""
    text = _PARAGRAPH
    while shape_of([{"role": "user", "content": text}], {}).input_tokens < tokens:
        text += _PARAGRAPH
    return text[
        : int(len(text) * tokens / shape_of([{"role": "user", "content": text}], {}).input_tokens)
    ]


def timed(step: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return median and 99th percentile in microseconds."""
    for _ in range(20):
        step()
    taken = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter_ns()
        step()
        taken[i] = time.perf_counter_ns() - start
    return {
        "median_us": round(float(np.median(taken)) / 1000, 1),
        "p99_us": round(float(np.percentile(taken, 99)) / 1000, 1),
    }


def steps(request: Request) -> Mapping[str, Callable[[], object]]:
    """The steps of a decision under the default policy, in order; no store takes part."""
    predictor = load_predictor()
    features = extract(request)
    shape = shape_of(request.messages, request.params)
    policy = load_policy("default")
    ladder = Ladder.of(policy, load_book(), predictor.efforts)
    prediction = predictor(features)
    plan = make_plan(ladder, request, shape, features, prediction)
    room = Room()
    cascading = policy.model_copy(update={"cascade": Cascade(max_steps=3)})
    ahead = Cascades(cascading, None).looking(plan)

    def whole() -> object:
        shape = shape_of(request.messages, request.params)
        features = extract(request)
        return decide(make_plan(ladder, request, shape, features, predictor(features)), room)

    return {
        "shape": lambda: shape_of(request.messages, request.params),
        "features": lambda: extract(request),
        "prediction": lambda: predictor(features),
        "quotes": lambda: make_plan(ladder, request, shape, features, prediction),
        "choice": lambda: decide(plan, room),
        "choice, with a cascade": lambda: decide(ahead, room),
        "whole decision": whole,
        # A yardstick for the machine: the same text, again and again, through one classifier.
        "litellm's heuristic": partial(next, classify(repeat(request.messages[0]["content"]))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5000)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/decision_latency.json"
    )
    options = parser.parse_args()
    results: dict[str, object] = {"commit": commit(), "machine": machine()}
    for tokens in (30, 300, 4000):
        request = Request("", [{"role": "user", "content": prompt(tokens)}], {}, now=NOW)
        rows = {name: timed(step, options.repeats) for name, step in steps(request).items()}
        results[f"{tokens} tokens"] = rows
        for name, figures in rows.items():
            print(
                f"{tokens:5} tokens  {name:24} {figures['median_us']:8} µs  p99 {figures['p99_us']}"
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
