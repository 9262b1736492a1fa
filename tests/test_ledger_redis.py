"""The ledger in Redis and Valkey: what it has beyond the tests of all stores.

Every step comes out as in SQLite, and the SQLite copy proves it.
"""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest

from router import Router
from router.errors import (
    ConfigurationError,
    LedgerCorrupt,
    RouterError,
)
from router.ledger import Ledger, open_ledger, open_log, store_exists
from router.ledger.place import identity, journal_folder
from router.ledger.redis.url import parse
from router.types import Budget, RequestEnd, Reservation
from tests import servers
from tests.conftest import ladder, steady_predictor
from tests.ledger_kit import (
    NOW,
    attempt_row,
    counters,
    release,
    request_row,
    reserve,
    settle,
)
from tests.redis_kit import ALL, KINDS, opened
from tests.redis_kit import kind as kind  # a fixture
from tests.redis_kit import place as place  # a fixture

METERS = [
    Budget("all", 3000),
    Budget("hour", 900, "hour", "Asia/Kolkata", scope="user"),
    Budget("roll", 1200, "rolling", seconds=3600),
    Budget("share", 300_000, "day", scope="tier", meter="share", value="frontier"),
    Budget("tokens", 4000, "rolling", seconds=600, scope="user", meter="tokens"),
    Budget("calls", 30, "day", meter="requests"),
]


def _random_step(ledger: Ledger, chance: random.Random, call: int, now: float) -> object:
    """One step, told by its outcome; the same random numbers make the same step anywhere."""
    kind, other = chance.random(), f"r{chance.randrange(call + 1)}"
    scopes = {
        "user": chance.choice(["", "ann", "bø|b:1"]),
        "tier": chance.choice(["mini", "frontier"]),
    }
    amount, cost = chance.randrange(300), chance.choice([None, *range(0, 400, 7)])
    tokens, limit = chance.randrange(900), chance.choice([None, 20, 700, 5000, 90_000])
    name, keep = chance.choice(METERS).name, chance.random() < 0.7
    value = chance.choice([None, "", "ann"])
    try:
        if kind < 0.5:
            row = attempt_row(f"r{call}", cost=amount, status="expired", cost_source="expired")
            return ledger.reserve(Reservation(
                f"r{call}/1", amount, scopes=scopes, now=now, expires_at=now + 900,
                worst_case=row, request=request_row(f"r{call}", scopes=scopes), tokens=tokens,
            ))  # fmt: skip
        if kind < 0.75:
            row = attempt_row(other, cost=cost, output_tokens=tokens)
            return ledger.settle(f"{other}/1", row, RequestEnd("answered", 1, 900), now)
        if kind < 0.85:
            return release(ledger, other, now=now)
        if kind < 0.9:
            return ledger.expire(now)
        if kind < 0.95:
            return ledger.set_limit(name, limit, now=now, scope_value=value, keep=keep, note="x")
        return ledger.credit(name, amount, now=now, scope_value=value or "", note="y")
    except RouterError as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("seed", range(3))
def test_every_step_comes_out_as_in_sqlite_for_all_meters_windows_limits_and_credits(
    tmp_path, seed
):
    """Denials with all they say, states of rolling windows and shares, and the whole log."""
    with servers.redis(KINDS[seed % 2]).ledger(tmp_path) as place:
        _compare(opened(place, *METERS), opened("sqlite://", *METERS), seed)


def _compare(here: Ledger, there: Ledger, seed: int) -> None:
    now, chance, said = NOW, random.Random(seed), Counter()
    for call in range(220):
        now += chance.choice([0, 1, 30, 200, 1800, -120])
        step = chance.random()
        outcome, expected = (
            _random_step(each, random.Random(step), call, now) for each in (here, there)
        )
        assert outcome == expected
        said[type(outcome).__name__] += 1
        assert here.room({"user": "ann"}, now) == there.room({"user": "ann"}, now)
    assert here.states(now) == there.states(now)
    assert list(here.log().requests()) == list(there.log().requests())
    assert list(here.log().attempts()) == list(there.log().attempts())
    assert here.audit() == there.audit()
    assert here.verify() == there.verify() == []
    assert said["Hold"] > 5
    assert said["tuple"] > 20


