"""How often a harmless change of the prompt changes the tier.

    python benchmarks/robustness.py [--policy P ...] [--seed N]

Every prompt is our own: the judged prompts, the demo's, and pairs of paraphrases. Each is routed
before and after a change (typing errors, case, spacing, a polite frame, a paraphrase, a system
prompt of 2,000 tokens); a flip is a change of the chosen tier. Of paraphrases there are three sets
of pairs: "paraphrase" and "paraphrase held out", which took no part in anything, and "paraphrase
dev", which choices were made by.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import beta
from stamp import ROOT, commit, machine

from router import Router
from router.demo.simulation import prompts
from router.predict import shape_of

PAIRS = {
    "paraphrase": "paraphrases.jsonl",
    "paraphrase held out": "paraphrases_held_out.jsonl",
    "paraphrase dev": "paraphrases_dev.jsonl",
}
# All that are shipped but `paced`, whose weight hangs on the budget and the hour.
POLICIES = (
    "default", "frugal", "quality", "openai", "anthropic", "google", "mixed", "self-hosted",
)  # fmt: skip
_TYPING_ERRORS = 0.05  # of the words, and at least one
_SYSTEM_TOKENS = 2000
_RULES = """You are the assistant of a garden centre. Be friendly and brief. Never promise delivery
dates; name the branch that a customer should call. Prices include tax. If you are unsure, say so.
Prove nothing, translate nothing unless asked, and keep the customer's language. """


def typing_errors(text: str, rng: random.Random) -> str:
    """Swap, drop or double a letter inside one in twenty words."""
    words = text.split(" ")
    longer = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not longer:
        return text
    for i in (
        rng.sample(longer, max(1, round(_TYPING_ERRORS * len(words))))
        if len(longer) > 1
        else longer
    ):
        word = words[i]
        at = rng.randrange(1, len(word) - 1)
        kind = rng.choice(("swap", "drop", "double"))
        if kind == "swap":
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif kind == "drop":
            word = word[:at] + word[at + 1 :]
        else:
            word = word[:at] + word[at] + word[at:]
        words[i] = word
    return " ".join(words)


def spacing(text: str, rng: random.Random) -> str:
    """Double some spaces, and end with a line."""
    return "".join(c * 2 if c == " " and rng.random() < 0.2 else c for c in text) + "\n"


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "typing errors": typing_errors,
    "lower case": lambda text, rng: text.lower(),
    "spacing": spacing,
    "polite frame": lambda text, rng: f"Could you please help me with this? {text}",
    "thanks": lambda text, rng: f"{text} Thanks!",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/robustness.json")
    options = parser.parse_args()
    judged = [json.loads(line) for line in _lines("beliefs.jsonl")]
    texts = [b["text"] for b in judged] + [p.messages[-1]["content"] for p in prompts()]
    pairs = {name: [json.loads(line) for line in _lines(file)] for name, file in PAIRS.items()}
    results: dict[str, object] = {
        "seed": options.seed,
        "commit": commit(),
        "machine": machine(),
        "prompts": len(texts),
        "pairs": {name: len(found) for name, found in pairs.items()},
    }
    for name in options.policy or POLICIES:
        with Router(name, store="sqlite://") as router:
            results[name] = flips(router, texts, pairs, options.seed)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


def flips(
    router: Router, texts: list[str], pairs: dict[str, list[dict[str, str]]], seed: int
) -> dict[str, Any]:
    """The share of prompts whose tier changes, by kind of change."""

    def tier(text: str, system: str | None = None) -> str:
        said = [{"role": "system", "content": system}] if system else []
        return router.explain([*said, {"role": "user", "content": text}]).arm.tier

    rng = random.Random(seed)
    before = [tier(text) for text in texts]
    found: dict[str, Any] = {}
    for name, change in CHANGES.items():
        after = [tier(change(text, rng)) for text in texts]
        found[name] = _share(before, after)
    for name, some in pairs.items():
        flipped = sum(tier(pair["a"]) != tier(pair["b"]) for pair in some)
        found[name] = round(flipped / len(some), 4)
        found[f"{name}, 95%"] = interval(flipped, len(some))
    system = _RULES
    while shape_of([{"role": "system", "content": system}], {}).input_tokens < _SYSTEM_TOKENS:
        system += _RULES
    found["system prompt"] = _share(before, [tier(text, system) for text in texts])
    print(f"{router.policy.name}: {found}", flush=True)
    return found


def interval(count: int, of: int) -> list[float]:
    """The exact 95% interval of a share (Clopper and Pearson 1934)."""
    low = beta.ppf(0.025, count, of - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, of - count) if count < of else 1.0
    return [round(float(low), 4), round(float(high), 4)]


def _share(before: list[str], after: list[str]) -> float:
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    return round(changed / len(before), 4)


def _lines(name: str) -> list[str]:
    return (ROOT / "benchmarks" / name).read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    main()
