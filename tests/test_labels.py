"""Labels from callers: however late, by id or by response, over every store."""

from __future__ import annotations

import sqlite3
import time

import pytest

from router import Router
from router.errors import ConfigurationError, InvalidRequest
from router.ledger import open_ledger, open_log
from router.log import Label
from router.types import Budget
from tests.conftest import HELLO, MakeRouter
from tests.ledger_kit import NOW, request_row, url
from tests.provider import Provider
from tests.stores import FreshStore


@pytest.mark.parametrize("lease", [False, True])
def test_feedback_joins_by_id_and_by_response_and_the_latest_counts_over_every_store(
    make_router: MakeRouter, provider: Provider, store: FreshStore, lease: bool
) -> None:
    router = make_router(store=store.url, ledger={"lease": lease})
    first, second = (router.completion(messages=HELLO) for _ in range(2))
    router.feedback(first, 1)
    router.feedback(Router.decision(second).request_id, 0.25)
    router.feedback(first, 0.5)
    router.close()

    late = open_log(store.url)  # another process, another day
    wanted = Router.decision(first).request_id
    late.feedback(wanted, 0.75, now=time.time() + 86_400)
    labels = [(row.label, row.label_source) for row in late.requests()]
    assert labels == [(0.75, "user"), (0.25, "user")]
    said = [label.score for label in late.labels() if label.request_id == wanted]
    assert said == [1.0, 0.5, 0.75]
    late.close()


def test_feedback_takes_a_stream_and_an_answer_that_is_still_coming(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router()
    stream = router.completion(messages=HELLO, stream=True)
    router.feedback(stream, 0.0)
    list(stream)
    assert [row.label for row in router.ledger.log().requests()] == [0.0]


def test_a_persons_label_counts_before_a_machines_however_late_that_comes(
    store: FreshStore,
) -> None:
    ledger = store.open([Budget("all", None)])
    log = ledger.log()
    for name in ("asked", "checked"):
        ledger.refuse(request_row(name, status="refused"))
    log.feedback("asked", 1, now=NOW)
    for name in ("asked", "checked"):
        log.feedback(name, 0.5, "check:json", now=NOW + 10, rate=1.0)
        log.feedback(name, 0.0, "judge:openai/gpt-5.4", now=NOW + 20, rate=0.02)
    found = {row.request_id: (row.label, row.label_source) for row in log.requests()}
    assert found == {"asked": (1.0, "user"), "checked": (0.0, "judge:openai/gpt-5.4")}
    assert list(log.labels())[:2] == [
        Label("asked", 1.0, "user", NOW, None),
        Label("asked", 0.5, "check:json", NOW + 10, 1.0),
    ]
    ledger.close()


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, float("nan")])
def test_a_rate_that_is_none_is_refused(store: FreshStore, rate: float) -> None:
    ledger = store.open([Budget("all", None)])
    ledger.refuse(request_row("a", status="refused"))
    with pytest.raises(InvalidRequest, match="rate"):
        ledger.log().feedback("a", 1, now=NOW, rate=rate)
    assert list(ledger.log().labels()) == []
    ledger.close()


def test_calls_of_the_routers_own_are_no_traffic(store: FreshStore) -> None:
    ledger = store.open([Budget("all", None)])
    for name, purpose in (("a", "serve"), ("b", "judge"), ("c", "shadow")):
        arms = ({"arm": name},)
        row = request_row(name, time=NOW, purpose=purpose, status="refused", decision=arms)
        ledger.refuse(row)
    log = ledger.log()
    assert sum(log.volume(NOW - 1, NOW + 1, 600).values()) == 1
    assert log.decisions(NOW - 1, NOW + 1) == [({"arm": "a"},)]
    ledger.close()


def test_a_store_of_before_the_rate_is_refused_not_guessed_at(tmp_path) -> None:
    open_ledger(url(tmp_path / "old.db")).close()
    with sqlite3.connect(tmp_path / "old.db") as raw:
        raw.execute("ALTER TABLE label DROP COLUMN rate")
        raw.execute("PRAGMA user_version = 3")
    with pytest.raises(ConfigurationError, match="version 3"):
        open_ledger(url(tmp_path / "old.db"))