def test_a_sum_that_leaves_64_bits_is_refused_and_nothing_changes(place):
    ledger = opened(place, Budget("open", None))
    for name in range(1023):
        reserve(ledger, f"r{name}", 2**53)
    with pytest.raises(LedgerCorrupt, match="cannot hold the sum"):
        reserve(ledger, "one more", 2**53)
    assert counters(ledger) == {("open", ""): (0, 1023 * 2**53)}


def test_ledgers_of_other_names_on_one_server_do_not_meet(place, tmp_path):
    with servers.redis("redis").ledger(tmp_path) as other:
        _do_not_meet(opened(place, Budget("all", 100)), opened(other, Budget("all", 100)))


def _do_not_meet(first: Ledger, second: Ledger) -> None:
    reserve(first, "a", 100)
    reserve(second, "a", 90)
    assert (counters(first), counters(second)) == ({ALL: (0, 100)}, {ALL: (0, 90)})


CHANGES = [
    "redis.call('HINCRBY', P..'a:3:all:|total', 's', 1)",
    "redis.call('HINCRBY', P..'a:3:all:|total', 'h', -1)",
    "redis.call('HINCRBY', P..'a:3:all:|total', 'o', 4)",
    "redis.call('HINCRBY', P..'a:3:all:|total', 'n', 1)",
    "redis.call('HINCRBY', P..'a:3:all:|total', 'c', 1)",
    "redis.call('DEL', P..'a:3:all:|total')",
    "redis.call('ZREM', P..'accounts', '3:all:|total')",
    "redis.call('HSET', P..'r:open/1', 'a', '101')",
    "redis.call('HSET', P..'r:open/1', 'st', 'settled')",
    "redis.call('DEL', P..'r:open/1')",
    "redis.call('ZREM', P..'open', 'open/1')",
    "redis.call('HSET', P..'limit', '3:all', '7')",
    "redis.call('DEL', P..'clock')",
    "redis.call('DEL', P..'budgets')",
    "redis.call('HINCRBY', P..'meta', 'seq', 1)",
    "redis.call('XTRIM', P..'outbox', 'MAXLEN', 0) redis.call('HINCRBY', P..'meta', 'seq', 3)",
]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_in_the_server_shows(place, change):
    ledger = opened(place, Budget("all", 1000))
    for call in range(3):
        reserve(ledger, f"r{call}", 100)
        settle(ledger, f"r{call}", 60)
    reserve(ledger, "open", 100)
    assert ledger.verify() == []
    prefix = f"{{router:{parse(place).ledger}}}:"
    answer = servers.redis("redis").ask("EVAL", f"local P = ARGV[1] {change} return 1", "0", prefix)
    assert answer == ":1"
    try:
        found = ledger.verify()
    except LedgerCorrupt as error:
        found = [error.why]
    assert found != []


def test_the_log_is_opened_by_the_ledger_s_url_and_is_up_to_date(place):
    ledger = opened(place, Budget("all", 1000))
    reserve(ledger, "a", 400)
    settle(ledger, "a", 150)
    ledger.log().feedback("a", 0.5, now=NOW)
    log = open_log(place)
    assert [(row.cost, row.label) for row in log.requests()] == [(150, 0.5)]
    log.close()


def test_the_log_s_store_is_a_ledger_that_can_be_read_and_checked_by_itself(place):
    ledger = opened(place, Budget("all", 1000))
    reserve(ledger, "a", 400)
    settle(ledger, "a", 150)
    ledger.close()  # which brings it up to date
    copy = open_ledger(parse(place).log, create=False)
    assert counters(copy) == {ALL: (150, 0)}
    assert copy.verify() == []


