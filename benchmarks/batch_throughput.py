"""Prompts a second through features, prediction and choice, as a batch on one core.

    python benchmarks/batch_throughput.py [--outcomes DIR] [--prompts N]

Recorded questions of mmlu_pro_a and routellm, repeated to the number asked for; every prediction
and decision of the batch is made. Writes benchmarks/results/batch_throughput.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from stamp import ROOT, commit, machine

from router.decide import UNLIMITED, Objective, Options, choose
from router.predict import extract_many, load_predictor
from router.types import Request

_AT_ONCE = 10_000
_USD_PER_TOKEN = np.array([1.25e-6, 4.5e-6, 15e-6, 30e-6])  # of output, nano to frontier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/batch_throughput.json"
    )
    options = parser.parse_args()
    texts: list[str] = []
    for source in ("mmlu_pro_a", "routellm"):
        table = pq.read_table(options.outcomes / f"{source}.parquet", columns=["prompt"])
        texts += sorted(set(table["prompt"].to_pylist()))
    order = np.random.default_rng(0).permutation(options.prompts) % len(texts)
    requests = [
        Request("", [{"role": "user", "content": texts[i]}], {}, now=0.0) for i in order.tolist()
    ]
    predictor = load_predictor()
    spent = {"features": 0.0, "prediction": 0.0, "choice": 0.0}
    decided = 0
    for start in range(0, len(requests), _AT_ONCE):
        began = time.perf_counter()
        features = extract_many(requests[start : start + _AT_ONCE])
        read = time.perf_counter()
        prediction = predictor.batch(features)
        predicted = time.perf_counter()
        n = len(features)
        expected = (prediction.output_tokens * _USD_PER_TOKEN * 1e9).astype(np.int64)
        choices = choose(
            Options(
                quality=prediction.quality,
                expected=expected,
                upper=expected,
                barred=np.zeros((n, 4), dtype=np.uint8),
                rung=np.arange(4),
                baseline=3,
            ),
            Objective(cost_weight=5.0),
            np.full(n, UNLIMITED),
            priced=False,
        )
        ended = time.perf_counter()
        decided += int((choices.arm >= 0).sum())
        spent["features"] += read - began
        spent["prediction"] += predicted - read
        spent["choice"] += ended - predicted
    total = sum(spent.values())
    results = {
        "commit": commit(),
        "machine": machine(),
        "prompts": decided,
        "mean_characters": round(float(np.mean([len(texts[i]) for i in order])), 1),
        "prompts_per_second": round(decided / total),
        "microseconds_each": {name: round(1e6 * t / decided, 1) for name, t in spent.items()},
    }
    print(json.dumps(results, indent=1))
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
