"""Programmatic checks: they label accepted answers, and never harm who asked."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import ConfigurationError, MalformedReply, ProviderUnavailable
from router.ledger import open_log
from router.types import Request
from tests.conftest import HELLO, ladder, steady_predictor
from tests.provider import Provider, ok, status
from tests.stores import FreshStore


@pytest.fixture
def checked(provider: Provider, tmp_path: Path) -> Any:
    made = []

    def make(checks: Any, **changes: Any) -> Router:
        store = changes.pop("store", f"sqlite:///{tmp_path / 'router.db'}")
        policy = ladder(provider.url, **changes)
        made.append(Router(policy, store=store, predictor=steady_predictor(), checks=checks))
        return made[-1]

    yield make
    for router in made:
        router.close()


def labels(router: Router) -> list[tuple[str, float]]:
    assert router.checks.wait()
    return [(label.source, label.score) for label in router.ledger.log().labels()]


def test_a_check_labels_an_accepted_answer_over_every_store(
    checked: Any, provider: Provider, store: FreshStore
) -> None:
    def fine(request: Request, response: Any) -> bool:
        said: str = response.choices[0].message.content
        return "fine" in said and request.messages[0]["role"] == "user"

    router = checked({"fine": fine}, store=store.url)
    router.completion(messages=HELLO)
    provider.default = ok(text="no")
    asyncio.run(router.acompletion(messages=HELLO))
    assert labels(router) == [("check:fine", 1.0), ("check:fine", 0.0)]
    assert [label.rate for label in router.ledger.log().labels()] == [1.0, 1.0]
    assert [row.label for row in router.ledger.log().requests()] == [1.0, 0.0]


def test_of_several_checks_the_lowest_counts_and_each_is_kept(checked: Any) -> None:
    router = checked({"a": lambda *_: 0.5, "b": lambda *_: 0.25, "c": lambda *_: 1})
    router.completion(messages=HELLO)
    assert labels(router) == [("check:c", 1.0), ("check:a", 0.5), ("check:b", 0.25)]
    [row] = router.ledger.log().requests()
    assert (row.label, row.label_source) == (0.25, "check:b")


def test_a_check_without_a_verdict_labels_nothing(checked: Any) -> None:
    router = checked({"silent": lambda *_: None, "loud": lambda *_: 0.75})
    router.completion(messages=HELLO)
    assert labels(router) == [("check:loud", 0.75)]
    assert router.checks.counts["silent"].silent == 1


@pytest.mark.parametrize(
    "nonsense", [1.5, -0.1, float("nan"), "good", [1], 2, object(), b"", {"score": 1}]
)
def test_nonsense_is_no_label_and_is_counted(checked: Any, nonsense: Any) -> None:
    router = checked({"odd": lambda *_: nonsense, "even": lambda *_: True})
    router.completion(messages=HELLO)
    assert labels(router) == [("check:even", 1.0)]
    assert router.checks.counts["odd"].failed == 1


def test_a_check_that_raises_harms_nobody_and_is_logged_once(
    checked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: Request, response: Any) -> float:
        raise RuntimeError("a bug of the caller's")

    def leaving(request: Request, response: Any) -> float:
        raise SystemExit(3)

    router = checked({"broken": broken, "leaving": leaving, "good": lambda *_: True})
    with caplog.at_level(logging.WARNING, "router"):
        for _ in range(3):
            response = router.completion(messages=HELLO)
            assert response.choices[0].message.content == "a fine answer"
        assert labels(router) == [("check:good", 1.0)] * 3
    assert router.checks.counts["broken"].failed == router.checks.counts["leaving"].failed == 3
    assert sum("'broken'" in record.message for record in caplog.records) == 1
    assert router.ledger.verify() == []


def test_a_check_gets_copies_so_what_it_changes_is_its_own(checked: Any) -> None:
    def vandal(request: Request, response: Any) -> float:
        request.messages[0]["content"] = ["gone"]  # type: ignore[index]
        response.choices[0].message.content = "gone"
        return 1.0

    router = checked({"vandal": vandal})
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    response = router.completion(messages=messages)
    assert labels(router) == [("check:vandal", 1.0)]
    assert response.choices[0].message.content == "a fine answer"
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]


def test_the_answer_does_not_wait_for_its_checks(checked: Any) -> None:
    free = threading.Event()
    router = checked({"slow": lambda *_: free.wait(60)})
    response = router.completion(messages=HELLO)  # returns although the check is held up
    assert not free.is_set()
    assert Router.decision(response).cost is not None
    free.set()
    assert labels(router) == [("check:slow", 1.0)]


def test_when_too_many_answers_wait_some_go_unchecked_and_none_waits(
    checked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.checks._WAITING", 1)
    free = threading.Event()
    router = checked({"slow": lambda *_: free.wait(60)})
    for _ in range(5):
        router.completion(messages=HELLO)
    free.set()
    assert len(labels(router)) + router.checks.dropped == 5
    assert router.checks.dropped >= 3


def test_an_answer_that_was_not_accepted_is_not_checked(checked: Any, provider: Provider) -> None:
    seen: list[str] = []
    router = checked({"see": lambda _, response: seen.append(response.model)}, retry={"attempts": 1,
                     "initial_wait": 0.01, "max_wait": 0.1, "fallback": False})  # fmt: skip
    provider.default = status(500)
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    assert router.checks.wait()
    assert seen == []


def test_a_stream_is_checked_once_it_was_read_to_its_end(checked: Any) -> None:
    seen: list[str] = []

    def see(request: Request, response: Any) -> float:
        seen.append(response.choices[0].message.content)
        return 0.5

    router = checked({"see": see})
    stream = router.completion(messages=HELLO, stream=True)
    next(stream)
    assert labels(router) == []
    list(stream)
    assert labels(router) == [("check:see", 0.5)]

    async def read() -> None:
        stream = await router.acompletion(messages=HELLO, stream=True)
        assert [chunk async for chunk in stream]

    asyncio.run(read())
    assert labels(router) == [("check:see", 0.5)] * 2
    assert seen == ["part 0 part 1 part 2 "] * 2


def test_a_stream_that_was_left_or_broke_off_is_not_checked(
    checked: Any, provider: Provider
) -> None:
    router = checked({"any": lambda *_: True})
    stream = router.completion(messages=HELLO, stream=True)
    next(stream)
    stream.close()
    provider.default = ok(cut=True)
    with pytest.raises(MalformedReply):
        list(router.completion(messages=HELLO, stream=True))
    until = time.monotonic() + 30
    while time.monotonic() < until and any(
        row.status == "open" for row in router.ledger.log().requests()
    ):
        time.sleep(0.01)
    assert labels(router) == []
    assert [row.answer for row in router.ledger.log().attempts()] == [None, None]


def test_a_user_who_is_faster_than_a_check_still_has_the_last_word(checked: Any) -> None:
    free = threading.Event()
    router = checked({"slow": lambda *_: free.wait(60)})
    router.feedback(router.completion(messages=HELLO), 0.0)
    free.set()
    assert labels(router) == [("user", 0.0), ("check:slow", 1.0)]
    assert [row.label for row in router.ledger.log().requests()] == [0.0]


@pytest.mark.parametrize(
    ("name", "function"), [("", len), ("a\nb", len), ("x" * 101, len), (7, len), ("a", "len")]
)
def test_what_is_no_check_is_refused_when_the_router_is_made(
    checked: Any, name: Any, function: Any
) -> None:
    with pytest.raises(ConfigurationError, match="checks"):
        checked({name: function})


def test_a_coroutine_is_no_check(checked: Any) -> None:
    async def later(request: Request, response: Any) -> float:
        return 1.0

    with pytest.raises(ConfigurationError, match="plain function"):
        checked({"later": later})


def test_a_store_that_is_away_loses_the_label_and_not_the_answer(
    checked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = checked({"good": lambda *_: True})
    router.completion(messages=HELLO)
    assert router.checks.wait()

    def away(*args: Any, **more: Any) -> None:
        raise OSError("the disk is gone")

    log = router.ledger.log()
    monkeypatch.setattr(log, "feedback", away)
    monkeypatch.setattr(router.checks, "_log", lambda: log)
    assert router.completion(messages=HELLO).choices
    assert router.checks.wait()
    assert router.checks.unwritten == 1


PROGRAM = """
import sys, time
from router import Router
sys.path.insert(0, {root!r})
from tests.conftest import HELLO, ladder, steady_predictor
def slow(request, response):
    time.sleep(0.5)
    return 0.5
predictor = steady_predictor()
router = Router(ladder({url!r}), store={store!r}, predictor=predictor, checks={{"s": slow}})
router.completion(messages=HELLO)
"""


def test_a_program_that_ends_at_once_still_gets_its_labels(
    provider: Provider, tmp_path: Path
) -> None:
    root, store = str(Path(__file__).parents[1]), f"sqlite:///{tmp_path / 'router.db'}"
    program = textwrap.dedent(PROGRAM).format(root=root, url=provider.url, store=store)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = open_log(store)
    assert [label.source for label in log.labels()] == ["check:s"]
    log.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_after_a_fork_checks_its_own_answers(checked: Any) -> None:
    router = checked({"good": lambda *_: True})
    router.completion(messages=HELLO)
    assert router.checks.wait()
    child = os.fork()
    if child == 0:
        try:
            router.completion(messages=HELLO)
            os._exit(0 if router.checks.wait(30) else 1)
        finally:
            os._exit(2)
    until = time.monotonic() + 60
    while True:
        done, code = os.waitpid(child, os.WNOHANG)
        if done or time.monotonic() > until:
            break
        time.sleep(0.05)
    assert (done, code) == (child, 0)
    assert labels(router) == [("check:good", 1.0)] * 2
