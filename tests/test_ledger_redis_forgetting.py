"""What Redis and Valkey forget, the copy in SQLite knows: memory does not fill up, and nothing that
comes back, or is asked again late, is counted anew or twice."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from router import Router
from router.errors import (
    BudgetExceeded,
    ReservationError,
    RouterError,
)
from router.ledger import Ledger, open_ledger
from router.ledger.leases import worst_case_row
from router.ledger.matching import Amounts
from router.ledger.redis import outbox as redis_outbox
from router.ledger.redis import store as redis_store
from router.ledger.redis.rebuild import rebuild
from router.ledger.redis.url import parse
from router.ledger.store import Draw, Drawn
from router.log.writer import attempt_values, request_values
from router.types import Budget, RequestEnd
from tests import servers
from tests.conftest import ladder, steady_predictor
from tests.ledger_kit import (
    NOW,
    TTL,
    attempt_row,
    counters,
    release,
    request_row,
    reserve,
    settle,
)
from tests.outage_kit import store_of
from tests.redis_kit import ALL, KINDS, ON_BOTH, opened
from tests.redis_kit import kind as kind  # a fixture
from tests.redis_kit import place as place  # a fixture


def forget_all(ledger: Ledger) -> None:
    """Copy what was done, and let the server forget whatever it may."""
    outbox = store_of(ledger)._outbox
    outbox.drain()
    outbox._forget(outbox._position())


def keys_of(place: str) -> int:
    """How many keys a ledger has on its server."""
    prefix = f"{{router:{parse(place).ledger}}}:"
    found = servers.redis("redis").ask(
        "EVAL", "return #redis.call('KEYS', ARGV[1])", "0", f"{prefix}*"
    )
    return int(found[1:])


def test_what_has_ended_is_forgotten_by_the_server_and_kept_by_the_log(place, monkeypatch):
    """Else memory fills up. Redis keeps counters, open reservations and recent ends alone."""
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    long_ago = 1_000_000_000.0
    ledger = forgetful(place, monkeypatch, Budget("all", None), Budget("hour", None, "hour"),
                       Budget("roll", None, "rolling", seconds=60))  # fmt: skip
    for hour in range(30):
        now = long_ago + 3600 * hour
        reserve(ledger, f"r{hour}", 10, now=now)
        settle(ledger, f"r{hour}", 7, now=now)
    reserve(ledger, "open", 10, now=now)
    assert ledger.verify() == []
    forget_all(ledger)
    assert keys_of(place) < 20
    assert counters(ledger, now) == {ALL: (210, 10), ("hour", ""): (7, 10), ("roll", ""): (7, 10)}
    assert len(list(ledger.log().attempts())) == 30
    settle(ledger, "open", 5, now=now)
    assert ledger.verify() == []


def forgetful(place: str, monkeypatch, *budgets: Budget) -> Ledger:
    """A ledger whose server forgets what has ended as soon as the log has it."""
    monkeypatch.setattr(redis_outbox, "_LOOK_AGAIN", 0)
    monkeypatch.setattr(redis_store, "REMEMBER", 0)
    monkeypatch.setattr(redis_store, "REMEMBER_EXPIRED", 0)
    return opened(place, *budgets)


def test_what_the_server_has_forgotten_is_asked_again_and_answered_from_the_log(place, monkeypatch):
    """A hold, an end or a refusal that is repeated late is no second one."""
    ledger = forgetful(place, monkeypatch, Budget("all", 1000))
    reserve(ledger, "a", 100)
    settle(ledger, "a", 60)
    reserve(ledger, "late", 50)
    assert ledger.expire(NOW + TTL) == 1
    ledger.refuse(request_row("no", status="refused"))
    ledger.log().volume(0, NOW, 60)
    reserve(ledger, "open", 10)
    ledger.log().volume(0, NOW, 60)
    assert (
        store_of(ledger)._server.command("EXISTS", f"{{router:{parse(place).ledger}}}:r:a/1") == 0
    )
    settle(ledger, "a", 60)
    with pytest.raises(ReservationError, match="ended at 60"):
        settle(ledger, "a", 61)
    with pytest.raises(ReservationError, match="has ended"):
        reserve(ledger, "a", 100)
    with pytest.raises(ReservationError, match="not 101 and 0"):
        reserve(ledger, "a", 101)
    with pytest.raises(ReservationError, match=r"expired|ended at 50"):
        settle(ledger, "late", 20)
    with pytest.raises(ReservationError, match="taken"):
        reserve(ledger, "a", 100, number=3, first=True)
    ledger.refuse(request_row("no", status="refused"))
    with pytest.raises(ReservationError, match="in the log already"):
        ledger.refuse(request_row("a", status="refused"))
    reserve(ledger, "a", 30, number=2)  # a second attempt of a request that has ended
    ledger.finish("no", RequestEnd("failed", None, None), NOW)
    assert counters(ledger) == {ALL: (110, 40)}
    assert ledger.verify() == []


EACH = Budget("each", 100, scope="request")


def test_a_request_s_account_is_let_go_once_it_is_over_and_comes_back_with_its_sums(
    place, monkeypatch
):
    """Else a budget of `scope: request` fills the memory, whatever its window."""
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    ledger = forgetful(place, monkeypatch, EACH, Budget("month", 100, "month", scope="request"))
    for call in range(30):
        scopes = {"request": f"r{call}"}
        reserve(ledger, f"r{call}", 100, scopes=scopes, is_new=True)
        settle(ledger, f"r{call}", 60 + call)
    forget_all(ledger)
    assert keys_of(place) < 10
    assert ledger.verify() == []
    for name, scopes in (("r0", {"request": "r0"}), ("other", {"request": "r0"})):
        with pytest.raises(BudgetExceeded) as denied:
            reserve(ledger, name, 41, number=2, first=name == "other", scopes=scopes)
        assert (denied.value.used, denied.value.held, denied.value.limit) == (60, 0, 100)
    assert [state.settled for state in ledger.room({"request": "r7"}, NOW).budgets] == [67, 67]
    assert len(ledger.states(NOW)) == 60
    reserve(ledger, "r0", 40, number=2, scopes={"request": "r0"})
    assert ledger.credit("each", 1000, now=NOW, scope_value="r1") == 61
    assert ledger.credit("each", 1000, now=NOW, scope_value="r1") == 0
    forget_all(ledger)
    reserve(ledger, "r1", 30, number=2, scopes={"request": "r1"})
    assert ledger.verify() == []
    rebuild(place, durability="normal")
    settle(ledger, "r0", 40, number=2)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r0", 1, number=3, scopes={"request": "r0"})
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r1", 10, number=3, scopes={"request": "r1"})  # of the month's 100
    reserve(ledger, "r1", 9, number=3, scopes={"request": "r1"})
    assert ledger.verify() == []


@pytest.mark.parametrize("seed", range(3))
def test_accounts_that_are_let_go_and_come_back_at_random_come_out_as_in_sqlite(
    tmp_path, seed, monkeypatch
):
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    share = Budget("share", 300_000, "day", scope="tier", meter="share", value="frontier")
    budgets = [EACH, share, Budget("calls", 25, "month", scope="user", meter="requests")]
    with servers.redis(KINDS[seed % 2]).ledger(tmp_path) as place:
        here, there = forgetful(place, monkeypatch, *budgets), opened("sqlite://", *budgets)
        chance, said = random.Random(seed), Counter()
        for call in range(200):
            step = chance.random()
            outcome, expected = (
                _random_change(each, random.Random(step), call) for each in (here, there)
            )
            assert outcome == expected
            said[type(outcome).__name__] += 1
            if chance.random() < 0.3:
                before = accounts_of(place)
                forget_all(here)
                said["let go"] += len(before - accounts_of(place))
            scopes = {"request": f"r{call % 9}", "tier": "frontier", "user": "ann"}
            assert here.room(scopes, NOW) == there.room(scopes, NOW)
        assert here.states(NOW) == there.states(NOW)
        assert here.verify() == there.verify() == []
        assert said["Hold"] > 5
        assert said["tuple"] > 20
        assert said["let go"] > 20


def _random_change(ledger: Ledger, chance: random.Random, call: int) -> object:
    """A hold of one of nine requests, its end, or a credit, told by its outcome."""
    kind, name = chance.random(), f"r{chance.randrange(9)}"
    tier = chance.choice(["mini", "frontier"])
    scopes = {"request": name, "user": chance.choice(["ann", "bob"]), "tier": tier}
    try:
        if call % 2:
            return settle(ledger, f"c{call - 1}", chance.randrange(40))
        if kind < 0.7:
            return reserve(ledger, f"c{call}", chance.randrange(60), scopes=scopes)
        value = {"each": name, "calls": scopes["user"], "share": "frontier"}
        budget = chance.choice(list(value))
        return ledger.credit(budget, chance.randrange(50), now=NOW, scope_value=value[budget])
    except RouterError as error:
        return type(error).__name__, str(error)


def accounts_of(place: str) -> set[str]:
    """The accounts that the server has."""
    prefix = f"{{router:{parse(place).ledger}}}:a:"
    kind = place.partition(":")[0]
    return set(servers.redis(kind).ask_all("KEYS", f"{prefix}*").split("\r\n")[2::2])


def test_an_account_waits_for_the_log_to_have_all_of_it_before_it_is_let_go(place, monkeypatch):
    """What no reservation remembers too: credits, and attempts that a share only sees."""
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    share = Budget("share", 500_000, scope="tier", meter="share", value="frontier")
    ledger = forgetful(place, monkeypatch, EACH, share)
    outbox = store_of(ledger)._outbox
    reserve(ledger, "a", 100, scopes={"request": "a", "tier": "mini"})
    settle(ledger, "a", 60)
    outbox.drain()
    assert accounts_of(place) == set()
    reserve(ledger, "b", 0, scopes={"request": "b", "tier": "mini"})  # which the share sees
    ledger.credit("each", 20, now=NOW, scope_value="a")
    outbox._forget(3)  # by one who has copied all up to a's end, and no more
    room = ledger.room({"request": "a", "tier": "frontier"}, NOW).budgets
    assert [(state.settled, state.seen) for state in room] == [(40, 1), (0, 2)]
    assert [state.seen for state in ledger.states(NOW)] == [1, 1, 2]
    release(ledger, "b")
    assert ledger.credit("each", 50, now=NOW, scope_value="a") == 40
    forget_all(ledger)
    assert accounts_of(place) == set()
    assert ledger.verify() == []


def test_an_account_that_is_let_go_between_a_look_and_a_step_is_looked_at_again(place, monkeypatch):
    ledger = forgetful(place, monkeypatch, EACH)
    store, scopes = store_of(ledger), {"request": "a"}
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    look, spends = store._mirror.memory, []

    def overtaken(*asked, **more):
        found = look(*asked, **more)
        if found.accounts and spends:  # another process spends, and is forgotten
            name, cost = spends.pop()
            monkeypatch.setattr(store._mirror, "memory", look)
            reserve(ledger, name, cost, scopes=scopes)
            settle(ledger, name, cost)
            forget_all(ledger)
        return found

    for name, cost in (("x", 60), ("y", 30)):
        spends.append((name, cost))
        monkeypatch.setattr(store._mirror, "memory", overtaken)
        if name == "x":
            with pytest.raises(BudgetExceeded):
                reserve(ledger, "a", 41, scopes=scopes)
        else:
            assert ledger.credit("each", 70, now=NOW, scope_value="a") == 70
    assert [state.settled for state in ledger.room(scopes, NOW).budgets] == [20]
    assert ledger.verify() == []


def _draw(*names: str, keep: int) -> Draw:
    calls = [
        Drawn(
            f"{name}/1", name, 1, "settled", Amounts(100, 0), 60, 7,
            attempt_values(attempt_row(name, cost=60)), request_values(request_row(name)),
            RequestEnd("answered", 1, 900), NOW + TTL, NOW,
        )
        for name in names
    ]  # fmt: skip
    worst = attempt_values(worst_case_row("lease", keep, NOW))
    return Draw("lease", tuple(calls), Amounts(keep, 0), NOW + TTL, worst, NOW)


def test_a_draw_that_is_repeated_after_the_server_forgot_its_calls_moves_nothing_twice(
    place, monkeypatch
):
    ledger = forgetful(place, monkeypatch, Budget("all", 1000))
    store = store_of(ledger)
    reserve(ledger, "lease", 500, first=True)
    assert store.draw(replace_id(_draw("a", "b", keep=300))) == "open"
    assert counters(ledger) == {ALL: (120, 300)}
    ledger.log().volume(0, NOW, 60)
    reserve(ledger, "x", 1)
    ledger.log().volume(0, NOW, 60)
    assert store._server.command("EXISTS", f"{{router:{parse(place).ledger}}}:r:a/1") == 0
    assert store.draw(replace_id(_draw("a", "b", keep=300))) == "open"
    assert store.draw(replace_id(_draw("a", "b", "c", keep=200))) == "open"
    assert counters(ledger) == {ALL: (180, 201)}
    assert ledger.verify() == []


def replace_id(step: Draw) -> Draw:
    """The kit's reservations are named "name/1"."""
    return replace(step, lease_id="lease/1")


