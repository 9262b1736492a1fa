"""How fast a log is replayed, in how much memory, and whether Ray's figures are the same.

    python benchmarks/replay_speed.py [--rows N] [--folder DIR] [--only NAME …]

The log is made by a seeded generator (a simulation: no model was called), in the format of
`router export`: four arms, exploring, a label on one answer in ten. Each measurement is a process
of its own. Writes benchmarks/results/replay_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from stamp import ROOT, commit, machine, rounded

from router.decide import Objective
from router.replay.off_policy.ask import ladder_of
from router.replay.off_policy.export import MANIFEST
from router.replay.off_policy.replay import conclude, question_of
from router.replay.off_policy.run import run
from router.replay.off_policy.table import VERSION, schema
from router.replay.off_policy.target import Named, of_policy

RESULTS = ROOT / "benchmarks/results/replay_speed.json"
ROWS_OF_A_FILE = 250_000
DAYS = 30
START = 1_780_000_000.0
TIERS = ("nano", "mini", "mid", "frontier")


def policy() -> Any:
    """The default policy without its budget: four tiers, one deployment each."""
    from router.policy import load_policy

    return load_policy("default").model_copy(update={"budgets": ()})


def make_log(folder: Path, rows: int, seed: int) -> None:
    """Write a log of so many rows, one file after the other."""
    rng = np.random.default_rng(seed)
    arms = [(arm.name, arm.tier, arm.model) for arm in policy().arms()]
    files: dict[str, int] = {}
    for number, begin in enumerate(range(0, rows, ROWS_OF_A_FILE)):
        count = min(ROWS_OF_A_FILE, rows - begin)
        day = begin * DAYS // max(rows, 1)
        date = str(np.datetime64(int(START) + day * 86_400, "s"))[:10]
        path = f"day={date}/part-{number:05}.parquet"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        table = make_rows(rng, count, begin, START + day * 86_400, json.dumps(arms))
        pq.write_table(table, folder / path, compression="zstd")
        files[path] = count
    left_out = {"refused": 0, "open": 0, "own": 0, "undecided": 0}
    manifest = {"version": VERSION, "files": files, "left_out": left_out}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def make_rows(rng: np.random.Generator, n: int, begin: int, start: float, arms: str) -> pa.Table:
    """Rows by arithmetic on arrays: predictions, quotes, chances, a draw, and what came of it."""
    hard = rng.beta(2, 3, n)[:, None]
    quality = np.clip(
        1 - hard * np.array([0.9, 0.6, 0.4, 0.25]) + rng.normal(0, 0.02, (n, 4)), 0.01, 0.99
    )
    tokens = np.exp(rng.normal(5.5, 0.8, n))[:, None]
    expected = np.rint(tokens * np.array([400, 2000, 8000, 25000])).astype(np.int64)
    best = (quality - 5 * expected / 1e9).argmax(axis=1)
    chance = np.full((n, 4), 0.02)
    chance[np.arange(n), best] = 0.94
    chosen = (chance.cumsum(axis=1) <= rng.random(n)[:, None]).sum(axis=1).clip(0, 3)
    at = (np.arange(n), chosen)
    cost = np.rint(expected[at] * rng.lognormal(-0.1, 0.4, n)).astype(np.int64)
    label = (rng.random(n) < quality[at]).astype(float)
    unlabelled = rng.random(n) > 0.1

    def lists(values: Any) -> pa.Array:
        offsets = np.arange(0, 4 * n + 1, 4, dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))

    def word(text: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [text])

    ids = np.arange(begin, begin + n)
    columns = {
        "request_id": pa.array(ids.astype(str)),
        "request_hash": pa.array(ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)),
        "cluster": pa.array((ids // 3 * 2654435761 % 2**32).astype(np.uint32)),
        "step": pa.array(np.zeros(n, np.int16)),
        "time": pa.array(start + np.arange(n) * 86_000 / n),
        "policy": word("default@0"), "predictor": word("shipped@0"), "price_book": word("b"),
        "tags": word("[]"), "needs": word("[]"),
        "input_tokens": pa.array(rng.integers(20, 3000, n)),
        "novel": pa.array(np.zeros(n, bool)),
        "arms": word(arms), "quality": lists(quality.round(6)),
        "quality_std": lists(np.full((n, 4), 0.02)), "expected": lists(expected),
        "upper": lists(3 * expected), "propensity": lists(chance),
        "barred": lists(np.zeros((n, 4), np.uint8)), "chosen": pa.array(chosen.astype(np.int16)),
        "baseline": pa.array(expected[:, 3]), "cost": pa.array(cost),
        "latency": pa.array(rng.gamma(2, 0.4, n)),
        "billed_input": pa.array(rng.integers(20, 3000, n)),
        "billed_output": pa.array(tokens[:, 0].astype(np.int64)),
        "label": pa.array(label, mask=unlabelled),
        "stream": pa.array(np.zeros(n, bool)),
        "beside_baseline": pa.array(np.zeros(n, bool)),
        # Nobody drew a label, and no answer was looked at.
        **{name: pa.nulls(n, schema().field(name).type)
           for name in ("label_rate", "looks", "handed", "checked", "compared", "gate")},
    }  # fmt: skip
    return pa.table(columns, schema=schema())


def replayed(folder: str, points: int, engine: str, workers: int) -> dict[str, Any]:
    """Replay in this process: seconds, peak memory, and the figures."""
    ladder = ladder_of(policy(), START)
    weights = [5.0] if points == 1 else np.geomspace(0.01, 10_000, points).tolist()
    named = [
        Named(f"w{weight:g}", of_policy(ladder, Objective(cost_weight=weight)), f"{weight:g}")
        for weight in weights
    ]
    tiers = TIERS if points == 1 else ()
    if engine == "ray":
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    began = time.perf_counter()
    sums = run(folder, question_of(named, tiers, None), engine=engine)
    found = conclude(sums, "frontier")
    seconds = time.perf_counter() - began
    figures = [each.as_dict()["best"] for each in found.policies]
    return {
        "rows": sums.facts.rows, "policies": points, "engine": engine, "workers": workers,
        "seconds": seconds, "rows_per_second": sums.facts.rows / seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "figures": figures,
    }  # fmt: skip


def apart(folder: Path, points: int, engine: str = "local", workers: int = 1) -> dict[str, Any]:
    """`replayed` in a process of its own."""
    words = [sys.executable, __file__, "--measure", str(folder), str(points), engine, str(workers)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", help="where the logs are made; a temporary folder by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder, points, engine, workers = options.measure
        print(json.dumps(replayed(folder, int(points), engine, int(workers))))
        return
    report: dict[str, Any] = {"commit": commit(), "machine": machine(), "seed": options.seed}
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        sizes = [options.rows // 10, options.rows * 3 // 10, options.rows]
        for size in sizes:
            make_log(Path(place) / str(size), size, options.seed)
        report["one_policy"] = [shown(apart(Path(place) / str(size), 1)) for size in sizes]
        small = Path(place) / str(sizes[0])
        report["fifty_policies"] = shown(apart(small, 50))
        local = apart(small, 1)
        report["ray"] = []
        for workers in (1, 2):
            found = apart(small, 1, "ray", workers)
            same = found["figures"] == local["figures"]
            report["ray"].append({**shown(found), "same_figures": same})
    options.out.write_text(json.dumps(rounded(report), indent=1) + "\n")
    print(json.dumps(rounded(report), indent=1))


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """A measurement without its figures."""
    return {key: value for key, value in found.items() if key != "figures"}


if __name__ == "__main__":
    main()
