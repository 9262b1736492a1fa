"""What every figure is stamped with: the commit it was measured at, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit, marked "-dirty" where the working tree differs from it in more than figures."""
    found = _git("describe", "--always", "--abbrev=12")
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    if found.returncode:
        return "uncommitted"
    return found.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)


def machine() -> str:
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {versions}"


def rounded(value: Any) -> Any:
    """Figures with five digits, in whatever holds them."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
