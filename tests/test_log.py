"""The log: what was written comes back as it was, in order, with its end, cost and latest label."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import ConfigurationError, InvalidRequest, LedgerCorrupt
from router.ledger import open_ledger, open_log
from router.log import Label, LoggedRequest
from router.log.writer import sound, to_json
from router.types import AttemptRow, Budget, RequestEnd, RequestRow, Reservation
from tests.ledger_kit import NOW, TTL, attempt_row, release, request_row, reserve, settle, url
from tests.stores import heavy

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MAPS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)


@pytest.fixture
def ledger(store):
    opened = store.open([Budget("all", None)])
    yield opened
    opened.close()


def write(ledger, request):
    """Log a request with an attempt under way."""
    worst = attempt_row(request.request_id, cost=1, status="expired", cost_source="expired")
    ledger.reserve(Reservation(
        f"{request.request_id}/1", 1, scopes={}, now=NOW, expires_at=NOW + TTL,
        worst_case=worst, request=request,
    ))  # fmt: skip


def test_a_row_comes_back_as_it_was_written(ledger):
    request = request_row(
        "a", scopes={"user": "ann"}, tags=("x", "y"), conversation_id="c-1", stream=True,
        features={"words": 3.5, "language": "sv", "odd": None}, rule="short",
        decision=({"arm": "a", "quality": 0.25, "rejected": None}, {"arm": "b"}),
        content='[{"role": "user"}]', baseline=None,
    )  # fmt: skip
    worst = attempt_row("a", cost=900, status="expired", cost_source="expired")
    ledger.reserve(
        Reservation(
            "a/1", 900, scopes={}, now=NOW, expires_at=NOW + TTL, worst_case=worst, request=request
        )
    )
    attempt = attempt_row(
        "a", cost=70, usage={"prompt_tokens": 1, "details": {"cached": 0}}, note="odd",
        answer='[{"role": "assistant"}]',
    )  # fmt: skip
    end = RequestEnd("answered", accepted=1, baseline=800, error=None)
    ledger.settle("a/1", attempt, end, NOW + 2)
    [logged] = ledger.log().requests()
    assert isinstance(logged, LoggedRequest)
    expected = replace(request, status="answered", baseline=800)
    assert {f.name: getattr(logged, f.name) for f in fields(RequestRow)} == {
        f.name: getattr(expected, f.name) for f in fields(RequestRow)
    }
    assert (logged.accepted, logged.ended, logged.attempts, logged.cost) == (1, NOW + 2, 1, 70)
    assert list(ledger.log().attempts()) == [attempt]


def test_every_field_of_a_row_has_a_column_of_its_name(tmp_path):
    open_ledger(url(tmp_path / "l.db")).close()
    raw = sqlite3.connect(tmp_path / "l.db")
    for table, row_type, more in [
        ("request", RequestRow, {"id", "accepted", "ended"}),
        ("attempt", AttemptRow, set()),
    ]:
        columns = {row[1] for row in raw.execute(f"PRAGMA table_info({table})")}
        assert columns == {field.name for field in fields(row_type)} | more
    raw.close()


def test_a_request_costs_the_sum_of_its_attempts_and_unknown_if_one_is(ledger):
    for name, costs in {"known": [10, 0, 25], "unknown": [10, None], "none": []}.items():
        for number, cost in enumerate(costs, start=1):
            reserve(ledger, name, 100 if cost else 0, number=number)
            settle(ledger, name, cost, number=number)
    ledger.refuse(request_row("none", status="refused"))
    found = {row.request_id: (row.attempts, row.cost) for row in ledger.log().requests()}
    assert found == {"known": (3, 35), "unknown": (2, None), "none": (0, 0)}


def test_an_open_attempt_is_not_in_the_log_yet(ledger):
    reserve(ledger, "a", 100)
    [request] = ledger.log().requests()
    assert (request.status, request.attempts, request.ended) == ("open", 0, None)
    assert list(ledger.log().attempts()) == []


def test_a_period_selects_requests_by_their_time_and_attempts_with_them(ledger):
    for call in range(10):
        row = request_row(f"r{call}", time=NOW + call)
        ledger.refuse(row) if call % 2 else ledger.reserve(Reservation(
            f"r{call}/1", 0, scopes={}, now=NOW, expires_at=NOW + TTL, request=row,
            worst_case=attempt_row(f"r{call}", cost=0),
        ))  # fmt: skip
        if not call % 2:
            late = attempt_row(f"r{call}", cost=0, time=NOW + 1000)
            ledger.release(f"r{call}/1", late, None, NOW)
    log = ledger.log()
    assert [row.request_id for row in log.requests(NOW + 3, NOW + 6)] == ["r3", "r4", "r5"]
    assert [row.request_id for row in log.attempts(NOW + 3, NOW + 6)] == ["r4"]
    assert [row.request_id for row in log.attempts(since=NOW + 6)] == ["r6", "r8"]
    assert len(list(log.requests(until=NOW + 4))) == 4


def test_a_period_is_counted_by_bins_and_its_decisions_are_a_sample(ledger):
    times = [0.0, 599.9, 600.0, 1199.0, 1800.0, 2400.0]
    for number, time in enumerate(times):
        row = request_row(f"r{number}", time=time, decision=({"arm": str(number)},))
        write(ledger, row)
    log = ledger.log()
    assert log.volume(0, 2400, 600) == {0: 2, 1: 2, 3: 1}
    assert log.volume(599.9, 1800, 600) == {0: 1, 1: 2}
    assert log.volume(5000, 6000, 600) == {}
    assert log.decisions(600, 2400) == [({"arm": str(number)},) for number in (2, 3, 4)]
    assert len(log.decisions(0, 3000, every=2)) == 3


def test_a_lease_that_was_given_back_is_no_request(ledger):
    for name in ("a", "lease"):
        write(ledger, request_row(name, time=0.0))
    end = RequestEnd("returned", accepted=None, baseline=None)
    ledger.release("lease/1", attempt_row("lease", cost=0), end, NOW)
    log = ledger.log()
    assert [row.request_id for row in log.requests()] == ["a"]
    assert log.volume(0, 600, 600) == {0: 1}
    assert len(log.decisions(0, 600)) == 1


@heavy
def test_a_log_longer_than_a_page_comes_whole_and_in_order_also_where_times_are_equal(ledger):
    count = 2500
    for call in range(count):
        reserve(ledger, f"r{call}", 10, now=NOW)
        release(ledger, f"r{call}")
    assert [row.request_id for row in ledger.log().requests()] == [f"r{n}" for n in range(count)]
    assert [row.request_id for row in ledger.log().attempts()] == [f"r{n}" for n in range(count)]


def test_requests_of_one_moment_come_with_their_attempts_and_each_row_is_read_once(
    ledger, monkeypatch
):
    """Other tools log whole seconds, or days: as many requests as there are may be of one time."""
    monkeypatch.setattr("router.log.reader._PAGE", 5)
    for call in range(42):
        reserve(ledger, f"r{call}", 10, now=NOW)
        release(ledger, f"r{call}")
    inner = getattr(ledger.log(), "_log", ledger.log())  # Redis's is a copy in SQLite
    read, page = [], type(inner)._page

    def counted(self, query, place):
        rows = page(self, query, place)
        read.extend(rows)
        return rows

    monkeypatch.setattr(type(inner), "_page", counted)
    found = list(ledger.log().with_attempts())
    assert [request.request_id for request, _ in found] == [f"r{call}" for call in range(42)]
    assert [[each.request_id for each in own] for _, own in found] == [
        [f"r{call}"] for call in range(42)
    ]
    assert len(read) == 2 * 42


def test_what_comes_in_while_a_log_is_read_takes_no_attempt_from_another(ledger, monkeypatch):
    """Calls under leases, and imported ones, come in later than their time says."""
    monkeypatch.setattr("router.log.reader._PAGE", 5)
    log, early = ledger.log(), [f"r{call}" for call in range(42)]
    for call, name in enumerate(early):
        reserve(ledger, name, 10, now=NOW + call)
        release(ledger, name)
    found = {}
    for at, (request, attempts) in enumerate(log.with_attempts()):
        found[request.request_id] = [each.request_id for each in attempts]
        for ahead in range(0, 12, 2):
            name = f"late{at}.{ahead}"
            if at < len(early) and at % 3 == 0:
                reserve(ledger, name, 10, now=request.time + ahead + 0.5)
                release(ledger, name)
    assert {name: found[name] for name in early} == {name: [name] for name in early}
    assert all(own in ([], [name]) for name, own in found.items())  # some are still open


def test_a_damaged_row_is_named_with_its_store_and_column(tmp_path):
    file = tmp_path / "log.db"
    opened = open_ledger(f"sqlite:///{file}")
    for name in ("a", "b"):
        reserve(opened, name, 100, now=NOW)
        settle(opened, name, 50)
    opened.close()
    database = sqlite3.connect(file)
    database.execute("UPDATE request SET decision = '[{' WHERE request_id = 'b'")
    database.commit()
    database.close()
    log = open_log(f"sqlite:///{file}")
    for read in (log.requests, log.with_attempts):
        with pytest.raises(LedgerCorrupt, match="decision of request 'b' in its log is not JSON"):
            list(read())
    log.close()


def test_the_latest_label_counts(ledger):
    reserve(ledger, "a", 100)
    log = ledger.log()
    assert [row.label for row in log.requests()] == [None]
    log.feedback("a", 1, now=NOW + 5)
    log.feedback("a", 0.25, "judge", now=NOW + 5)
    log.feedback("a", 0.75, "import", now=NOW + 1)  # about an earlier time
    assert [(row.label, row.label_source) for row in log.requests()] == [(0.25, "judge")]
    assert log.label("a") == Label("a", 0.25, "judge", NOW + 5)
    log.feedback("a", 0.5, "judge:m", now=NOW + 9, rate=0.5)  # a machine's stands behind
    assert log.label("a") == Label("a", 0.25, "judge", NOW + 5)
    assert log.label("b") is None


@pytest.mark.parametrize("score", [-0.01, 1.01, math.nan, math.inf, True, "1", None])
def test_a_score_outside_0_to_1_is_refused(ledger, score):
    reserve(ledger, "a", 100)
    with pytest.raises(InvalidRequest, match="score"):
        ledger.log().feedback("a", score, now=NOW)
    assert [row.label for row in ledger.log().requests()] == [None]


def test_a_label_for_an_unknown_request_is_refused(ledger):
    with pytest.raises(InvalidRequest, match="request_id"):
        ledger.log().feedback("nobody", 1.0, now=NOW)


def test_a_store_s_log_is_opened_by_its_url_while_the_ledger_writes(store, ledger):
    reserve(ledger, "a", 100)
    log = open_log(store.url)
    assert [row.request_id for row in log.requests()] == ["a"]
    rows = log.requests()
    next(rows)
    settle(ledger, "a", 50)
    log.feedback("a", 0.5, now=NOW)
    assert [(row.status, row.label) for row in log.requests()] == [("answered", 0.5)]
    log.close()
    reserve(ledger, "b", 100)


def test_closing_a_ledger_s_own_log_leaves_the_ledger_open(ledger):
    ledger.log().close()
    reserve(ledger, "a", 100)


def test_a_log_that_does_not_exist_is_not_made(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        open_log(url(tmp_path / "l.db"))
    with pytest.raises(ConfigurationError, match="private"):
        open_log("sqlite://")
    assert list(tmp_path.iterdir()) == []


@given(usage=MAPS, features=MAPS, tags=st.lists(st.text(max_size=5)), content=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_text_and_map_comes_back(usage, features, tags, content):
    ledger = open_ledger("sqlite://")
    row = request_row("a", features=features, tags=tuple(tags), content=content)
    worst = attempt_row("a", cost=0)
    ledger.reserve(
        Reservation(
            "a/1", 0, scopes={}, now=NOW, expires_at=NOW + TTL, worst_case=worst, request=row
        )
    )
    ledger.settle("a/1", replace(worst, usage=usage), None, NOW)
    [request], [attempt] = ledger.log().requests(), ledger.log().attempts()
    assert (request.features, request.tags, request.content) == (features, tuple(tags), content)
    assert attempt.usage == usage


@given(ANYTHING)
def test_whatever_a_provider_reports_is_stored_as_json(value):
    assert isinstance(to_json(value), str)
    assert "NaN" not in to_json({"x": float("nan")})


def test_numbers_of_numpy_and_objects_of_any_kind_are_stored(ledger):
    usage = {"a": np.float32(0.5), "b": np.arange(2), "c": object, 4: {1}, "d": math.inf}
    assert to_json(usage) == '{"a":0.5,"b":[0,1],"c":"<class \'object\'>","4":[1],"d":null}'
    loop: dict[str, object] = {}
    loop["self"] = loop
    assert to_json(loop).startswith('{"self":')


def test_a_lone_surrogate_or_a_nul_in_a_text_does_not_stop_a_settlement(store, ledger):
    reserve(ledger, "a", 100)
    row = attempt_row("a", cost=5, error="bad \ud800 text\0", usage={"x": "\ud800"})
    ledger.settle("a/1", row, RequestEnd("failed", None, None, error="\udfff"), NOW)
    [request], [attempt] = ledger.log().requests(), ledger.log().attempts()
    nul = "\ufffd" if store.name == "postgres" else "\0"  # which cannot hold one
    assert (request.error, attempt.error) == ("?", f"bad ? text{nul}")
    assert attempt.usage == {"x": "?"}
    assert ledger.verify() == []


@given(st.lists(st.text(st.characters(), max_size=6)))  # surrogates too, alone and in pairs
def test_json_of_a_log_can_be_written_wherever_its_text_can(texts):
    kept = json.loads(to_json(texts))
    assert kept == json.loads(sound(json.dumps(texts)))
    for text, said in zip(texts, kept, strict=True):
        paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert said.replace("?", "") == re.sub(r"[?\ufffd]", "", paired)
        said.encode()


def test_a_lone_surrogate_in_a_log_of_an_earlier_release_is_read_as_a_mark(tmp_path):
    file = tmp_path / "log.db"
    opened = open_ledger(f"sqlite:///{file}")
    reserve(opened, "a", 100)
    settle(opened, "a", 50)
    opened.close()
    database = sqlite3.connect(file)
    tags = r"""["\ud83dx","\ud83d\ude00","\\ud83d"]"""
    database.execute("UPDATE request SET tags = ?", (tags,))
    database.commit()
    database.close()
    log = open_log(f"sqlite:///{file}")
    [request] = log.requests()
    log.close()
    assert request.tags == ("?x", "\U0001f600", r"\ud83d")
