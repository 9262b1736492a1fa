"""Time `import router` against `import litellm`, each in processes of its own, in turn.

python benchmarks/import_time.py [--runs N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from stamp import ROOT, commit, machine

TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def seconds(module: str) -> float:
    """Return how long importing `module` takes in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(module)],
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/import_time.json")
    options = parser.parse_args()
    pairs = [(seconds("router"), seconds("litellm")) for _ in range(options.runs)]
    results = {
        "commit": commit(),
        "machine": machine(),
        "runs": options.runs,
        "router_ms": round(1000 * statistics.median(mine for mine, _ in pairs), 2),
        "litellm_ms": round(1000 * statistics.median(theirs for _, theirs in pairs), 1),
        "ratio": round(statistics.median(theirs / mine for mine, theirs in pairs)),
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
