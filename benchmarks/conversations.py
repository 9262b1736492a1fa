"""What it is worth that a decision knows its conversation: recorded conversations, simulated bills.

    python benchmarks/conversations.py [--outcomes FOLDER] [--out FILE]

A simulation. The turns, their prompts' and answers' tokens are those that tau2-bench recorded;
which model answers each is decided by the router itself under shipped policies, and the bill
follows the providers' documented caching at the price book's rates: a prefix of 1,024 tokens or
more that the same model read at most five minutes before is read from its cache, in blocks of 128,
and at Anthropic the rest is written to it. Every model is taken to answer in the recorded number of
tokens, so quality is the predictor's own and no measurement. The recordings leave out the agent's
instructions: text of the recorded size stands for them. A call comes every 20 seconds, and where it
says so every 400. MT-Bench's conversations have two turns and are too short for any cache, so they
are replayed as they are and behind 2,000 tokens of instructions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from scripted_conversation import EVERY, KINDS, RULES, script
from stamp import ROOT, commit, machine, rounded

from router.conversations.memory import Conversations
from router.conversations.state import Settled
from router.decide import Objective
from router.money import NANO_PER_USD
from router.planning.deciding import decide
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.policy import load_policy
from router.policy.conversations import CompactionOptions
from router.predict import Predictor, extract, load_predictor, shape_of
from router.prices import Price, load_book
from router.prices.caching import lifetime, needs_marks
from router.prices.price import cost
from router.types import (
    Arm,
    AttemptRow,
    Decision,
    Features,
    Prediction,
    Request,
    Room,
    Shape,
    Usage,
)

NOW = 1_790_000_000.0  # a day on which every price of the shipped policies is known
PER_CALL, SLOW = 20.0, 400.0  # seconds
INSTRUCTIONS = 2_000  # tokens
BLOCK, LEAST = 128, 1024  # tokens (OpenAI, "Prompt caching")
WEIGHTS = (0.25, 1.0, 4.0)  # multiples of the policy's own cost weight


@dataclass(frozen=True)
class Call:
    """One recorded call: the messages before it, its prompt's and its answer's tokens."""

    messages: list[dict[str, Any]]
    prompt: int
    answer: int
    seen: tuple[Shape, Features, Prediction] | None = None  # of it, the same under every policy


def conversations(path: Path) -> Iterator[list[Call]]:
    """The recorded conversations whose calls have their usage."""
    for row in pq.read_table(path).to_pylist():
        history: list[dict[str, Any]] = []
        calls: list[Call] = []
        number = 0
        for message in json.loads(row["messages"]):
            used = message.get("usage")
            if used:
                calls.append(Call(list(history), used["prompt_tokens"], used["completion_tokens"]))
            plain = {"role": message["role"], "content": message.get("content") or ""}
            if message.get("tool_calls"):
                plain["tool_calls"] = [
                    {
                        "id": f"call_{number + at}",
                        "type": "function",
                        "function": {"name": c["name"], "arguments": json.dumps(c["arguments"])},
                    }
                    for at, c in enumerate(message["tool_calls"])
                ]
                number += len(plain["tool_calls"])
                waiting = [call["id"] for call in plain["tool_calls"]]
            if message["role"] == "tool":
                plain["tool_call_id"] = waiting.pop(0) if waiting else f"call_{number}"
            history.append(plain)
        if calls:
            yield calls


def two_turns(path: Path) -> Iterator[list[Call]]:
    """MT-Bench's conversations as gpt-4-1106-preview had them."""
    found: dict[str, list[Any]] = {}
    for row in pq.read_table(path).to_pylist():
        if row["model"] == "gpt-4-1106-preview":
            found.setdefault(row["conversation_id"], []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row["turn"])
        yield [
            Call(json.loads(row["prompt"]), row["input_tokens"], row["output_tokens"])
            for row in rows
        ]


def behind(calls: Sequence[Call], tokens: int) -> list[Call]:
    """The calls with room for instructions of so many tokens before them."""
    return [Call(call.messages, call.prompt + tokens, call.answer) for call in calls]


def with_instructions(calls: Sequence[Call], predictor: Predictor) -> list[Call]:
    """The calls with a system prompt of the size that was recorded, marked to be cached; none where
    what was recorded is no more than the messages."""
    lacking = calls[0].prompt - shape_of(calls[0].messages, {}).input_tokens
    per_text = shape_of([{"role": "user", "content": RULES * 50}], {}).input_tokens / 50
    text = RULES * round(lacking / per_text)
    mark = {"cache_control": {"type": "ephemeral"}}
    system = [{"role": "system", "content": [{"type": "text", "text": text, **mark}]}]
    found = []
    for call in calls:
        messages = [*(system if text else ()), *call.messages]
        features = extract(Request("", messages, {}, now=NOW))
        seen = shape_of(messages, {}), features, predictor(features)
        found.append(Call(messages, call.prompt, call.answer, seen))
    return found