def test_a_router_explains_without_beginning_a_ledger_and_then_spends_from_one(provider, place):
    policy = ladder(provider.url, budgets=[{"name": "all", "limit": "1.00", "window": "total"}])
    with Router(policy, store=place, predictor=steady_predictor()) as router:
        question = [{"role": "user", "content": "Say hello."}]
        router.explain(question)
        assert not store_exists(place)
        router.completion(question)
        assert store_exists(place)
        [state] = router.budgets()
        assert state.settled == router.report().total.spent > 0
        assert router.ledger.verify() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("redis://h", "where its log goes"),
        ("redis://h?log=", "where its log goes"),
        ("redis://?log=sqlite:///a.db", "no Redis URL"),
        ("redis://h:x?log=sqlite:///a.db", "no Redis URL"),
        ("redis://h/one?log=sqlite:///a.db", "not a number"),
        ("redis://h?log=sqlite:///a.db&speed=9", "'speed'"),
        ("redis://h?log=sqlite:///a.db&timeout=0", "timeout"),
        ("redis://h?log=sqlite:///a.db&timeout=nan", "timeout"),
        ("redis://h?log=sqlite:///a.db&ledger=a{b}", "not a name"),
        ("redis://h?log=sqlite:///a.db&ledger=a&ledger=b", "given twice"),
    ],
)
def test_a_redis_url_that_makes_no_sense_is_refused_and_says_why(text, says):
    with pytest.raises(ConfigurationError, match=says):
        open_ledger(text)


@pytest.mark.parametrize("log", ["sqlite://", "postgresql://h/db", "redis://h"])
def test_a_log_that_cannot_hold_the_copy_is_refused_and_what_can_is_named(log):
    with pytest.raises(ConfigurationError, match=r"log=sqlite:///relative.db"):
        open_ledger(f"redis://127.0.0.1:1/0?log={log}")


def test_a_password_is_in_no_message():
    found = parse(
        "valkeys://ann:s%40cret@h:7/2?log=sqlite:///a%26b.db&ledger=x&timeout=1&replicas=2"
    )
    assert (found.username, found.password, found.tls) == ("ann", "s@cret", True)
    assert (found.log, found.timeout, found.replicas) == ("sqlite:///a&b.db", 1.0, 2)
    assert found.name == "rediss://h:7/2?ledger=x"


def test_a_ledger_is_told_from_others_by_server_and_name_whatever_else_its_url_says():
    url = "redis://ann:secret@h/0?log=sqlite:///a.db&ledger=x"
    assert identity(url) == "redis://h:6379/0?ledger=x"
    assert identity(url) == identity("valkey://:new@h:6379?ledger=x&timeout=2&log=sqlite:///b.db")
    folder = journal_folder(url)
    assert folder is not None
    assert "secret" not in str(folder)
    assert folder != journal_folder(url.replace("ledger=x", "ledger=y"))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"tiered-router\[redis\]"):
        open_ledger("redis://h?log=sqlite:///a.db")


def test_a_log_of_another_ledger_is_refused(place, tmp_path):
    opened(place, Budget("all", 1)).close()
    name = parse(place).ledger
    with pytest.raises(ConfigurationError, match=f"log of ledger '{name}'"):
        opened(place.replace(f"ledger={name}", "ledger=two"), Budget("all", 1))
    spent = f"sqlite:///{tmp_path / 'own.db'}"
    reserve(opened(spent, Budget("all", 100)), "a", 1)
    with pytest.raises(ConfigurationError, match="a ledger of its own"):
        opened(f"{place.partition('?')[0]}?ledger=three&log={spent}", Budget("all", 1))


def test_a_ledger_that_must_exist_is_not_begun(place):
    assert not store_exists(place)
    with pytest.raises(ConfigurationError, match="does not exist"):
        open_ledger(place, durability="normal", create=False)
    assert not store_exists(place)
