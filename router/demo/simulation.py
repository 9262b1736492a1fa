"""What the simulated provider draws: a pure function of seed, prompt and tier.

The curves in `curves.json` are fitted on recorded outcomes by `benchmarks/fit_demo_curves.py`;
speeds and reasoning tokens are assumptions, listed there under `assumed`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any

MODEL_PREFIX = "sim-"
UNKNOWN_DIFFICULTY = 0.5  # of a prompt that is not one of the demo's own
LATENCY_SCALE = 25  # simulated seconds that pass in one real second
FAULTS = ((0.02, 429), (0.035, 500))  # cumulative shares of first attempts that fail so
RETRY_AFTER_SECONDS = 1
BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 3  # a chat template's own tokens around each message
MAX_OUTPUT_TOKENS = 8192

# The provider's own list prices, nano-USD per token: (input, output). 1 USD per million tokens is
# 1,000 nano-USD per token.
PRICES: Mapping[str, tuple[int, int]] = {
    "nano": (200, 1_250),
    "mini": (750, 4_500),
    "mid": (2_500, 15_000),
    "frontier": (10_000, 50_000),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One demo prompt. `difficulty`, 0 to 1, is for the simulated provider alone."""

    id: str
    language: str
    task: str
    difficulty: float
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """One simulated answer: is it good, how long is it (tokens), when does it come (seconds)."""

    success: bool
    visible_tokens: int
    reasoning_tokens: int
    first_token_s: float
    seconds: float
    difficulty: float

    @property
    def output_tokens(self) -> int:
        return self.visible_tokens + self.reasoning_tokens

    def bill(self, tier: str, input_tokens: int) -> int:
        """Nano-USD of this answer at the provider's list prices."""
        input_price, output_price = PRICES[tier]
        return input_tokens * input_price + self.output_tokens * output_price


def _data(name: str) -> str:
    return files("router.demo").joinpath(name).read_text(encoding="utf-8")


@cache
def prompts() -> tuple[Prompt, ...]:
    """Return the demo's prompts, in the order of the file."""
    return tuple(Prompt(**json.loads(line)) for line in _data("prompts.jsonl").splitlines())


@cache
def curves() -> Mapping[str, Any]:
    """Return the fitted curves with where they come from."""
    document: dict[str, Any] = json.loads(_data("curves.json"))
    return document


def success_probability(tier: str, difficulty: float) -> float:
    """Return P(good answer) of a tier at a difficulty, both 0 to 1."""
    curve = curves()["tiers"][tier]["success"]
    return 1 / (1 + math.exp(-(float(curve["intercept"]) + float(curve["slope"]) * difficulty)))


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, a list of parts, or None."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return ""


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the hash that names a prompt: of its last user message."""
    users = [text_of(message.get("content")) for message in messages if message["role"] == "user"]
    return hashlib.sha256((users[-1] if users else "").encode("utf-8", "replace")).hexdigest()


def count_input_tokens(body: Mapping[str, Any]) -> int:
    """Return the input tokens that the provider bills for a request body."""
    texts = [text_of(message.get("content")) for message in body["messages"]]
    texts += [
        json.dumps(extra, ensure_ascii=False)
        for extra in (
            *(message.get("tool_calls") for message in body["messages"]),
            body.get("tools"),
        )
        if extra
    ]
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return -(-size // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * len(body["messages"])


class Simulation:
    """Draws answers. The same seed, prompt and tier always draw the same answer."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._difficulty = {prompt_key(prompt.messages): prompt.difficulty for prompt in prompts()}

    def _uniform(self, *names: str) -> float:
        """Return a number strictly between 0 and 1 that only the seed and the names decide."""
        digest = hashlib.sha256("\n".join((str(self.seed), *names)).encode()).digest()
        return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48

    def difficulty(self, key: str) -> float:
        return self._difficulty.get(key, UNKNOWN_DIFFICULTY)

    def draw(self, key: str, tier: str, cap: int | None = None) -> Draw:
        """Draw a tier's answer to the prompt named `key`, at most `cap` output tokens long.

        An answer that the cap cuts short is not good.
        """
        difficulty = self.difficulty(key)
        curve = curves()["tiers"][tier]
        length = curve["output_tokens"]
        z = NormalDist().inv_cdf(self._uniform(key, tier, "length"))
        log_tokens = length["log_mean"] + length["log_slope"] * difficulty + length["log_sigma"] * z
        visible = max(1, round(math.exp(log_tokens)))
        reasoning = round(visible * curve["reasoning_per_token"] * difficulty)
        limit = min(MAX_OUTPUT_TOKENS, MAX_OUTPUT_TOKENS if cap is None else cap)
        reasoning_within = min(reasoning, limit)
        visible_within = min(visible, limit - reasoning_within)
        complete = visible + reasoning <= limit
        speed = curve["speed"]
        first = speed["first_token_s"] + reasoning_within / speed["tokens_per_s"]
        return Draw(
            success=complete
            and self._uniform(key, tier, "success") < success_probability(tier, difficulty),
            visible_tokens=visible_within,
            reasoning_tokens=reasoning_within,
            first_token_s=first,
            seconds=first + visible_within / speed["tokens_per_s"],
            difficulty=difficulty,
        )

    def fault(self, key: str, tier: str) -> int | None:
        """Return the HTTP status with which the first attempt fails, or None."""
        drawn = self._uniform(key, tier, "fault")
        return next((status for share, status in FAULTS if drawn < share), None)