@dataclass
class Provider:
    """What each model's cache holds of one conversation: its tokens, and when they were read."""

    held: dict[str, tuple[int, float]] = field(default_factory=dict)

    def usage(self, model: str, call: Call, now: float) -> Usage:
        tokens, read_at = self.held.get(model, (0, 0.0))
        alive = tokens >= LEAST and now - read_at < lifetime(model)
        read = min(tokens, call.prompt) // BLOCK * BLOCK if alive else 0
        self.held[model] = (call.prompt, now)
        written = call.prompt - read if needs_marks(model) and call.prompt >= LEAST else 0
        return Usage(
            input=call.prompt - read - written, cache_read=read, cache_write_5m=written,
            output=call.answer,
        )  # fmt: skip


def settled(
    request: Request, tokens: int, arm: Arm, usage: Usage, bill: int, price: Price, now: float
) -> Settled:
    """An answer as a conversation's memory is told of it. `tokens`: estimated, of its prompt."""
    row = AttemptRow(
        request.request_id, 1, now, 0, arm.name, arm.tier, arm.model, 1.0, "answered", 0,
        bill, "computed", "", 0.0, None, usage.input_tokens, usage.output_tokens,
    )  # fmt: skip
    return Settled(request, arm, row, usage, tokens, price, stood_in=False)


class Simulation:
    """One policy over all conversations, in one way of deciding."""

    def __init__(self, policy: Any, predictor: Predictor, weight: float, seconds: float):
        self._ladder = Ladder.of(policy, load_book(), predictor.efforts)
        self._policy = policy
        self._objective, self._seconds = Objective(cost_weight=weight), seconds
        self.spent, self.quality, self.calls, self.switches = 0, 0.0, 0, 0
        self.tiers: dict[str, int] = {}

    def run(self, calls: Sequence[Call], name: str, tier: str | None) -> None:
        """Parameters: `name`, the conversation's, "" where none is told; `tier`, always taken."""
        own: Any = None
        memory = Conversations(self._policy, load_book(), own)
        provider, last = Provider(), ""
        for number, call in enumerate(calls):
            now = NOW + number * self._seconds
            request = Request(
                f"{name}{number}", call.messages, {}, now=now, conversation_id=name or None
            )
            request = memory.recall(request)
            assert call.seen is not None
            plan = make_plan(self._ladder, request, *call.seen)
            if tier is None:
                decision = decide(plan, Room(), self._objective)
            else:
                at = next(i for i, arm in enumerate(self._ladder.arms) if arm.tier == tier)
                arm = self._ladder.arms[at]
                decision = Decision(at, arm, None, None, lambda: ("", ()))
            arm = decision.arm
            usage = provider.usage(arm.model, call, now)
            price = self._ladder.price(arm, now)
            assert price is not None
            bill = cost(price, usage, service_tier=None, now=now)
            if name:
                tokens = plan.shape.input_tokens
                memory.answered(settled(plan.request, tokens, arm, usage, bill, price, now))
            self.spent += bill
            self.quality += float(plan.options.quality[0, decision.chosen])
            self.switches += bool(last) and last != arm.name
            self.calls, last = self.calls + 1, arm.name
            self.tiers[arm.tier] = self.tiers.get(arm.tier, 0) + 1

    def figures(self) -> dict[str, Any]:
        dollars, quality = self.spent / NANO_PER_USD, self.quality / self.calls
        weight = self._objective.cost_weight or 0.0
        return {
            "usd": dollars,
            "predicted_quality": quality,
            "value_per_call": quality - weight * dollars / self.calls,
            "switches_per_100_calls": 100 * self.switches / self.calls,
            "calls_by_tier": dict(sorted(self.tiers.items())),
        }


def study(name: str, recorded: Sequence[Sequence[Call]], factor: float, seconds: float) -> Any:
    """Dollars of one policy with and without what it is told of conversations."""
    predictor = load_predictor()
    base = load_policy(name).model_copy(update={"budgets": (), "pacing": None})
    weight = factor * (base.objective.cost_weight or 0.0)
    found: dict[str, Any] = {"cost_weight": weight}
    ways: list[tuple[str, bool, int, str | None]] = [
        ("each turn alone", False, 0, None),
        ("cache priced", True, 0, None),
        ("cache priced, escalation sticks for 2 turns", True, 2, None),
        *((f"always {tier}", False, 0, tier) for tier in base.tiers.present),
    ]
    for label, told, sticky, tier in ways:
        options = base.conversations.model_copy(update={"sticky_turns": sticky})
        policy = base.model_copy(update={"conversations": options})
        simulation = Simulation(policy, predictor, weight, seconds)
        for number, calls in enumerate(recorded):
            simulation.run(calls, f"c{number}" if told else "", tier)
        found[label] = simulation.figures()
    return found


