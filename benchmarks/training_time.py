"""Time `router train` as a user runs it: 10,000 queries and four tiers, in a process of its own.

    python benchmarks/training_time.py [--outcomes DIR] [--queries N] [--seed N] [--out FILE]

The queries are those of two recorded ladders; where they are too few, the first ones come again
with a suffix, as questions of their own. Exit code 1 of the command (not better than the shipped
model, which has seen these very questions) is no failure here: only time and memory are read.
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

import pyarrow.parquet as pq
from predictor_data import LADDERS
from stamp import ROOT, commit, machine

SOURCES = ("mmlu_pro_a", "zeroeval")
COMMAND = "import sys; from router.cli import main; main(sys.argv[1:])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/training_time.json")
    options = parser.parse_args()
    queries = read(options.outcomes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.jsonl"
        write(file, queries, options.queries)
        arguments = [
            *("train", str(file), "--out", f"{folder}/model", "--seed", str(options.seed)),
            *("--ladder", "nano=nano,mini=mini,mid=mid,frontier=frontier", "--json"),
        ]
        load = os.getloadavg()[0]
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
        found = json.loads(done.stdout) if done.returncode in (0, 1) and done.stdout else {}
        if "rows" not in found:
            sys.exit(done.stdout + done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = {
        "protocol": {
            "seed": options.seed,
            "commit": commit(),
            "machine": machine(),
            "load_before": round(load, 2),
            "sources": list(SOURCES),
        },
        "queries": found["rows"],
        "different_queries": len(queries),
        "tiers": len(found["tiers"]),
        "fitted": found["fitted"],
        "judged": found["judged"],
        "learning_curve_rows": [point["rows"] for point in found["learning_curve"]],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mb": round(used.ru_maxrss / 1024),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def read(folder: Path) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """The prompt of each query, and each tier's row."""
    found = []
    for source in SOURCES:
        tier_of = {model: tier for tier, model in LADDERS[source].items()}
        columns = ["query_id", "prompt", "model", "score", "input_tokens", "output_tokens"]
        table = pq.read_table(
            folder / f"{source}.parquet",
            columns=columns,
            filters=[("model", "in", list(tier_of))],
        )
        queries: dict[str, dict[str, dict[str, Any]]] = {}
        for row in table.to_pylist():
            queries.setdefault(row["query_id"], {})[tier_of[row["model"]]] = row
        found += [
            (next(iter(rows.values()))["prompt"], rows)
            for rows in queries.values()
            if len(rows) == len(tier_of)
        ]
    return found


def write(file: Path, queries: list[tuple[str, dict[str, dict[str, Any]]]], count: int) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            prompt, rows = queries[number % len(queries)]
            again = number // len(queries)
            asked = f"{prompt}\nVariant {again} of question {number}." if again else prompt
            for tier, row in rows.items():
                answer = {key: row[key] for key in ("score", "input_tokens", "output_tokens")}
                record = {"query_id": f"q{number}", "prompt": asked, "model": tier, **answer}
                lines.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
