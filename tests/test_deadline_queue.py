"""The queue of requests that wait, over real HTTP: flex, off-peak and batches, each billed once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.deferred import worker
from router.errors import ConfigurationError, DeferredError, InvalidRequest
from tests.batch_provider import BatchProvider
from tests.conftest import HELLO, MakeRouter, only
from tests.deadline_kit import DAY
from tests.deadline_kit import make as make  # fixtures
from tests.deadline_kit import provider as provider
from tests.pipeline_kit import NANO_BILL, requests, rows
from tests.provider import ok, status
from tests.test_deadline_calls import HOURS, SOON, clock_before, tiers
from tests.test_reservation_size import SHORTEST_CAP, cut_short
from tests.usage_wire import wire

FAST = {"poll": 0.05, "again": 0.05, "lease": 5.0}


def soon(days: float = 2) -> float:
    return time.time() + days * DAY


def assert_queue_agrees(router: Router, provider: BatchProvider) -> None:
    """Each line and call of the provider has its row and its bill, and nothing is held."""
    billed = len(provider.done) + len(provider.wire)
    assert len([row for row in rows(router) if row.cost]) == billed
    assert router.ledger.verify() == []
    assert all(state.held == 0 for state in router.budgets())
    spent = sum(row.cost or 0 for row in rows(router))
    assert [state.settled for state in router.budgets()] == [spent]


def texts(path: Path, *words: str) -> list[str]:
    """Which of the words stand in the queue's tables."""
    with sqlite3.connect(path) as connection:
        found = [
            str(row)
            for table in ("deferred_ticket", "deferred_batch", "deferred_line")
            for row in connection.execute(f"SELECT * FROM {table}")
        ]
    connection.close()
    return [word for word in words if any(word in row for row in found)]