# ── compaction ─────────────────────────────────────────────────────────────────────────────────
def compaction(
    policy_name: str,
    kind: str,
    turns: int,
    options: Mapping[str, Any] | None,
    sentences: int = 12,
) -> dict[str, Any]:
    """A scripted conversation's bill at a policy's baseline, and what it lost for later turns."""
    base = load_policy(policy_name)
    policy = base.model_copy(
        update={"compaction": None if options is None else CompactionOptions(**options)}
    )
    own = None
    ladder = Ladder.of(policy, load_book(), load_predictor().efforts)
    arm = ladder.arms[ladder.baseline_arms[0]]
    memory: Any = Conversations(policy, load_book(), own)  # type: ignore[arg-type]
    told, provider = script(kind, turns, sentences=sentences), Provider()
    spent, lost, longest, times, before = 0, 0, 0, 0, None
    for n in range(turns):
        now = NOW + n * PER_CALL
        request = Request(f"r{n}", told.until(n), {}, now=now, conversation_id="c")
        walk = memory.entering(request)
        try:
            next(walk)
            raise AssertionError("an extraction calls nobody")
        except StopIteration as stop:
            request = stop.value
        shape = shape_of(request.messages, {})
        how = memory._compacted.get(("c", ()))
        if how is not before:
            times, before = times + 1, how
            kept = shape_of(told.messages[:1], {}).input_tokens
            provider.held = {m: (kept, t) for m, (_, t) in provider.held.items()}
        usage = provider.usage(arm.model, Call([], shape.input_tokens, 150), now)
        price = ladder.price(arm, now)
        assert price is not None
        bill = cost(price, usage, service_tier=None, now=now)
        memory.answered(settled(request, shape.input_tokens, arm, usage, bill, price, now))
        spent, longest = spent + bill, max(longest, shape.input_tokens)
        wanted = told.asked(n)
        lost += wanted is not None and wanted not in json.dumps(request.messages)
    return {
        "model": arm.model, "usd": spent / NANO_PER_USD, "longest_prompt_tokens": longest,
        "compactions": times, "asked_later": turns // EVERY, "lost": lost,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT.parent / "shared/outcomes")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/conversations.json")
    options = parser.parse_args()
    results: dict[str, Any] = {"commit": commit(), "machine": machine(), "simulated": __doc__}
    path = options.outcomes / "tau2_bench.parquet"
    if path.exists():
        predictor = load_predictor()
        recorded = [with_instructions(calls, predictor) for calls in conversations(path)]
        lengths = [len(calls) for calls in recorded]
        results["tau2_bench"] = {
            "conversations": len(recorded),
            "calls": sum(lengths),
            "calls_still_to_come": residual(lengths),
        }
        for name in ("openai", "anthropic", "mixed"):
            for factor in WEIGHTS:
                found = study(name, recorded, factor, PER_CALL)
                results["tau2_bench"][f"{name}, cost weight times {factor:g}"] = found
                usd = {k: v["usd"] for k, v in found.items() if k != "cost_weight"}
                print(name, factor, usd, flush=True)
        # At its own weight all of these long conversations go to one tier.
        results["tau2_bench"]["mixed, cost weight times 0.25, slow"] = study(
            "mixed", recorded, 0.25, SLOW
        )
    else:
        results["tau2_bench"] = f"skipped: {path} is absent"
    path = options.outcomes / "routellm_mtbench.parquet"
    if path.exists():
        results["routellm_mtbench"] = mtbench(list(two_turns(path)))
    else:
        results["routellm_mtbench"] = f"skipped: {path} is absent"
    rule = {"min_tokens": 8000, "keep_turns": 4, "target": 0.25}
    for name in ("openai", "anthropic"):
        for kind in KINDS:
            found = {
                "without": compaction(name, kind, 200, None),
                "with": compaction(name, kind, 200, rule),
            }
            results[f"compaction, 200 scripted turns, {kind}, {name}"] = found
            print(name, kind, found, flush=True)
    options.out.write_text(json.dumps(rounded(results), indent=1, ensure_ascii=False) + "\n")


def mtbench(recorded: Sequence[Sequence[Call]]) -> dict[str, Any]:
    """Dollars of two-turn conversations as they are, and behind an application's instructions."""
    predictor = load_predictor()
    found: dict[str, Any] = {
        "conversations": len(recorded), "calls": sum(len(calls) for calls in recorded)
    }  # fmt: skip
    for tokens in (0, INSTRUCTIONS):
        calls = [with_instructions(behind(each, tokens), predictor) for each in recorded]
        for name in ("openai", "anthropic", "mixed"):
            done = study(name, calls, 1.0, PER_CALL)
            found[f"{name}, {tokens} tokens of instructions"] = done
            print("mtbench", name, tokens, {k: v["usd"] for k, v in done.items()
                                            if k != "cost_weight"}, flush=True)  # fmt: skip
    return found


def residual(lengths: Sequence[int]) -> dict[str, float]:
    """Mean number of calls still to come after so many, of the conversations that got there."""
    found = {}
    for n in (1, 3, 5, 8, 12, 16):
        left = [length - n for length in lengths if length >= n]
        if left:
            found[str(n)] = sum(left) / len(left)
    return found


if __name__ == "__main__":
    main()
