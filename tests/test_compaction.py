"""A long history goes out shorter when that pays: what stays, what it costs, how it is undone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router
from router.conversations import compaction
from router.conversations.compaction import transcript
from router.conversations.shorten import GAP, is_turn, parts_of, shorten, units
from router.conversations.worth import MOST_TURNS, pays, turns_left, worth
from router.prices import PriceEntry, to_price
from tests.conftest import MakeRouter, ladder, usd
from tests.provider import Provider, ok, status
from tests.test_conversations import Clock, reply_to, said

SYSTEM = {"role": "system", "content": "You book flights and keep to the rules. " * 30}
FILLER = "The weather on the way is of no concern to anybody who reads this sentence. " * 25


def calling(name: str) -> dict[str, Any]:
    function = {"name": "find", "arguments": "{}"}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": name, "type": "function", "function": function}],
    }


def result(name: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": text}


def errands(count: int) -> list[dict[str, Any]]:
    """A conversation of many user turns, each with a call whose long result holds one fact."""
    found = [SYSTEM]
    for n in range(count):
        found += [
            said("user", f"Please look up booking B-{n:04}."),
            calling(f"call_{n}"),
            result(f"call_{n}", f"{FILLER}\nseat {n}A confirmed for locator Q{n:03}Z\n{FILLER}"),
            said("assistant", f"Booking B-{n:04} has seat {n}A. {FILLER}"),
        ]
    return [*found, said("user", "And what now?")]


# ── the parts, without a wire ──────────────────────────────────────────────────────────────────
TEXTS = st.text(st.sampled_from("ab1 .\n\u00e9{},"), max_size=700)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = []
    if draw(st.booleans()):
        history.append(SYSTEM)
    for n in range(draw(st.integers(0, 8))):
        history += [said("user", draw(TEXTS)) for _ in range(draw(st.integers(0, 2)))]
        for step in range(draw(st.integers(0, 2))):
            names = [f"c{n}.{step}.{k}" for k in range(draw(st.integers(1, 2)))]
            message = calling(names[0])
            message["tool_calls"] = [calling(name)["tool_calls"][0] for name in names]
            history += [message, *[result(name, draw(TEXTS)) for name in names]]
        if draw(st.booleans()):
            parts = [{"type": "text", "text": draw(TEXTS)}, {"type": "text", "text": draw(TEXTS)}]
            content = draw(st.sampled_from([parts, parts[0]["text"]]))
            history.append({"role": "assistant", "content": content})
    return history


@settings(max_examples=150)
@given(histories(), st.integers(1, 4), st.floats(0.01, 0.99))
def test_no_call_is_parted_from_its_results_and_the_ends_stay(
    history: list[dict[str, Any]], keep: int, share: float
) -> None:
    before = copy.deepcopy(history)
    parts = parts_of(history, keep)
    assert [*parts.head, *parts.old, *parts.last] == history
    short = shorten(parts.old, parts.last, share)
    assert history == before
    assert short == shorten(parts.old, parts.last, share)  # so that the next turn sends the same
    out = [*parts.head, *short, *parts.last]
    asked = [call["id"] for m in out for call in m.get("tool_calls") or ()]
    answered = [m["tool_call_id"] for m in out if m["role"] == "tool"]
    assert asked == answered
    place = {call["id"]: at for at, m in enumerate(out) for call in m.get("tool_calls") or ()}
    assert all(place[m["tool_call_id"]] < at for at, m in enumerate(out) if m["role"] == "tool")
    turns = [m for m in history if is_turn(m)]
    assert [m for m in out if is_turn(m)] == turns  # none is longer than LONGEST_WORDS
    ends = [*parts.head, *parts.last]
    assert not parts.old or sum(map(is_turn, ends)) >= min(keep, len(turns))

    def text(some: list[Any]) -> int:
        return sum(len(str(m.get("content")).replace(GAP, "")) for m in some)

    assert text(short) <= text(list(parts.old)) + 40 * len(short)


def test_units_are_calls_with_their_results() -> None:
    history = [said("user", "a"), calling("1"), result("1", "x"), said("assistant", "b")]
    assert [list(unit) for unit in units(history)] == [[0], [1, 2], [3]]


def test_what_a_later_turn_may_ask_for_stays_and_filler_goes() -> None:
    parts = parts_of(errands(20), 2)
    short = shorten(parts.old, parts.last, 0.2)
    text = str(short)
    assert len(text) < 0.35 * len(str(parts.old))
    for n in range(18):
        assert f"B-{n:04}" in text
        assert f"Q{n:03}Z" in text
    assert GAP in text


def test_one_long_errand_has_old_steps_too() -> None:
    history = [SYSTEM, said("user", "Do it all.")]
    for n in range(30):
        history += [calling(f"c{n}"), result(f"c{n}", FILLER)]
    parts = parts_of(history, 4)
    assert parts.head == history[:2]
    assert parts.last == history[-16:]


def test_a_conversation_is_expected_to_go_on_for_as_long_as_it_has_lasted() -> None:
    assert [turns_left(n) for n in (0, 1, 7, 1000)] == [1, 1, 7, MOST_TURNS]


def test_compacting_pays_by_saved_reading_less_the_lost_cache_and_the_call() -> None:
    entry = {"input": "10", "output": "60", "cache_read": "1"}
    price = to_price(PriceEntry.model_validate(entry), "m")
    facts: dict[str, Any] = {"before": 50_000, "after": 20_000, "head": 2_000, "writes": False}
    warm = worth(price, **facts, turns=3, warm=True)
    assert warm.saving == usd("0.09")  # 30k tokens, three turns, a dollar a million
    assert warm.cost == usd("0.162")  # 18k tokens at nine dollars more
    assert not pays(warm, 50_000, 20_000)
    assert pays(worth(price, **facts, turns=6, warm=True), 50_000, 20_000)
    cold = worth(price, **facts, turns=1, warm=False, call=usd("0.1"))
    assert (cold.saving, cold.cost) == (usd("0.3"), usd("0.1"))
    assert not pays(cold, 300_000, 280_000)  # too little goes


# ── over the wire ──────────────────────────────────────────────────────────────────────────────
POLICY: dict[str, Any] = {
    "objective": {"cost_weight": 0},
    "conversations": {"sticky_turns": 0},
    "compaction": {"min_tokens": 2000, "keep_turns": 2, "target": 0.2},
}


def test_a_long_conversation_goes_out_shorter_and_the_callers_list_stays(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**POLICY, log={"durability": "normal", "content": True})
    history = errands(20)
    before = copy.deepcopy(history)
    answer = router.completion(messages=history, conversation_id="c")
    sent = provider.wire[0][2]["messages"]
    assert history == before
    assert len(str(sent)) < 0.5 * len(str(history))
    assert sent[0] == SYSTEM
    assert sent[-1] == history[-1]
    history += [reply_to(answer), said("user", "Thanks.")]
    router.completion(messages=history, conversation_id="c")
    again = provider.wire[1][2]["messages"]
    assert again[: len(sent)] == sent  # the next turn begins with the very same: it is cached
    row, _ = router.ledger.log().requests()
    assert row.features["compacted"][0] > 2 * row.features["compacted"][1]
    assert row.features["compacted"][2] == "extractive"
    assert row.content is not None
    assert FILLER.strip() in row.content  # the original
    explained = router.explain(history, conversation_id="c").reason
    assert "compacted from" in explained


def test_extraction_that_did_not_pay_is_not_tried_again_with_every_turn(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def counted(old: Any, last: Any, share: float) -> Any:
        tried.append(len(old))
        return [*old]  # nothing can be left out

    monkeypatch.setattr(compaction, "shorten", counted)
    router = make_router(**POLICY)
    history = errands(20)
    for _ in range(4):
        answer = router.completion(messages=history, conversation_id="c")
        history += [reply_to(answer), said("user", "Thanks.")]
    router.completion(messages=errands(20), conversation_id="another")
    assert len(tried) == 2
    assert all(sent["messages"][0] == SYSTEM for _, _, sent in provider.wire)


def test_a_compaction_can_be_undone_and_then_stays_so(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**POLICY)
    history = errands(20)
    router.completion(messages=history, conversation_id="c", scopes={"user": "ann"})
    assert not router.conversations.undo("c")
    assert router.conversations.undo("c", {"user": "ann"})
    router.completion(messages=history, conversation_id="c", scopes={"user": "ann"})
    assert provider.wire[1][2]["messages"] == history


def test_after_a_restart_a_compacted_conversation_is_in_no_cache(
    make_router: MakeRouter, provider: Provider
) -> None:
    before = make_router(**POLICY)
    before.completion(messages=errands(20), conversation_id="c")
    history = [*errands(20), said("assistant", "They are all right."), said("user", "Sure?")]
    known = before.conversations.recall(before.read(history, {"conversation_id": "c"})).turn
    assert known is not None
    assert known.warm
    before.close()
    router = make_router(**{**POLICY, "compaction": None})
    router.completion(messages=history, conversation_id="c")
    assert provider.wire[1][2]["messages"] == history  # whole: nothing of it is where the other was
    row = list(router.ledger.log().requests())[-1]
    assert row.features["turn"] == 1
    assert not row.features["cached_tokens"]


def test_an_edited_history_goes_out_whole_and_is_compacted_anew(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**POLICY)
    router.completion(messages=errands(20), conversation_id="c")
    edited = errands(20)
    edited[1] = said("user", "Please look up booking X-9999.")
    router.completion(messages=edited, conversation_id="c")
    assert "X-9999" in str(provider.wire[1][2]["messages"])


@pytest.mark.parametrize("changes", [{"compaction": None}, {}])
def test_nothing_is_compacted_without_the_key_or_outside_of_a_conversation(
    make_router: MakeRouter, provider: Provider, changes: dict[str, Any]
) -> None:
    router = make_router(**{**POLICY, **changes})
    name = "c" if changes else None
    router.completion(messages=errands(20), conversation_id=name)
    assert provider.wire[0][2]["messages"] == errands(20)


SUMMARY = {
    **POLICY,
    "compaction": {
        "min_tokens": 2000, "keep_turns": 2, "target": 0.9, "summary": "nano", "max_cost": "0.05",
    },
}  # fmt: skip


def test_a_cheap_tier_summarises_on_its_own_account_under_a_ceiling(
    make_router: MakeRouter, provider: Provider
) -> None:
    clock = Clock()
    router = make_router(
        **SUMMARY, clock=clock,
        budgets=[{"name": "all", "limit": "5", "window": "total"},
                 {"name": "own", "limit": "1", "window": "total", "purpose": "compaction"}],
    )  # fmt: skip
    provider.script("t-nano", ok(text="Bookings B-0000 to B-0019 were looked up."))
    answer = router.completion(messages=errands(20), conversation_id="c", scopes={"user": "ann"})
    assert provider.models == ["t-nano", "t-frontier"]
    sent = provider.wire[1][2]["messages"]
    assert sent[0] == SYSTEM
    assert "Bookings B-0000 to B-0019 were looked up." in sent[1]["content"]
    assert [m["role"] for m in sent[1:4]] == ["user", "assistant", "user"]
    assert sent[3:] == errands(20)[-5:]
    history = [*errands(20), reply_to(answer), said("user", "Thanks.")]
    router.completion(messages=history, conversation_id="c", scopes={"user": "ann"})
    assert provider.models == ["t-nano", "t-frontier", "t-frontier"]  # once, and kept
    rows = list(router.ledger.log().requests())
    own = next(row for row in rows if row.purpose == "compaction")
    assert own.scopes == {"user": "ann"}
    used = {state.budget.name: state for state in router.budgets()}
    assert used["own"].settled == own.cost
    assert used["own"].held == used["all"].held == 0
    assert router.report().overhead == own.cost


def test_a_summary_is_one_call_whatever_vote_its_tier_holds_on_requests(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0]["vote"] = {"samples": 3, "pick": "best"}
    cascade = {"max_steps": 2}
    router = make_router(**{**SUMMARY, "tiers": tiers, "cascade": cascade})
    provider.script("t-nano", ok(text="Bookings B-0000 to B-0019 were looked up."))
    router.completion(messages=errands(20), conversation_id="c")
    assert provider.models.count("t-nano") == 1
    assert "were looked up." in provider.wire[1][2]["messages"][1]["content"]


def test_what_was_summarised_is_not_summarised_again_for_its_former_length(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**SUMMARY, budgets=[{"name": "a", "limit": "5", "window": "total"}])
    provider.script("t-nano", *[ok(text="Bookings B-0000 to B-0019 were looked up.")] * 4)
    long = said("system", SYSTEM["content"] * 12)  # by itself as long as what may be compacted
    history = [long, *errands(20)[1:]]
    for _ in range(2):  # what is kept beside the summary is short
        history += [said("assistant", "They are all right."), said("user", "Sure?")]
    for _ in range(4):
        answer = router.completion(messages=history, conversation_id="c")
        history += [reply_to(answer), said("user", "Thanks.")]
    assert provider.models == ["t-nano", *["t-frontier"] * 4]


@pytest.mark.parametrize(
    "trouble",
    [status(400), ok(text=""), ok(text="too long. " * 5000), ok(body=b"{}")],
    ids=["refused", "empty", "longer", "broken"],
)
def test_a_summary_that_fails_costs_the_caller_no_answer(
    make_router: MakeRouter, provider: Provider, trouble: Any
) -> None:
    router = make_router(**SUMMARY)
    provider.script("t-nano", *[trouble] * 3)
    router.completion(messages=errands(40), conversation_id="c")
    assert provider.models[-1] == "t-frontier"


def test_a_budget_of_another_tiers_model_is_none_of_a_summarys(
    make_router: MakeRouter, provider: Provider
) -> None:
    day: dict[str, Any] = {"limit": "1", "window": "day", "purpose": "any"}
    router = make_router(
        **SUMMARY,
        budgets=[{"name": "frontier", "scope": "model", "value": "t-frontier", **day},
                 {"name": "nano", "scope": "model", "value": "t-nano", **day},
                 {"name": "mid", "when": {"model": "t-mid"}, **day}],
    )  # fmt: skip
    provider.script("t-nano", ok(text="Bookings B-0000 to B-0019 were looked up."))
    router.completion(messages=errands(20), conversation_id="c")
    assert provider.models == ["t-nano", "t-frontier"]
    used = {state.budget.name: (state.budget.value, state.settled) for state in router.budgets()}
    assert set(used) == {"frontier", "nano", "mid"}
    assert used["frontier"][0] == "openai/t-frontier"
    assert used["nano"][1] > 0
    assert used["mid"] == (None, 0)


@pytest.mark.parametrize("target", [0.9, 0.4])  # where extraction pays, and where it does not
@pytest.mark.parametrize(
    "trouble",
    [
        ok(text="cut", finish_reason="length"),
        ok(text=""),
        ok(text="too long. " * 20_000),
        status(400),
    ],
    ids=["cut", "empty", "longer", "refused"],
)
def test_a_summary_asked_for_in_vain_is_asked_for_again_once_there_is_twice_as_much(
    make_router: MakeRouter, provider: Provider, trouble: Any, target: float
) -> None:
    router = make_router(**{**SUMMARY, "compaction": {**SUMMARY["compaction"], "target": target}})
    provider.script("t-nano", *[trouble] * 20)
    history = errands(20)
    for _ in range(4):
        answer = router.completion(messages=history, conversation_id="c")
        history += [reply_to(answer), said("user", "Thanks.")]
    assert provider.models.count("t-nano") == 1
    router.completion(messages=errands(45), conversation_id="c")
    assert provider.models.count("t-nano") == 2


def test_summaries_count_for_a_deployment_s_limits_and_are_not_waited_for(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0]["limits"] = {"requests_per_minute": 4, "burst_seconds": 15}  # one at once
    router = make_router(**SUMMARY, tiers=tiers)
    provider.script("t-nano", ok(text="Bookings B-0000 to B-0019 were looked up."))
    router.completion(messages=errands(20), conversation_id="c")
    assert list(router.capacity.obstacles(10, [10.0] * len(router.capacity.arms))) == [0]
    router.completion(messages=errands(20), conversation_id="another")
    assert provider.models == ["t-nano", "t-frontier", "t-frontier"]


def test_a_summary_is_told_how_long_it_may_be(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(**SUMMARY)
    router.completion(messages=errands(20), conversation_id="c")
    _, _, sent = provider.wire[0]
    assert sent["max_tokens"] == 600
    assert "at most 360 words" in sent["messages"][0]["content"]


def test_a_summary_dearer_than_its_ceiling_is_not_asked_for(
    make_router: MakeRouter, provider: Provider
) -> None:
    changes = {**SUMMARY["compaction"], "max_cost": "0.000001"}
    router = make_router(**{**SUMMARY, "compaction": changes})
    router.completion(messages=errands(20), conversation_id="c")
    assert provider.models == ["t-frontier"]


def test_what_is_summarised_names_who_spoke_and_what_was_called() -> None:
    text = transcript([said("user", "hi"), calling("1"), result("1", "yes")])
    assert text == "user: hi\ncalls find({})\ntool: yes"


def test_what_is_summarised_names_calls_and_results_that_are_parts_of_a_content_too() -> None:
    use = {"type": "tool_use", "id": "t", "name": "find", "input": {"booking": "Köln-77"}}
    answer = {"type": "tool_result", "tool_use_id": "t", "content": [{"text": "seat 12A"}]}
    text = transcript([
        {"role": "assistant", "content": [{"type": "text", "text": "Looking."}, use]},
        {"role": "user", "content": [answer, {"type": "text", "text": "And?"}]},
    ])  # fmt: skip
    assert text == 'assistant: Looking.\ncalls find({"booking": "Köln-77"})\nuser: seat 12A\nAnd?'


def test_the_decision_is_explained_for_the_history_that_would_go_out(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**POLICY)
    history = errands(20)
    explained = router.explain(history, conversation_id="c")
    assert "compacted from" in explained.reason
    assert provider.wire == []
    again = router.explain(history, conversation_id="c")
    assert again.reason == explained.reason  # nothing was remembered of it
    made = Router.decision(router.completion(messages=history, conversation_id="c")).decision
    assert (made.arm, made.view.quote) == (explained.arm, explained.view.quote)
    assert made.reason == explained.reason
    # The next turn, for which the compaction is remembered, is as it was.
    history += [said("assistant", "It is all done."), said("user", "Thanks.")]
    before = router.explain(history, conversation_id="c")
    made = Router.decision(router.completion(messages=history, conversation_id="c")).decision
    assert made.reason == before.reason


def test_an_explanation_says_where_a_summary_may_come_instead(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**{**SUMMARY, "compaction": {**SUMMARY["compaction"], "target": 0.2}})
    found = router.explain(errands(20), conversation_id="c").reason
    assert "extractive, or a summary" in found
    assert provider.wire == []
