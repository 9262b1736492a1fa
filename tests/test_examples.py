"""Each example runs as it stands, against a local server in OpenAI's place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.provider import Provider, ok

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "wrap_a_client.py": "a fine answer",
    "shared_budget.py": "afternoon: $",
    "streaming.py": "part 0 part 1 part 2",
    "asynchronous.py": "infinitely many primes",
    "own_rule.py": "by rule contracts",
    "feedback.py": "answers judged good: 50%",
    "deadline.py": "at the flex price",
    "judge_a_sample.py": "2 of 2 at least as good",
}
COLD = "wrap_a_client.py"  # this one imports litellm itself, which takes seconds


def test_every_example_is_run_here() -> None:
    elsewhere = {"local_model.py"}  # with a real model: tests/test_local_model.py
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAYS, *elsewhere}


@pytest.mark.parametrize("name", sorted(SAYS))
def test_the_example_runs(name: str, provider: Provider, tmp_path: Path) -> None:
    if name == "feedback.py":
        provider.default = ok(text="42")
    if name == "judge_a_sample.py":
        provider.default = ok(text="TIE")
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "sk-example",
        "OPENAI_BASE_URL": provider.url,
        "PYTHONPATH": str(EXAMPLES.parent),
    }
    file = EXAMPLES / name
    if name == COLD:
        done = subprocess.run(
            [sys.executable, str(file)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        code, said, error = done.returncode, done.stdout, done.stderr
    else:
        program = warm.start(
            file.read_text("utf-8"), name=str(file), folder=tmp_path, environment=environment
        )
        code, said, error = program.communicate()
    assert code == 0, error
    assert SAYS[name] in said
    assert {path for path, _, _ in provider.wire} == {"/v1/chat/completions"}
    assert all(headers["authorization"] == "Bearer sk-example" for _, headers, _ in provider.wire)
