"""A machine without time-zone data, as small containers and Windows are."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT = """
import sys
sys.modules["tzdata"] = None  # not installed
from router import load_policy
from router.errors import RouterError
from router.ledger import open_ledger
from router.prices import load_book
from router.types import Budget
asked = {
    "policy": lambda: load_policy("default"),
    "prices": load_book,
    "ledger": lambda: open_ledger("sqlite://", [Budget("d", 1, window="day", zone=sys.argv[2])]),
}
try:
    asked[sys.argv[1]]()
except RouterError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("what", "zone", "kind"),
    [
        ("policy", "UTC", "PolicyError"),
        ("prices", "UTC", "ConfigurationError"),
        ("ledger", "UTC", "ConfigurationError"),
        ("ledger", "Europe/Berlin", "ConfigurationError"),
    ],
)
def test_without_time_zone_data_the_error_says_what_to_install(
    what: str, zone: str, kind: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, what, zone],
        env={**os.environ, "PYTHONTZPATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(kind)
    assert f"{zone!r} is unknown, as this machine has no time-zone data" in done.stdout
    assert "pip install tzdata" in done.stdout


def test_an_install_has_time_zones_on_any_machine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [found] = [each for each in project["dependencies"] if each.startswith("tzdata")]
    assert ";" not in found  # whatever the platform
