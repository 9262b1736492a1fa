"""Does any bill exceed what was reserved for it? A million hostile requests through the real code.

    python benchmarks/estimate_soundness.py [--requests N] [--seed N] [--workers N] [--out FILE]

Each request (texts of all scripts, control bytes, emoji, marks that normalisation pulls apart,
tools, schemas, images, `n`, caps, service tiers, predictions) is read, planned and quoted by the
router on two deployments with prices of their own. Then a provider that is written here, and
shares no line with the router's bounds, renders the prompt in the longest way that providers are
known to, counts a token for each byte of it, fills the cap, and bills it all in one bucket or
another. What the router would charge for such a report must be no more than it would have
reserved. Real tokenizers count every twentieth prompt too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from stamp import ROOT, commit, machine

from router.dispatch.bounds import MAX_SAMPLES, input_bound, text_bound
from router.dispatch.charge import Terms, for_answer
from router.errors import InvalidRequest
from router.intake import read_request
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.planning.plan import Plan
from router.policy import load_policy
from router.predict import extract, shape_of
from router.predict.effort import Efforts
from router.prices import load_book
from router.types import Prediction

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
WEEK = 7 * 86_400

# What providers put around a prompt, in tokens: Llama 3 opens and closes a message with 5 special
# tokens beside its role; gpt-oss's own system message has 66; Anthropic's tool prompt has up to
# 804; gpt-4o-mini's largest image has 48,169 (each provider's documentation or published template).
AROUND_MESSAGE, AROUND_REQUEST, AROUND_TOOLS, LARGEST_IMAGE = 5, 66, 804, 48_169

SCRIPTS = {
    "english": "the quick brown fox jumps over lazy dogs and 42 numbers, (brackets) & more. ",
    "latin": "éàüßøñçœðþ ăâîșț ąęłż çğış",
    "cyrillic": "съешь же ещё этих мягких булок",
    "greek": "ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία",
    "arabic": "مرحبا بالعالم ﷺ ؟",
    "hebrew": "שָׁלוֹם עוֹלָם",
    "indic": "नमस्ते क़ख़ग़ தமிழ் ನಮಸ್ಕಾರ",
    "thai": "สวัสดีชาวโลก",
    "han": "天地玄黃宇宙洪荒機器學習",
    "kana": "こんにちは ｶﾀｶﾅ ㌀",
    "hangul": "안녕하세요 각",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🧑🏽‍💻😀",
    "control": "".join(map(chr, range(32))) + "\x7f\x85\u200b\u202e\ufeff",
    "symbols": "ﬃ①½™℻㎒…𝔘𝕏𝟘",
    "pulled_apart": "\U0001d160\U0001d1bc\u0958\ufb2c\u022d\u0323\u1ec3\u0330\u0344",
    "private": "\ue000\uf8ff\U000f0000\U0010fffd",
    "json": '{"a": [1, 2.5e-3, null, "\\"\\\\"]}',
    "special": "<|im_start|><|endoftext|><s>[INST]</s>\n\n\n\t\t   ",
}
MODELS = {  # one for each kind of price in the book: caches, bands, hours of the day, audio
    "caches": "anthropic/claude-haiku-4-5",
    "bands": "openai/gpt-5.4",
    "hours": "deepseek/deepseek-v4-flash",
    "audio": "gemini/gemini-2.5-flash",
}
PREDICTION = Prediction(
    *(np.full(4, value) for value in (0.8, 0.1, 300.0, 200.0, 700.0, 900.0)), novel=np.array(False)
)


# ── requests ───────────────────────────────────────────────────────────────────────────────────
class Hostile:
    """Draws requests and prices from one seeded source."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.snippets = [self._snippet() for _ in range(2_000)]
        self.ladders = [self._ladder() for _ in range(80)]

    def _snippet(self) -> str:
        rng = self.rng
        if rng.random() < 0.15:  # any code point there is
            codes = (rng.randrange(0x110000) for _ in range(rng.randint(1, 20)))
            return "".join(chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF)
        alphabet = rng.choice(list(SCRIPTS.values()))
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 60)))

    def text(self) -> str:
        rng = self.rng
        text = "".join(rng.choice(self.snippets) for _ in range(rng.choice((0, 1, 1, 2, 3, 8))))
        if rng.random() < 0.003:
            text *= rng.choice((50, 50, 400))
        if rng.random() < 0.005:
            text += chr(rng.randrange(0xD800, 0xE000))
        return text

    def messages(self) -> list[dict[str, Any]]:
        rng, messages = self.rng, []
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            role = rng.choice(("user", "user", "system", "assistant", "tool", "developer"))
            content: Any = self.text()
            if role != "assistant" and rng.random() < 0.2:
                content = [self.part() for _ in range(rng.randint(1, 3))]
            message: dict[str, Any] = {"role": role, "content": content}
            if rng.random() < 0.1:
                message["name"] = self.text()[:64]
            if role == "tool":
                message["tool_call_id"] = self.text()[:40]
            if role == "assistant" and rng.random() < 0.3:
                arguments = json.dumps(self.json(2), ensure_ascii=rng.random() < 0.5)
                function = {"name": "f", "arguments": arguments}
                message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
            messages.append(message)
        return messages

    def part(self) -> dict[str, Any]:
        draw = self.rng.random()
        if draw < 0.6:
            return {"type": "text", "text": self.text()}
        if draw < 0.9:
            url = self.rng.choice(("https://example.com/a.png", "data:image/png;base64,aGk="))
            return {"type": "image_url", "image_url": {"url": url}}
        if draw < 0.95:
            return {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
        return {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}

    def json(self, depth: int) -> Any:
        rng = self.rng
        if depth == 0 or rng.random() < 0.4:
            leaves = (self.text(), rng.randrange(-(10**30), 10**30), rng.random(), None, True, "")
            return rng.choice(leaves)
        if rng.random() < 0.5:
            return [self.json(depth - 1) for _ in range(rng.randint(0, 3))]
        return {self.text()[:30]: self.json(depth - 1) for _ in range(rng.randint(0, 3))}

    def params(self) -> dict[str, Any]:
        rng, params = self.rng, {}
        if rng.random() < 0.6:
            params["max_tokens"] = rng.choice((1, 16, 500, 4_096, 100_000, 10**18))
        if rng.random() < 0.15:
            params["max_completion_tokens"] = rng.choice((1, 300, 8_000))
        if rng.random() < 0.15:
            params["n"] = rng.choice((2, 3, MAX_SAMPLES))
        if rng.random() < 0.15:
            params["service_tier"] = rng.choice(("auto", "default", "flex", "priority"))
        if rng.random() < 0.2:
            schema = {"type": "object", "properties": self.json(4)}
            function = {"name": "f", "description": self.text(), "parameters": schema}
            params["tools"] = [{"type": "function", "function": function}] * rng.randint(1, 3)
        if rng.random() < 0.1:
            schema = {"name": "s", "schema": self.json(3)}
            params["response_format"] = {"type": "json_schema", "json_schema": schema}
        if rng.random() < 0.05:
            params["prediction"] = {"type": "content", "content": self.text()}
        if rng.random() < 0.05:
            params["audio"] = {"voice": "alloy", "format": "wav"}
        return params

    def _ladder(self) -> Ladder:
        """Two deployments: one at a price of the book, one at a price that nobody would write."""
        rng = self.rng
        tiers = {}
        for tier in ("nano", "frontier"):
            deployment: dict[str, Any] = {"model": f"openai/{tier}", "price": self._price()}
            if tier == "nano":
                deployment = {"model": rng.choice(list(MODELS.values()))}
            able = dict.fromkeys(("vision", "audio", "files", "tools"), True)
            window = rng.choice((8_000, 128_000, 1_000_000))
            deployment["capabilities"] = {
                **able, "structured_output": True, "context_window": window,
                "max_output_tokens": rng.choice((4_096, 64_000)),
            }  # fmt: skip
            if rng.random() < 0.2:
                deployment["capabilities"]["reasoning_beyond_cap"] = rng.choice((1, 30_000))
            tiers[tier] = [deployment]
        policy = {
            "version": 1, "objective": {"cost_weight": 1}, "tiers": tiers,
            "limits": {"max_output_tokens": rng.choice((500, 32_000))},
            "budgets": [{"name": "all", "limit": "1"}],
        }  # fmt: skip
        return Ladder.of(load_policy(policy), load_book(), Efforts({}))

    def _price(self) -> dict[str, Any]:
        rng = self.rng

        def usd() -> str:
            return f"{rng.choice((0, 0.000000001, 0.0375, 0.3, 2.5, 15, 75, 600)):.9f}"

        def rates() -> dict[str, str]:
            names = ["reasoning", "cache_read", "cache_write_5m", "cache_write_1h"]
            some = rng.sample(names, rng.randint(0, 4))
            return {name: usd() for name in ("input", "output", "audio_input", *some)} | (
                {"audio_output": usd()}
            )

        price: dict[str, Any] = rates()
        price["multipliers"] = {"flex": "0.5", "priority": rng.choice(("1.75", "2", "2.5"))}
        if rng.random() < 0.4:
            lengths = sorted(rng.sample((50, 400, 2_000, 20_000), rng.randint(1, 2)))
            price["above"] = [{"tokens": tokens, **rates()} for tokens in lengths]
        if rng.random() < 0.4:
            kind = {"multiplier": "0.5"} if "above" in price else rates()
            price["off_peak"] = [{"from": "16:30", "to": "00:30", **kind}]
        if rng.random() < 0.3:
            price["request"] = "0.005"
        if rng.random() < 0.3:
            price["image"] = "0.001315"
        return price


# ── the provider ───────────────────────────────────────────────────────────────────────────────
def rendered(messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> tuple[str, int]:
    """The prompt as the wordiest provider writes it, and the special tokens around its parts."""
    texts, special = [], AROUND_REQUEST
    for message in messages:
        special += AROUND_MESSAGE
        content = message["content"]
        parts = (
            [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        )
        tool = message["role"] == "tool"
        texts += [message["role"], *(json.dumps(part) if tool else part for part in parts)]
        rest = {name: message[name] for name in ("name", "tool_call_id") if name in message}
        texts += rest.values()
        if "tool_calls" in message:
            texts.append(json.dumps(message["tool_calls"]))
    asked = [params[name] for name in ("tools", "response_format") if name in params]
    texts += map(json.dumps, asked)
    special += AROUND_TOOLS if asked else 0  # litellm makes a schema one more tool
    return "".join(texts), special


def most_bytes(text: str) -> int:
    """A token for each byte, of the text as it is or as a tokenizer normalises it."""
    forms = [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFKC"))]
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def reports(tokens: int, answers: int, audio: bool) -> list[dict[str, Any]]:
    """Usage reports of so many tokens, all in one bucket: one for each pair of buckets."""
    hour = {"cache_creation_token_details": {"ephemeral_1h_input_tokens": tokens}}
    prompts: list[dict[str, Any]] = [
        {},
        {"prompt_tokens_details": {"cached_tokens": tokens}},
        {"cache_creation_input_tokens": tokens},
        {"cache_creation_input_tokens": tokens, "prompt_tokens_details": hour},
    ]
    reasoning = {"completion_tokens_details": {"reasoning_tokens": answers}}
    answered: list[dict[str, Any]] = [
        {"completion_tokens": answers},
        {"completion_tokens": answers, **reasoning},
        {"completion_tokens": 0, **reasoning},  # counted outside the completion
    ]
    if audio:
        prompts.append({"prompt_tokens_details": {"audio_tokens": tokens}})
        spoken = {"completion_tokens_details": {"audio_tokens": answers}}
        answered.append({"completion_tokens": answers, **spoken})
    base = {"prompt_tokens": tokens, "total_tokens": tokens + answers}
    return [{**base, **prompt, **answer} for prompt in prompts for answer in answered]


# ── the comparison ─────────────────────────────────────────────────────────────────────────────
def run(requests: int, seed: int, tokenizers: Sequence[Callable[[str], int]] = ()) -> Counter[str]:
    """Bill `requests` hostile requests; count what happened. `overruns` must stay 0."""
    hostile, found = Hostile(seed), Counter[str]()
    features = None
    for number in range(requests):
        messages, params = hostile.messages(), hostile.params()
        try:
            request = read_request(
                model="auto", messages=messages, params=params, max_messages=100, now=NOW
            )
        except InvalidRequest:
            found["refused"] += 1
            continue
        features = features or extract(request)  # no part of any bound
        ladder = hostile.rng.choice(hostile.ladders)
        now = NOW + hostile.rng.randrange(WEEK)
        request = replace(request, now=now)
        shape = shape_of(request.messages, request.params)
        plan = make_plan(ladder, request, shape, features, PREDICTION)
        found["requests"] += 1
        _bill(plan, hostile.rng, found)
        if tokenizers and number % 20 == 0:
            text, special = rendered(request.messages, request.params)
            text = text.encode("utf-8", "replace").decode()  # lone surrogates in JSON
            bound = text_bound(replace(shape, audio_parts=0, file_parts=0, images=0)) or 0
            for count in tokenizers:
                found["tokenized"] += 1
                found["tokens_above_bound"] += count(text) + special > bound
    return found


def _bill(plan: Plan, rng: random.Random, found: Counter[str]) -> None:
    request, index = plan.request, rng.randrange(len(plan.quotes))
    quoted, able = plan.quotes[index], plan.ladder.capabilities[index]
    if quoted.upper is None or quoted.output_cap < 1:
        found["not_priced"] += 1  # barred under a budget: nothing would be sent
        return
    text, special = rendered(request.messages, request.params)
    kinds = Counter(
        part.get("type")
        for message in request.messages
        if not isinstance(message["content"], str)
        for part in message["content"]
    )
    tokens = most_bytes(text) + special + kinds["image_url"] * LARGEST_IMAGE
    audio = bool(kinds["input_audio"] or "audio" in request.params)
    if kinds["input_audio"] or kinds["video_url"]:
        tokens = 10**9  # as much as fits
    tokens = min(tokens, able.context_window or tokens)
    rejected = request.params.get("prediction", {}).get("content", "")
    answers = quoted.output_cap + able.reasoning_beyond_cap + most_bytes(rejected)
    answers *= request.params.get("n", 1)
    arm = plan.ladder.arms[index]
    terms = Terms(
        price=plan.ladder.price(arm, request.now),
        service_tier=plan.ladder.service_tier(request, arm),
        now=request.now + rng.randrange(WEEK),  # it may settle at another hour
        reserved=quoted.upper,
        input_bound=input_bound(plan.shape, able.context_window),
        may_reason=able.reasons,
        images=plan.shape.images,
    )
    bands = [most for _, most, _ in terms.price.bands() if most] if terms.price else []
    lengths = {tokens, *(near for most in bands for near in (most, most + 1) if near < tokens)}
    dearest = 0
    for length in lengths:
        for report in rng.sample(reports(length, answers, audio), 4):
            charge = for_answer(terms, report, 0)
            assert charge.cost is not None
            found["bills"] += 1
            found["assumed"] += charge.source == "assumed"
            found["overruns"] += charge.cost > quoted.upper
            dearest = max(dearest, charge.cost)
    found["tight"] += 100 * dearest >= 99 * quoted.upper > 0
    assert terms.price is not None
    found["long"] += len(lengths) > 1
    found["samples"] += "n" in request.params


def real_tokenizers() -> dict[str, Callable[[str], int]]:
    """The tokenizers whose vocabularies litellm brings along; nothing is fetched."""
    found_at = importlib.util.find_spec("litellm")  # not imported: that takes seconds
    assert found_at is not None
    assert found_at.origin is not None
    folder = Path(found_at.origin).parent / "litellm_core_utils/tokenizers"
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken
    from tokenizers import Tokenizer

    found: dict[str, Callable[[str], int]] = {}
    for name in ("cl100k_base", "o200k_base"):
        encode = tiktoken.get_encoding(name).encode_ordinary
        found[name] = lambda text, encode=encode: len(encode(text))
    claude = Tokenizer.from_file(str(folder / "anthropic_tokenizer.json"))
    found["anthropic"] = lambda text: len(claude.encode(text).ids)
    return found


def _worker(task: tuple[int, int]) -> Counter[str]:
    requests, seed = task
    return run(requests, seed, list(real_tokenizers().values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    started = time.perf_counter()
    parts = 40
    tasks = [(options.requests // parts, options.seed + part) for part in range(parts)]
    total: Counter[str] = Counter({"overruns": 0, "tokens_above_bound": 0, "assumed": 0})
    with ProcessPoolExecutor(options.workers) as pool:
        for part, found in enumerate(pool.map(_worker, tasks), start=1):
            total.update(found)
            print(f"{part}/{parts}: {total['overruns']} overruns", flush=True)
    result = {
        "seed": options.seed,
        "commit": commit(),
        "machine": machine(),
        "tokenizers": list(real_tokenizers()),
        "seconds": round(time.perf_counter() - started),
        **{name: total[name] for name in sorted(total)},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "estimate_soundness.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if total["overruns"] or total["tokens_above_bound"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