def test_a_look_into_the_log_that_is_overtaken_is_taken_again(place, monkeypatch):
    """Between look and step another process copies, and the server forgets: the step must not
    believe that what it asks for was never there."""
    ledger = forgetful(place, monkeypatch, Budget("all", 1000))
    store = store_of(ledger)
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    reserve(ledger, "a", 100)
    settle(ledger, "a", 60)
    look, looks = store._mirror.memory, []

    def overtaken(*asked, **more):
        found = look(*asked, **more)
        looks.append(found)
        if len(looks) == 1:
            forget_all(ledger)
        return found

    monkeypatch.setattr(store._mirror, "memory", overtaken)
    with pytest.raises(ReservationError, match="has ended"):
        reserve(ledger, "a", 100)
    assert [bool(each.reservations) for each in looks] == [False, True]
    assert counters(ledger) == {ALL: (60, 0)}
    assert ledger.verify() == []


@ON_BOTH
def test_a_request_whose_id_was_drawn_just_now_is_not_looked_up_in_the_log(
    provider, place, monkeypatch
):
    policy = ladder(provider.url, budgets=[{"name": "all", "limit": "1.00", "window": "total"}])
    with Router(policy, store=place, predictor=steady_predictor()) as router:
        router.completion(
            [{"role": "user", "content": "Say hello."}]
        )  # after which it has accounts
        store, looks = store_of(router.ledger), []
        look = store._mirror.memory
        monkeypatch.setattr(
            store._mirror,
            "memory",
            lambda *asked, **more: looks.append(asked) or look(*asked, **more),
        )
        for _ in range(3):
            router.completion([{"role": "user", "content": "Say hello."}])
        assert looks == []
        reserve(router.ledger, "named", 10)
        assert len(looks) == 1
        assert len(list(router.ledger.log().requests())) == 5
        assert router.ledger.verify() == []


def test_a_hold_under_an_id_drawn_just_now_is_no_second_one_when_it_is_repeated(place):
    ledger = open_ledger(place, [Budget("all", 1000)], durability="normal")
    for _ in range(2):
        reserve(ledger, "a", 100, is_new=True)
    assert counters(ledger) == {ALL: (0, 100)}
    with pytest.raises(ReservationError, match="not 101 and 0"):
        reserve(ledger, "a", 101, is_new=True)
    settle(ledger, "a", 60)
    with pytest.raises(ReservationError, match="has ended"):
        reserve(ledger, "a", 100, is_new=True)
    assert counters(ledger) == {ALL: (60, 0)}
    assert ledger.verify() == []