def test_a_batch_answers_each_ticket_and_bills_each_line_at_half_the_price(
    make: Any, provider: BatchProvider, tmp_path: Path
) -> None:
    router = make()
    tickets = [
        router.submit([{"role": "user", "content": f"Question {number}?"}], deadline=soon(),
                      temperature=0.5, scopes={"user": "ann"})
        for number in range(5)
    ]  # fmt: skip
    assert all(router.collect(ticket) is None for ticket in tickets)
    assert provider.asked == []
    assert texts(tmp_path / "router.db", "Question 3?") == ["Question 3?"]
    work = router.work_queue(forever=True, **FAST)
    assert (work.answered, work.failed, work.batched) == (5, 0, 5)
    assert provider.asked.count("POST /v1/batches") == 1
    assert provider.wire == []
    assert texts(tmp_path / "router.db", "Question 3?") == []  # its text is gone with its end
    assert provider.files == {}  # at the provider too
    body = provider.done[0][1]
    assert body["temperature"] == 0.5
    assert body["model"] == "t-nano"
    assert body["max_tokens"] == 500
    assert set(body) == {"model", "messages", "temperature", "max_tokens"}
    for ticket in tickets:
        answer = router.collect(ticket)
        assert answer.choices[0].message.content == "a fine answer"
        assert answer.usage.prompt_tokens == 20
        router.feedback(answer._hidden_params["request_id"], 1.0)
        with pytest.raises(DeferredError, match="collected before"):
            router.collect(ticket)
    assert texts(tmp_path / "router.db", "a fine answer") == []
    assert [row.cost for row in rows(router)] == [NANO_BILL // 2] * 5
    assert {row.note for row in rows(router)} == {"batch"}
    logged = requests(router)
    assert {row.status for row in logged} == {"answered"}
    assert all("batch price" in row.reason for row in logged)
    assert all(row.baseline for row in logged)
    assert sum(row.cost or 0 for row in rows(router)) == router.report().total.spent
    assert_queue_agrees(router, provider)


def test_a_deadline_before_the_batchs_window_is_not_batched(
    make: Any, provider: BatchProvider
) -> None:
    router = make()
    near = router.submit(HELLO, deadline=time.time() + DAY)  # no time for a call behind it
    far = router.submit(HELLO, deadline=time.time() + DAY + 60)
    router.work_queue(forever=True, **FAST)
    assert len(provider.wire) == 1
    assert len(provider.done) == 1
    assert router.collect(near).choices
    assert router.collect(far).choices
    assert_queue_agrees(router, provider)


def test_requests_gather_before_their_batch_goes(make: Any, provider: BatchProvider) -> None:
    router = make(deferred={"batch": True, "gather": 1.0})
    first = router.submit(HELLO, deadline=soon())
    router.work_queue(**FAST)
    assert provider.asked == []
    time.sleep(0.6)
    second = router.submit(HELLO, deadline=soon())
    router.work_queue(**FAST)
    work = router.work_queue(forever=True, **FAST)
    assert work.batched == 2
    assert provider.asked.count("POST /v1/batches") == 1
    assert router.collect(first).choices
    assert router.collect(second).choices


def test_flex_and_off_peak_calls_of_the_queue_go_in_their_time(
    make: Any, provider: BatchProvider
) -> None:
    before, passed = clock_before("16:30", 60), [0.0]
    clock = lambda: before() + passed[0]  # noqa: E731
    found = tiers(provider.url, multipliers={"flex": "0.5"}, off_peak=HOURS)
    router = make(
        clock=clock, tiers=found, deferred={"flex": True, "off_peak": True, "flex_timeout": 5}
    )
    late = router.submit(HELLO, deadline=clock() + SOON)
    early = router.submit(HELLO, deadline=clock() + 30)  # flex is in time, the hour is not
    assert router.work_queue(**FAST).answered == 1
    assert router.collect(late) is None
    assert router.collect(early).choices
    passed[0] = 58.0
    assert router.work_queue(forever=True, **FAST).answered == 1
    assert [row.cost for row in rows(router)] == [NANO_BILL // 2, -(-NANO_BILL // 8)]
    assert [body["service_tier"] for _, _, body in provider.wire] == ["flex", "flex"]
    assert_queue_agrees(router, provider)


def test_lines_that_an_expired_batch_left_are_answered_at_the_next_price(
    make: Any, provider: BatchProvider
) -> None:
    router = make()
    tickets = [router.submit(HELLO, deadline=soon()) for _ in range(4)]
    provider.stop_after = 1
    work = router.work_queue(forever=True, **FAST)
    assert work.answered == 4
    assert len(provider.done) == 1
    assert len(provider.wire) == 3
    assert all(router.collect(ticket).choices for ticket in tickets)
    costs = sorted(row.cost for row in rows(router))
    assert costs == [0, 0, 0, NANO_BILL // 2, NANO_BILL, NANO_BILL, NANO_BILL]
    assert_queue_agrees(router, provider)


def test_a_line_that_ends_at_a_predicted_cap_is_called_once_more_in_full(
    make: Any, provider: BatchProvider
) -> None:
    router = make(reserve="predicted")
    provider.script("t-nano", cut_short(SHORTEST_CAP), cut_short(SHORTEST_CAP), ok())
    ticket = router.submit(HELLO, deadline=soon())
    router.work_queue(forever=True, **FAST)
    assert router.collect(ticket).choices[0].message.content == "a fine answer"
    assert [body["max_tokens"] for _, body in provider.done] == [SHORTEST_CAP]
    assert [body["max_tokens"] for _, _, body in provider.wire] == [SHORTEST_CAP, 500]
    line, call = requests(router)
    assert (line.status, line.error) == ("failed", "its answer ended at the predicted cap")
    assert (call.status, call.accepted) == ("answered", 2)
    assert_queue_agrees(router, provider)


def test_a_line_that_ends_at_the_callers_own_cap_is_answered(
    make: Any, provider: BatchProvider
) -> None:
    router = make(reserve="predicted")
    provider.script("t-nano", cut_short(40))
    ticket = router.submit(HELLO, max_tokens=40, deadline=soon())
    router.work_queue(forever=True, **FAST)
    assert router.collect(ticket).choices[0].finish_reason == "length"
    assert_queue_agrees(router, provider)


def test_an_answer_of_a_batch_is_looked_at_as_any_other(make: Any, provider: BatchProvider) -> None:
    """By checks, for faults of form, and by whoever reads the log's text."""

    def fine(request: Any, response: Any) -> bool:
        assert request.messages[0]["content"] == HELLO[0]["content"]
        return "fine" in response.choices[0].message.content

    router = make(checks={"fine": fine}, drift={}, log={"durability": "normal", "content": True})
    refusal, cut = "I'm sorry, but I can't help with that.", cut_short(500)
    provider.script("t-nano", ok(text=refusal), ok(), cut)
    for _ in range(3):
        router.submit(HELLO, deadline=soon())
    router.work_queue(forever=True, **FAST)
    assert router.checks.wait()
    labels = [(label.source, label.score) for label in router.ledger.log().labels()]
    assert sorted(labels) == [("check:fine", 0.0), ("check:fine", 0.0), ("check:fine", 1.0)]
    noted = {str(row.answer): row.note for row in rows(router)}
    assert sorted(noted.values()) == ["batch", "batch; form: refusal", "batch; form: truncated"]
    assert ['"length"' in answer for answer in noted] == ["half" in answer for answer in noted]


def test_a_batch_that_the_provider_rejects_costs_nothing_and_its_requests_are_called(
    make: Any, provider: BatchProvider
) -> None:
    for problem in ("invalid file", None):
        provider.reject, provider.refuse = problem, None if problem else 404
        router = make()
        ticket = router.submit(HELLO, deadline=soon())
        assert router.work_queue(forever=True, **FAST).answered == 1
        assert router.collect(ticket).choices
    assert [row.cost for row in rows(router)] == [0, NANO_BILL] * 2
    assert "invalid file" in rows(router)[0].error
    assert_queue_agrees(router, provider)


def test_what_no_batch_takes_is_called_instead(make: Any, provider: BatchProvider) -> None:
    price = {"input": "1", "output": "2", "multipliers": {"batch": "0.5"}}
    thinking = {"model": "openai/gpt-5.4", "effort": "low", "price": price}
    router = make(tiers={"frontier": [{**thinking, "api_base": provider.url}]}, rules=[])
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    usage = {"input_tokens": 20, "output_tokens": 10, "total_tokens": 30}
    provider.default = wire("responses", usage, stream=False)
    alone = router.submit(HELLO, deadline=soon(), tools=[tool])
    work = router.work_queue(forever=True, **FAST)
    assert (work.answered, work.failed, work.batched) == (1, 0, 0)
    assert router.collect(alone).choices
    assert [path for path, _, _ in provider.wire] == ["/v1/responses"]  # not a chat completion
    assert [row.cost for row in rows(router)] == [20 * 1_000 + 10 * 2_000]
    provider.default = ok()
    batched = router.submit(HELLO, deadline=soon())
    assert router.work_queue(forever=True, **FAST).batched == 1
    assert router.collect(batched).choices
    assert_queue_agrees(router, provider)


def test_a_line_that_is_refused_fails_its_ticket_and_one_that_is_limited_is_called(
    make: Any, provider: BatchProvider
) -> None:
    router = make()
    provider.script("t-nano", status(400), status(429), ok())
    bad, limited, good = [router.submit(HELLO, deadline=soon()) for _ in range(3)]
    work = router.work_queue(forever=True, **FAST)
    assert (work.answered, work.failed) == (2, 1)
    with pytest.raises(DeferredError, match="RequestRejected: HTTP 400") as caught:
        router.collect(bad)
    assert (caught.value.ticket, caught.value.kind) == (bad, "RequestRejected")
    assert router.collect(limited).choices
    assert router.collect(good).choices
    assert sorted(row.cost for row in rows(router)) == [0, 0, NANO_BILL // 2, NANO_BILL]
    assert router.ledger.verify() == []


def test_a_reply_that_was_lost_is_no_second_batch(make: Any, provider: BatchProvider) -> None:
    """The batch was made, and nobody here knows its name: the provider is asked by the metadata."""
    router = make()
    tickets = [router.submit(HELLO, deadline=soon()) for _ in range(3)]
    for _ in range(3):  # older ones of somebody else, on other pages of the list
        name = f"other_{_}"
        provider.batches[name] = {"id": name, "object": "batch", "status": "completed",
            "endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "x",
            "created_at": int(time.time()), "metadata": None, "errors": None,
            "output_file_id": None, "error_file_id": None}  # fmt: skip
    provider.lose_replies = 1
    router.work_queue(forever=True, **FAST)
    assert provider.asked.count("POST /v1/batches") == 1
    assert "GET /v1/batches" in provider.asked
    assert len(provider.done) == 3
    assert all(router.collect(ticket).choices for ticket in tickets)
    assert [row.cost for row in rows(router)] == [NANO_BILL // 2] * 3
    assert_queue_agrees(router, provider)


def test_what_a_budget_has_no_room_for_waits_and_fails_clearly_at_its_deadline(
    make: Any, provider: BatchProvider
) -> None:
    tiny = [{"name": "all", "limit": "0.0004", "window": "total"}]  # one line's bound, not two
    router = make(budgets=tiny)
    tickets = [router.submit(HELLO, deadline=soon()) for _ in range(2)]
    provider.running = False
    router.work_queue(**FAST)
    held = [state.held for state in router.budgets()]
    assert 0 < held[0] <= 400_000
    states = {ticket.id: (ticket.state, ticket.kind) for ticket in router.tickets()}
    assert sorted(states.values()) == [("batched", None), ("waiting", "BudgetExceeded")]
    provider.running = True
    router.work_queue(forever=True, **FAST)  # the bill is far below the bound: there is room again
    assert all(router.collect(ticket).choices for ticket in tickets)
    assert_queue_agrees(router, provider)

    nothing = make(budgets=[{"name": "all", "limit": "0.00001", "window": "total"}])
    ticket = nothing.submit(HELLO, deadline=time.time() + 1.0)
    assert nothing.work_queue(forever=True, **FAST).failed == 0  # nobody's, the queue's own end
    with pytest.raises(
        DeferredError, match="no answer by its deadline; BudgetExceeded: "
    ) as caught:
        nothing.collect(ticket)
    assert caught.value.kind == "DeadlineMissed"


def test_calls_that_wait_long_for_flex_do_not_keep_others_from_being_made(
    make: Any, provider: BatchProvider
) -> None:
    """With one place for calls, one without flex capacity waits in the queue, not in the place."""
    found = tiers(provider.url, multipliers={"flex": "0.5"})
    router = make(
        tiers=found, retry={"attempts": 1, "initial_wait": 0, "max_wait": 0},
        deferred={"flex": True, "flex_retry": 600, "flex_timeout": 5},
    )  # fmt: skip
    waits = router.submit(HELLO, deadline=time.time() + SOON)
    provider.script("t-nano", status(429))
    router.work_queue(**{**FAST, "parallel": 1})
    assert router.collect(waits) is None
    other = router.submit(HELLO, deadline=time.time() + SOON)
    assert router.work_queue(**{**FAST, "parallel": 1}).answered == 1
    assert router.collect(other).choices
    [ticket] = [each for each in router.tickets() if each.id == waits]
    assert (ticket.state, ticket.kind) == ("waiting", "PutOff")
    assert ticket.due == pytest.approx(time.time() + 600, abs=30)


def test_a_call_that_could_wait_goes_back_into_the_queue_and_not_to_a_dearer_tier(
    make: Any, provider: BatchProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its provider says to come back later than a place for calls may be waited in."""
    monkeypatch.setattr(worker, "_MOST_WAITS", 0.5)
    again = {"attempts": 3, "initial_wait": 0.01, "max_wait": 5}
    router = make(deferred={"flex": True}, rules=[only("nano")], retry=again,
                  objective={"cost_weight": 1000})  # fmt: skip
    provider.script("t-nano", status(429, retry_after=1))
    ticket = router.submit(HELLO, deadline=time.time() + SOON)
    router.work_queue(**FAST)
    assert router.tickets()[0].kind == "PutOff"
    assert all(state.held == 0 for state in router.budgets())
    assert router.work_queue(forever=True, **FAST).answered == 1
    assert provider.models == ["t-nano", "t-nano"]
    assert router.collect(ticket).choices
    assert [row.cost for row in rows(router)] == [0, NANO_BILL]
    assert router.ledger.verify() == []


def test_a_line_is_settled_on_the_price_that_it_was_sent_at(
    make: Any, provider: BatchProvider
) -> None:
    router = make()
    ticket = router.submit(HELLO, deadline=soon())
    provider.running = False
    router.work_queue(**FAST)
    provider.running = True
    dearer = tiers(provider.url, multipliers={"batch": "0.9"}, input="9", output="9")
    other = make(tiers=dearer, rules=[])
    assert other.work_queue(forever=True, **FAST).answered == 1
    assert other.collect(ticket).choices
    assert [row.cost for row in rows(other)] == [NANO_BILL // 2]
    assert_queue_agrees(other, provider)


def test_a_batch_that_is_late_is_cancelled_and_its_requests_called_in_time(
    make: Any, provider: BatchProvider
) -> None:
    began = time.time()
    passed = [0.0]
    router = make(clock=lambda: time.time() + passed[0])
    ticket = router.submit(HELLO, deadline=began + 2 * DAY)
    provider.running = False
    router.work_queue(**FAST)
    passed[0] = 2 * DAY - 9  # the deadline less the time of a call
    work = router.work_queue(forever=True, **FAST)
    assert work.answered == 1
    assert "POST /v1/batches/batch_0/cancel" in provider.asked
    assert router.collect(ticket).choices
    assert [row.cost for row in rows(router)] == [0, NANO_BILL]


def test_an_answer_that_is_late_is_billed_and_the_ticket_says_so(
    make: Any, provider: BatchProvider
) -> None:
    passed = [0.0]
    router = make(clock=lambda: time.time() + passed[0])
    ticket = router.submit(HELLO, deadline=time.time() + 2 * DAY)
    provider.running = False
    router.work_queue(**FAST)
    passed[0] = 3 * DAY  # no worker ran for so long, and the reservation expired meanwhile
    router.ledger.expire(router.now())
    provider.running = True
    router.work_queue(forever=True, **FAST)
    with pytest.raises(DeferredError, match="no answer by its deadline"):
        router.collect(ticket)
    assert [row.cost for row in rows(router)] == [NANO_BILL // 2]
    assert_queue_agrees(router, provider)


def test_a_ticket_can_be_cancelled_while_it_waits(make: Any, provider: BatchProvider) -> None:
    router = make()
    ticket, other = [router.submit(HELLO, deadline=soon()) for _ in range(2)]
    assert router.cancel(ticket)
    assert not router.cancel(ticket)
    router.work_queue(forever=True, **FAST)
    with pytest.raises(DeferredError, match="Cancelled"):
        router.collect(ticket)
    assert router.collect(other).choices
    assert not router.cancel(other)
    assert len(provider.done) == 1


def test_several_workers_share_a_queue_and_send_nothing_twice(
    make: Any, provider: BatchProvider
) -> None:
    routers = [make(deferred={"batch": True, "flex": True, "gather": 0, "flex_timeout": 5},
                    tiers=tiers(provider.url, multipliers={"flex": "0.5", "batch": "0.25"}))
               for _ in range(3)]  # fmt: skip
    near = [routers[0].submit(HELLO, deadline=time.time() + SOON) for _ in range(20)]
    far = [routers[0].submit(HELLO, deadline=soon()) for _ in range(20)]
    threads = [
        threading.Thread(target=router.work_queue, kwargs={"forever": True, **FAST})
        for router in routers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(provider.wire) == 20
    assert sorted(Counter_of(provider)) == [1] * 20
    assert all(routers[1].collect(ticket).choices for ticket in near + far)
    assert_queue_agrees(routers[2], provider)


def Counter_of(provider: BatchProvider) -> list[int]:  # noqa: N802
    names = [custom_id for custom_id, _ in provider.done]
    return [names.count(name) for name in set(names)]


def test_async_callers_submit_and_collect_in_a_thread(make: Any, provider: BatchProvider) -> None:
    router = make()

    async def all_of_it() -> Any:
        ticket = await asyncio.to_thread(router.submit, HELLO, deadline=soon())
        working = asyncio.create_task(asyncio.to_thread(router.work_queue, forever=True, **FAST))
        while (answer := await asyncio.to_thread(router.collect, ticket)) is None:
            await asyncio.sleep(0.02)
        await working
        return answer

    assert asyncio.run(all_of_it()).choices[0].message.content == "a fine answer"


def test_what_could_never_be_sent_is_refused_when_it_is_submitted(
    make: Any, make_router: MakeRouter
) -> None:
    router = make()
    for arguments, field in (
        ({"deadline": None}, "deadline"),
        ({"deadline": 60}, "deadline"),
        ({"deadline": soon(), "stream": True}, "stream"),
        ({"deadline": soon(), "response_format": dict}, "params"),
        ({"deadline": soon(), "web_search_options": {}}, "web_search_options"),
        ({"deadline": soon(), "api_key": "x"}, "api_key"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            router.submit(HELLO, **arguments)
        assert caught.value.field == field
    assert router.tickets() == []
    with pytest.raises(InvalidRequest, match="not in the queue"):
        router.collect("nothing")
    with pytest.raises(ConfigurationError, match="no `deferred`"):
        make_router().submit(HELLO, deadline=soon())
    with pytest.raises(ConfigurationError, match="wait in a SQLite file"):
        make(store="sqlite://").submit(HELLO, deadline=soon())


def test_a_queue_may_have_a_file_of_its_own(
    make: Any, provider: BatchProvider, tmp_path: Path
) -> None:
    own = f"sqlite:///{tmp_path / 'queue.db'}"
    router = make(store="sqlite://", deferred={"batch": True, "gather": 0, "queue": own})
    ticket = router.submit(HELLO, deadline=soon())
    assert router.work_queue(forever=True, **FAST).answered == 1
    assert router.collect(ticket).choices
    assert_queue_agrees(router, provider)


def test_answers_that_nobody_collects_are_deleted_after_their_retention(
    make: Any, provider: BatchProvider, tmp_path: Path
) -> None:
    passed = [0.0]
    router = make(clock=lambda: time.time() + passed[0],
                  deferred={"batch": True, "gather": 0, "retention": 3600})  # fmt: skip
    ticket = router.submit(HELLO, deadline=soon())
    router.work_queue(forever=True, **FAST)
    assert texts(tmp_path / "router.db", "a fine answer") == ["a fine answer"]
    passed[0] = 3700.0
    router.work_queue(**FAST)
    assert texts(tmp_path / "router.db", "a fine answer", ticket) == []
    with pytest.raises(InvalidRequest, match="deleted after its retention"):
        router.collect(ticket)


def test_a_request_that_ten_workers_died_of_is_not_sent_again(
    make: Any, provider: BatchProvider, tmp_path: Path
) -> None:
    router = make()
    ticket = router.submit(HELLO, deadline=soon())
    with sqlite3.connect(tmp_path / "router.db") as connection:
        connection.execute("UPDATE deferred_ticket SET state = 'sending', lost = 9, lease = 1")
    connection.close()
    router.work_queue(forever=True, **FAST)
    with pytest.raises(DeferredError, match="10 workers died while they sent it") as caught:
        router.collect(ticket)
    assert caught.value.kind == "WorkersDied"
    assert provider.asked == []


def test_a_reply_that_was_kept_is_dropped_when_its_call_is_put_off(make: Any) -> None:
    router = make()
    ticket, queue = router.submit(HELLO, deadline=soon()), router.queue
    for tried in range(2):
        assert [each.id for each in queue.claim("a", router.now(), router.now() + 5, 9)] == [ticket]
        assert queue.begin(ticket, "a", f"request {tried}")
        if not tried:
            queue.keep(ticket, "a", "a reply")
            queue.postpone(
                ticket, "a", 0.0, error=("ProviderUnavailable", "it went on, and failed")
            )
    assert queue.ticket(ticket).answer is None
    queue.tidy(router.now() + 6, DAY)  # the worker died meanwhile
    assert queue.ticket(ticket).state == "waiting"


def test_the_store_file_is_still_a_sound_store(make: Any, provider: BatchProvider) -> None:
    router = make()
    router.submit(HELLO, deadline=soon())
    router.work_queue(forever=True, **FAST)
    router.close()
    again = make()
    assert again.ledger.verify() == []
    assert json.loads(json.dumps([ticket.state for ticket in again.tickets()])) == ["answered"]
