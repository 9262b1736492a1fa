"""A conversation: what its caches are worth to a decision, and how long it sticks to a tier."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.conversations.state import Answer, after, cache_use, digests, is_marked, turn_of
from router.errors import BudgetExceeded, PolicyError, ProviderError
from router.policy import load_policy
from router.prices import PriceEntry, quote, to_price
from router.prices.caching import family, lifetime, needs_marks
from router.turns import Conversation, Turn
from router.types import Usage
from tests.conftest import MakeRouter, ladder
from tests.provider import USAGE, Provider, ok, status

SYSTEM = {"role": "system", "content": "You sell tickets. " * 40}
LONG = "The itinerary, leg by leg: " + "departs 10:45, arrives 12:05; " * 1500


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def usage(prompt: int, *, read: int = 0, written: int = 0) -> dict[str, Any]:
    return {
        **USAGE,
        "prompt_tokens": prompt,
        "total_tokens": prompt + 10,
        "prompt_tokens_details": {"cached_tokens": read},
        "cache_creation_input_tokens": written,
    }


def reply_to(answer: Any) -> dict[str, Any]:
    return said("assistant", answer.choices[0].message.content)


class Clock:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


# ── the rules, without a wire ──────────────────────────────────────────────────────────────────
def an_answer(**changes: Any) -> Answer:
    messages = changes.pop("history", [said("user", "hello")])
    facts: dict[str, Any] = {
        "request_id": "r1",
        "arm": "mini/0:m",
        "model": "m",
        "tier": 1,
        "time": 1000.0,
        "tokens": 5000,
        "messages": len(messages),
        "digest": digests(messages, {}, (len(messages),))[len(messages)],
        "usage": None,
        "seconds": 300.0,
        "fills_itself": True,
        "expected": 0,
    }
    return Answer(**{**facts, **changes})


def test_a_cache_counts_while_it_lives_and_the_history_begins_as_it_did() -> None:
    history = [said("user", "hello"), said("assistant", "hi")]
    state = after(None, an_answer(history=history), 2)
    longer = [*history, said("user", "more")]
    assert turn_of(state, longer, {}, 1299.0).warm == {"mini/0:m": 5000}
    assert turn_of(state, longer, {}, 1300.0).warm == {}
    assert turn_of(state, [said("user", "other"), *longer[1:]], {}, 1001.0).warm == {}
    assert turn_of(state, history[:1], {}, 1001.0).warm == {}
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert turn_of(state, longer, tools, 1001.0).warm == {}  # tools come first in the prompt


def test_a_mark_that_moves_from_turn_to_turn_changes_nothing_of_what_is_cached() -> None:
    def part(**more: Any) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "text", "text": "hello", **more}]}

    mark = {"cache_control": {"type": "ephemeral"}}
    assert digests([part(**mark)], {}, (1,)) == digests([part()], {}, (1,))
    assert is_marked([part(**mark)], {})
    assert is_marked([], {"tools": [mark]})
    assert not is_marked([part()], {"tools": [{}]})


def test_a_cache_that_has_to_be_asked_holds_what_the_provider_reported() -> None:
    marked = an_answer(fills_itself=False, usage=Usage(input=100, cache_write_5m=300, output=9))
    state = after(None, marked, 2)
    assert state.caches["mini/0:m"].tokens == 3750  # three quarters of the estimate
    assert state.writing == {"mini/0:m"}
    assert after(None, an_answer(fills_itself=False), 2).caches["mini/0:m"].tokens == 0
    hour = Usage(input=100, cache_write_1h=300)
    kept = after(None, an_answer(fills_itself=False, usage=hour), 2).caches["mini/0:m"]
    assert kept.until == 1000.0 + 3600


def test_a_cache_that_was_missed_is_not_counted_on_until_it_is_hit() -> None:
    miss, hit = Usage(input=5000), Usage(input=1000, cache_read=4000)
    state = after(None, an_answer(usage=miss), 2)
    assert state.caches["mini/0:m"].tokens == 5000  # nothing had been expected yet
    state = after(state, an_answer(request_id="r2", usage=miss, expected=5000), 2)
    assert state.caches["mini/0:m"].tokens == 0
    state = after(state, an_answer(request_id="r3", usage=miss), 2)
    assert state.caches["mini/0:m"].tokens == 0
    state = after(state, an_answer(request_id="r4", usage=hit), 2)
    assert state.caches["mini/0:m"].tokens == 5000


def test_an_escalation_holds_for_so_many_turns_and_counts_several_answers_as_one() -> None:
    state = after(None, an_answer(), 2)
    state = after(state, an_answer(request_id="r2"), 2)
    state = after(state, an_answer(request_id="r2", tier=3, arm="frontier/0:f", model="f"), 2)
    assert (state.turns, state.floor, state.floor_until) == (2, 3, 4)
    assert turn_of(state, [], {}, 1001.0).floor == 3
    state = after(state, an_answer(request_id="r3", tier=3), 2)
    assert turn_of(state, [], {}, 1001.0).floor_turns == 1
    state = after(state, an_answer(request_id="r4", tier=3), 2)
    assert turn_of(state, [], {}, 1001.0).floor == -1


def test_a_first_answer_and_one_by_chance_or_outage_are_no_escalation() -> None:
    assert after(None, an_answer(tier=3), 2).floor == -1
    state = after(None, an_answer(), 2)
    assert after(state, an_answer(request_id="r2", tier=3, escalates=False), 2).floor == -1
    assert after(state, an_answer(request_id="r2", tier=3), 0).floor == -1


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(0, 400), st.booleans()),
        max_size=40,
    )
)
def test_whatever_comes_a_conversation_stays_small_and_its_caches_alive(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    state: Conversation | None = None
    now = 0.0
    for number, (arm, tier, wait, same) in enumerate(steps):
        now += wait
        turns = 0 if state is None else state.turns
        last = "" if state is None else state.request_id
        name = last if same and state is not None else f"r{number}"
        state = after(state, an_answer(request_id=name, arm=f"a{arm}", tier=tier, time=now), 3)
        assert state.turns == turns + (name != last or number == 0)
        assert len(state.caches) <= 8
        assert all(cached.until > now for cached in state.caches.values())
        assert turn_of(state, [], {}, now).floor_turns <= 3


WRITES = {"input": "3", "output": "15", "cache_read": "0.3", "cache_write_5m": "3.75"}


@settings(max_examples=200)
@given(
    st.integers(0, 300_000), st.integers(0, 300_000), st.integers(0, 300_000), st.integers(0, 5000)
)
def test_no_cache_changes_the_bound_and_the_expectation_stays_below_it(
    prompt: int, read: int, written: int, answer: int
) -> None:
    price = to_price(PriceEntry.model_validate(WRITES), "m")
    counts: dict[str, Any] = {
        "input_tokens": prompt, "output_tokens": answer, "input_bound": max(prompt, 1),
        "output_cap": 5000, "now": 0.0,
    }  # fmt: skip
    plain = quote(price, **counts)
    found = quote(price, **counts, read_tokens=read, write_tokens=written)
    assert found.upper == plain.upper
    assert found.expected is not None
    assert found.upper is not None
    assert found.expected <= found.upper
    read, written = min(read, prompt), min(written, max(0, prompt - min(read, prompt)))
    exact = read * 300 + written * 3750 + (prompt - read - written) * 3000 + answer * 15_000
    assert found.expected == (exact if read or written else plain.expected)


def test_writing_counts_where_it_is_charged_for_and_asked_for() -> None:
    from router.types import Arm

    price = to_price(PriceEntry.model_validate(WRITES), "m")
    claude, other = Arm("mid", 0, "anthropic/claude-sonnet-5"), Arm("mini", 0, "openai/x")
    assert cache_use(Turn(marked=True), claude, price, 4000) == (0, 4000)
    assert cache_use(Turn(), claude, price, 4000) == (0, 0)
    assert cache_use(Turn(marked=True), other, price, 4000) == (0, 0)
    assert cache_use(Turn(writing=frozenset([other.name])), other, price, 4000) == (0, 4000)
    warm = Turn(marked=True, warm={claude.name: 3000})
    assert cache_use(warm, claude, price, 4000) == (3000, 1000)
    assert cache_use(Turn(marked=True), claude, price, 1000) == (0, 0)  # too short to be cached


def test_whose_model_it_is() -> None:
    names = {
        "anthropic/claude-sonnet-5": "anthropic",
        "bedrock/anthropic.claude-3-5-sonnet": "anthropic",
        "vertex_ai/claude-opus-5": "anthropic",
        "vertex_ai/gemini-3.5-flash": "gemini",
        "gemini/gemini-3.5-flash": "gemini",
        "openrouter/google/gemini-3": "gemini",
        "gpt-5.4": "openai",
        "azure/gpt-5.4": "openai",
        "mistral/mistral-large-4": "mistral",
        "groq/openai/gpt-oss-20b": "groq",
        "deepseek/deepseek-v4-pro": "deepseek",
    }
    assert {model: family(model) for model in names} == names
    assert lifetime("anthropic/claude-sonnet-5") == 300
    assert needs_marks("bedrock/anthropic.claude-3-5-sonnet")
    assert not needs_marks("openai/gpt-5.4")


# ── over the wire ──────────────────────────────────────────────────────────────────────────────
def test_a_conversation_keeps_its_model_while_switching_would_cost_more(
    make_router: MakeRouter, provider: Provider
) -> None:
    """Mid is a little better than its price for a new prompt; mini has read this one already."""
    clock = Clock()
    router = make_router(
        clock=clock, objective={"cost_weight": 4}, conversations={"sticky_turns": 0},
        rules=[{"name": "start", "when": {"tags": ["start"]}, "tier": "mid"}],
    )  # fmt: skip
    first = [SYSTEM, said("user", LONG)]
    anew = router.explain(first)
    assert anew.arm.tier == "mini"
    opened = router.completion(messages=first, conversation_id="c", tags=["start"])
    assert provider.models == ["t-mid"]
    history = [*first, reply_to(opened), said("user", "And the second leg?")]
    kept = router.explain(history, conversation_id="c")
    assert kept.arm.tier == "mid"
    assert "keeps its model: switching to nano would re-read" in kept.reason
    assert "k tokens, $0.0" in kept.reason
    assert kept.view.quote.expected is not None
    alone = router.explain(history)
    assert alone.arm.tier == "mini"
    assert [view.quote.upper for view in kept.arms] == [view.quote.upper for view in alone.arms]
    assert router.explain(history, conversation_id="other").arm.tier == "mini"
    assert router.explain(history, conversation_id="c", scopes={"user": "eve"}).arm.tier == "mini"
    clock.now += 301  # OpenAI's caches last five minutes
    assert router.explain(history, conversation_id="c").arm.tier == "mini"


def test_leaving_a_model_says_what_the_switch_costs(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        objective={"cost_weight": 0}, conversations={"sticky_turns": 0},
        rules=[{"name": "start", "when": {"tags": ["start"]}, "tier": "mini"}],
    )  # fmt: skip
    first = [said("user", LONG)]
    opened = router.completion(messages=first, conversation_id="c", tags=["start"])
    history = [*first, reply_to(opened), said("user", "Prove it.")]
    reason = router.explain(history, conversation_id="c").reason
    assert "leaves mini: the switch re-reads" in reason


def test_an_escalated_conversation_stays_up_for_two_turns_and_then_comes_down(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        objective={"cost_weight": 1000},
        rules=[{"name": "hard", "when": {"tags": ["hard"]}, "tier": "frontier"}],
    )
    history = [said("user", "hello")]
    for tags in ((), ("hard",), (), (), ()):
        answer = router.completion(messages=history, conversation_id="c", tags=list(tags))
        history = [*history, reply_to(answer), said("user", "go on")]
    assert provider.models == ["t-nano", "t-frontier", "t-frontier", "t-frontier", "t-nano"]
    rows = list(router.ledger.log().requests())
    assert "escalated before, it keeps at least frontier for 2 more turns" in rows[2].reason
    assert rows[2].decision[0]["rejected"] == (
        "is below the tier that the conversation was escalated to"
    )
    assert [row.features["turn"] for row in rows] == [0, 1, 2, 3, 4]


def test_what_was_escalated_comes_down_where_the_budget_has_no_room_for_more(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        objective={"cost_weight": 1000},
        rules=[{"name": "hard", "when": {"tags": ["hard"]}, "tier": "frontier"}],
        budgets=[{"name": "all", "limit": "0.035", "window": "total", "on_exceed": "downgrade"}],
        limits={"max_output_tokens": 400},
    )
    history = [said("user", "hello")]
    provider.script("t-frontier", ok(usage={**usage(200), "completion_tokens": 400}))
    for tags in ((), ("hard",), ()):
        answer = router.completion(messages=history, conversation_id="c", tags=list(tags))
        history = [*history, reply_to(answer), said("user", "go on")]
    assert provider.models[:2] == ["t-nano", "t-frontier"]
    assert provider.models[2] != "t-frontier"
    with pytest.raises(BudgetExceeded):  # a rule is no preference
        router.completion(messages=history, conversation_id="c", tags=["hard"])


def test_what_has_come_down_goes_round_a_full_deployment_and_a_failed_one(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    [nano] = tiers["nano"]
    full = {**nano, "model": "openai/t-full", "limits": {"requests_per_minute": 1}}
    router = make_router(
        objective={"cost_weight": 1000},
        tiers={**tiers, "nano": [full, nano]},
        rules=[{"name": "hard", "when": {"tags": ["hard"]}, "tier": "frontier"}],
        budgets=[{"name": "all", "limit": "0.035", "window": "total", "on_exceed": "downgrade"}],
        limits={"max_output_tokens": 400},
        retry={"attempts": 1},
    )
    history = [said("user", "hello")]
    provider.script("t-frontier", ok(usage={**usage(200), "completion_tokens": 400}))
    provider.script("t-nano", ok(), status(503))
    for tags in ((), ("hard",), (), ()):
        answer = router.completion(messages=history, conversation_id="c", tags=list(tags))
        history = [*history, reply_to(answer), said("user", "go on")]
    assert provider.models == ["t-full", "t-frontier", "t-nano", "t-nano", "t-mini"]


def test_streams_are_turns_too(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router()
    stream = router.completion(messages=[said("user", LONG)], conversation_id="c", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    turn = router.conversations.recall(
        router.read([said("user", LONG), said("user", "more")], {"conversation_id": "c"})
    ).turn
    assert turn is not None
    assert turn.turns == 1
    assert list(turn.warm.values()) == [pytest.approx(18_000, rel=0.5)]


def test_only_so_manyconversations_are_remembered(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(conversations={"remember": 2})
    for name in "abc":
        router.completion(messages=[said("user", "hello")], conversation_id=name)
    assert len(router.conversations) == 2
    none = make_router(conversations={"remember": 0})
    none.completion(messages=[said("user", "hello")], conversation_id="a")
    assert len(none.conversations) == 0


def test_a_request_outside_of_a_conversation_leaves_no_trace(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router()
    router.completion(messages=[said("user", "hello")])
    assert len(router.conversations) == 0
    assert "turn" not in next(iter(router.ledger.log().requests())).features


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"conversations": {"sticky": 2}}, "sticky_turns"),
        ({"conversations": {"sticky_turns": -1}}, "sticky_turns"),
        ({"compaction": {"summary": "nano"}}, "max_cost"),
        ({"compaction": {"max_cost": "0.01"}}, "only with summary"),
        ({"compaction": {"threshold": 3}}, "threshold"),
    ],
)
def test_what_a_policy_may_not_say_ofconversations(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(PolicyError, match=problem):
        load_policy(ladder("http://127.0.0.1:1/v1", **changes))


def test_after_a_restart_the_log_says_who_has_a_conversation_cached(
    make_router: MakeRouter, provider: Provider
) -> None:
    clock = Clock()
    facts: dict[str, Any] = {
        "clock": clock,
        "objective": {"cost_weight": 4},
        "rules": [
            {"name": "start", "when": {"tags": ["start"]}, "tier": "mini"},
            {"name": "up", "when": {"tags": ["up"]}, "tier": "mid"},
        ],
    }
    before = make_router(**facts)
    first = [said("user", LONG)]
    history = [*first, said("assistant", "ok"), said("user", "And the second leg?")]
    before.completion(messages=first, conversation_id="c", tags=["start"])
    before.completion(messages=history, conversation_id="c", tags=["up"])
    before.close()
    clock.now += 30
    router = make_router(**facts)
    history = [*history, said("assistant", "ok"), said("user", "And the third?")]
    foreseen = router.explain(history, conversation_id="c")  # before any call of this process
    router.completion(messages=history, conversation_id="c")
    assert provider.models == ["t-mini", "t-mid", "t-mid"]
    assert foreseen.reason == list(router.ledger.log().requests())[-1].reason
    row = list(router.ledger.log().requests())[-1]
    assert row.features["turn"] == 2
    assert row.features["cached_tokens"] > 10_000
    assert "escalated before, it keeps at least mid for 2 more turns" in row.reason


def test_a_log_that_cannot_be_read_back_costs_no_answer(
    make_router: MakeRouter, provider: Provider
) -> None:
    from router.errors import LedgerUnavailable

    def away() -> Any:
        raise LedgerUnavailable("x", "away")

    router = make_router()
    router.conversations._log = away
    router.completion(messages=[said("user", "hello")], conversation_id="c")
    assert len(provider.models) == 1


def test_where_a_chain_hands_out_its_first_answer_the_history_is_that_models(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router()
    request = router.read([said("user", "hello")], {"conversation_id": "c"})
    walked = router.conversations.recall(request)
    arms = {arm.tier: arm for arm in router.policy.arms()}
    key = ("c", ())
    state = after(None, an_answer(request_id=walked.request_id, arm=arms["mini"].name), 2)
    later = an_answer(request_id=walked.request_id, arm=arms["mid"].name, model="n", tier=2)
    router.conversations._kept[key] = after(state, later, 2)
    router.conversations.handed_out(walked, arms["mini"])
    kept = router.conversations._kept[key]
    assert (kept.arm, kept.model, kept.tier) == (arms["mini"].name, "openai/t-mini", 1)
    assert kept.since == kept.messages
    assert set(kept.caches) == {arms["mini"].name, arms["mid"].name}  # both have read it


def test_a_cascade_that_goes_up_inside_a_conversation_is_an_escalation(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        objective={"cost_weight": 30}, cascade={"max_steps": 2},
        rules=[{"name": "start", "when": {"tags": ["start"]}, "tier": "nano"}],
    )  # fmt: skip
    history = [said("user", "hello")]
    answer = router.completion(messages=history, conversation_id="c")
    first = provider.models[-1].removeprefix("t-")
    provider.script(f"t-{first}", ok(text=""))
    history = [*history, reply_to(answer), said("user", "go on")]
    router.completion(messages=history, conversation_id="c")
    assert len(provider.models) == 3
    higher = provider.models[-1]
    turn = router.conversations.recall(
        router.read([*history, said("user", "more")], {"conversation_id": "c"})
    ).turn
    assert turn is not None
    assert turn.turns == 2
    assert turn.floor_turns == 2
    assert turn.model == f"openai/{higher}"


def test_a_fallback_inside_an_escalated_conversation_does_not_go_down(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        objective={"cost_weight": 1000},
        rules=[{"name": "hard", "when": {"tags": ["hard"]}, "tier": "mid"}],
        retry={"attempts": 1},
        budgets=[{"name": "all", "limit": "0.015", "window": "total", "on_exceed": "downgrade"}],
    )
    history = [said("user", "hello")]
    for tags in ((), ("hard",)):
        answer = router.completion(messages=history, conversation_id="c", tags=list(tags))
        history = [*history, reply_to(answer), said("user", "go on")]
    provider.script("t-mid", status(503))
    with pytest.raises((ProviderError, BudgetExceeded)):  # for frontier there is no room
        router.completion(messages=history, conversation_id="c")
    assert provider.models == ["t-nano", "t-mid", "t-mid"]
