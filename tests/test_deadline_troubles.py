"""What goes wrong around a queue: odd answers, refused batches, a store that is away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from router import Router
from router.dispatch import batch
from router.errors import (
    DeferredError,
    LedgerUnavailable,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)
from tests.batch_provider import BatchProvider, _send
from tests.conftest import HELLO
from tests.deadline_kit import DAY
from tests.deadline_kit import make as make  # fixtures
from tests.deadline_kit import provider as provider
from tests.pipeline_kit import NANO_BILL, rows
from tests.provider import Behaviour, ok

FAST = {"poll": 0.05, "again": 0.05, "lease": 0.5}
ODD = ("one\u2028two\u0085three\x1cfour", "cut amid a character \ud83d")


def submitted(router: Router, count: int, days: float = 2) -> list[str]:
    return [router.submit(HELLO, deadline=time.time() + days * DAY) for _ in range(count)]


def said(router: Router, ticket: str) -> str:
    content: str = router.collect(ticket).choices[0].message.content
    return content


def assert_books_are_even(router: Router, costs: list[int]) -> None:
    found = [row.cost or 0 for row in rows(router)]
    assert sorted(found) == sorted(costs)
    assert router.ledger.verify() == []
    assert [(each.held, each.settled) for each in router.budgets()] == [(0, sum(costs))]


def rewrite(provider: BatchProvider, change: Callable[[str], bytes]) -> None:
    """Have the provider write each line of its files in another way."""
    keep = provider._keep
    provider._keep = lambda data: keep(  # type: ignore[method-assign]
        b"".join(change(line) + b"\n" for line in data.decode().split("\n") if line)
    )


def half_a_character(code: int) -> Behaviour:
    """A refusal whose message holds a lone surrogate."""
    body = {"error": {"message": "no such word: \ud83d", "type": "scripted"}}
    return Behaviour(status=code, body=json.dumps(body).encode())


@pytest.mark.parametrize("content", [False, True])
def test_a_batchs_answers_are_read_and_kept_whatever_characters_they_have(
    make: Any, provider: BatchProvider, content: bool
) -> None:
    def as_utf8(line: str) -> bytes:  # JSON Lines may be written so
        if "ud83d" in line:
            return line.encode()
        return json.dumps(json.loads(line), ensure_ascii=False).encode()

    router = make(log={"content": content})
    texts = ["a fine answer", *ODD]
    provider.script("t-nano", *[ok(text=text) for text in texts])
    rewrite(provider, as_utf8)
    tickets = submitted(router, 3)
    assert router.work_queue(forever=True, **FAST).answered == 3
    assert [said(router, ticket) for ticket in tickets] == texts
    assert_books_are_even(router, [NANO_BILL // 2] * 3)


def test_a_line_that_cannot_be_read_is_charged_as_reserved_and_its_request_is_called(
    make: Any, provider: BatchProvider
) -> None:
    router = make()
    provider.script("t-nano", ok(text="first"), ok(text="cut"), ok(text="no choices"), ok())

    def spoil(line: str) -> bytes:
        if '"cut"' in line:
            line = line[:-9]
        if '"no choices"' in line:
            line = line.replace('"choices": [', '"choices": [7, ')
        return line.encode()

    rewrite(provider, spoil)
    tickets = submitted(router, 4)
    assert router.work_queue(forever=True, **FAST).answered == 4
    assert len(provider.done) == 4
    assert len(provider.wire) == 2
    assert sorted(said(router, ticket) for ticket in tickets) == ["a fine answer"] * 3 + ["first"]
    unread = [row for row in rows(router) if row.status == "failed"]
    assert [row.cost for row in unread] == [row.reserved for row in unread]
    assert len(unread) == 2
    billed = [*(row.reserved for row in unread), *[NANO_BILL // 2] * 2, *[NANO_BILL] * 2]
    assert_books_are_even(router, billed)


@pytest.mark.parametrize("text", ODD)
def test_a_queued_calls_answer_is_kept_whatever_characters_it_has(
    make: Any, provider: BatchProvider, text: str
) -> None:
    router = make()
    provider.script("t-nano", ok(text=text))
    [ticket] = submitted(router, 1, days=0.5)
    assert router.work_queue(forever=True, **FAST).answered == 1
    assert said(router, ticket) == text
    assert_books_are_even(router, [NANO_BILL])


@pytest.mark.parametrize("days", [0.5, 2])  # as a call, in a batch
def test_a_refusal_is_kept_whatever_characters_its_message_has(
    make: Any, provider: BatchProvider, days: float
) -> None:
    router = make()
    provider.script("t-nano", half_a_character(400))
    [ticket] = submitted(router, 1, days)
    assert router.work_queue(forever=True, **FAST).failed == 1
    with pytest.raises(DeferredError, match=r"RequestRejected: .*no such word: \?"):
        router.collect(ticket)
    assert_books_are_even(router, [0])


def test_a_reply_that_cannot_be_kept_ahead_is_handed_out_all_the_same(
    make: Any, provider: BatchProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make()

    def full(*_: Any) -> None:
        raise LedgerUnavailable("queue.db", "the disk is full")

    monkeypatch.setattr(router.queue, "keep", full)
    [ticket] = submitted(router, 1, days=0.5)
    assert router.work_queue(forever=True, **FAST).answered == 1
    assert said(router, ticket) == "a fine answer"
    assert_books_are_even(router, [NANO_BILL])


@pytest.mark.parametrize(
    ("part", "step", "time"),
    [
        ("ledger", "expire", 1),  # the sweep
        ("queue", "tidy", 2),
        ("queue", "claim", 1),
        ("queue", "gathered", 1),  # while calls are under way
        ("queue", "postpone", 1),  # while tickets are in hand
        ("queue", "begin", 2),
        ("queue", "finish", 1),
        ("queue", "next_look", 1),
    ],
)
def test_a_worker_for_ever_goes_on_after_a_moment_without_the_store(
    make: Any, provider: BatchProvider, monkeypatch: pytest.MonkeyPatch,
    part: str, step: str, time: int,
) -> None:  # fmt: skip
    """What it had in hand it takes over from itself, as from a worker that died."""
    router = make()
    tickets = submitted(router, 3, days=0.5) + submitted(router, 2)
    part_of = router.ledger if part == "ledger" else router.queue
    true, asked = getattr(part_of, step), list[int]()

    def away_once(*arguments: Any, **more: Any) -> Any:
        asked.append(1)
        if len(asked) == time:
            raise LedgerUnavailable("router.db", "away for a moment")
        return true(*arguments, **more)

    monkeypatch.setattr(part_of, step, away_once)
    router.work_queue(forever=True, **FAST)
    assert len(asked) >= time
    assert [said(router, ticket) for ticket in tickets] == ["a fine answer"] * 5
    assert len(provider.wire) == 3
    assert_books_are_even(router, [NANO_BILL] * 3 + [NANO_BILL // 2] * 2)


def test_a_worker_for_what_is_due_says_that_the_store_is_away(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make()
    submitted(router, 1)

    def away(*_: Any) -> None:
        raise LedgerUnavailable("router.db", "away for a moment")

    monkeypatch.setattr(router.queue, "tidy", away)
    with pytest.raises(LedgerUnavailable):
        router.work_queue(**FAST)


def refuse(provider: BatchProvider, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int]) -> None:
    """Have the provider refuse to make batches (POST), to delete files (DELETE), or both."""

    def unless(true: Callable[..., None]) -> Callable[..., None]:
        def answer(handler: Any, way: list[str], *more: Any) -> None:
            code = codes.get(handler.command)
            if code is None or (handler.command == "POST" and way != ["batches"]):
                true(handler, way, *more)
            else:
                _send(handler, {"error": {"message": f"no {handler.command}"}}, code)

        return answer

    monkeypatch.setattr(provider, "_batches", unless(provider._batches))
    monkeypatch.setattr(provider, "_files", unless(provider._files))


@pytest.mark.parametrize("code", [429, 404])
def test_the_file_of_a_batch_that_was_refused_is_deleted(
    make: Any, provider: BatchProvider, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    router, codes = make(), {"POST": code}
    refuse(provider, monkeypatch, codes)
    [ticket] = submitted(router, 1)
    router.work_queue(**FAST)
    assert provider.asked[:2] == ["POST /v1/files", "POST /v1/batches"]
    assert provider.files == {}
    codes.clear()
    router.work_queue(forever=True, **FAST)
    assert said(router, ticket) == "a fine answer"
    assert provider.files == {}


def test_the_file_of_a_batch_that_others_have_taken_over_is_deleted(
    provider: BatchProvider,
) -> None:
    place = batch.Place("openai/t-nano", provider.url, None, (2.0, 5.0))
    with pytest.raises(RequestRejected, match="taken this batch over") as caught:
        batch.create(place, "ours", ["{}\n"], lambda: False)
    assert not caught.value.request_written
    assert provider.asked == ["POST /v1/files", "DELETE /v1/files/file-0"]
    assert provider.files == {}


def test_a_file_that_cannot_be_deleted_hides_nothing_of_why_its_batch_was_refused(
    provider: BatchProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = batch.Place("openai/t-nano", provider.url, None, (2.0, 5.0))
    refuse(provider, monkeypatch, {"POST": 429, "DELETE": 500})
    with pytest.raises(RateLimited, match="no POST") as caught:
        batch.create(place, "ours", ["{}\n"], lambda: True)
    assert not caught.value.request_written
    assert "file file-0 stays at the provider" in caplog.text


def test_the_file_of_a_batch_that_may_have_been_made_stays(
    provider: BatchProvider,
) -> None:
    place = batch.Place("openai/t-nano", provider.url, None, (2.0, 5.0))
    provider.lose_replies = 1
    with pytest.raises(ProviderUnavailable) as caught:
        batch.create(place, "ours", ["{}\n"], lambda: True)
    assert caught.value.request_written
    assert list(provider.files) == ["file-0"]


def test_what_a_caller_is_handling_says_nothing_of_a_batch(provider: BatchProvider) -> None:
    """A batch whose reply is lost while another answer's error status is being handled may have
    been made."""
    place = batch.Place("openai/t-nano", provider.url, None, (2.0, 5.0))
    answer = httpx.Response(503, request=httpx.Request("GET", "http://elsewhere"))
    provider.lose_replies = 1
    try:
        answer.raise_for_status()
    except httpx.HTTPStatusError:
        with pytest.raises(ProviderError) as lost:
            batch.create(place, "ours", ["{}\n"], lambda: True)
        assert (lost.value.status, lost.value.request_written) == (None, True)
        provider.close()
        with pytest.raises(ProviderError) as gone:
            batch.look(place, "batch_0")
        assert gone.value.status is None
