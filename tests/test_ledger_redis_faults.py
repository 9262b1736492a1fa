"""Servers that die, forget, lag, evict or fill up, and networks that cut."""

from __future__ import annotations

import random
import re
import shutil
import threading
import time
from contextlib import suppress

import pytest

from router.errors import BudgetExceeded, ConfigurationError, LedgerCorrupt, LedgerUnavailable
from router.ledger import open_ledger
from router.ledger.redis import outbox as redis_outbox
from router.ledger.redis import scripts
from router.ledger.redis import server as redis_server
from router.ledger.redis.rebuild import rebuild
from router.ledger.redis.session import _reached
from router.ledger.redis.url import parse
from router.types import Budget
from tests.ledger_kit import NOW, TTL, counters, reserve, settle
from tests.redis_kit import ALL, BUDGET, forget_everything, opened, place_of, spent
from tests.redis_kit import own as own  # fixtures
from tests.redis_kit import proxy as proxy
from tests.servers import RedisServer, redis, wire


def refused_within(seconds: float, work) -> float:
    """Run `work`, which must be refused; how long the quickest of three took."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            work()
        took.append(time.monotonic() - began)
    assert min(took) < seconds
    return min(took)


def test_f31_a_server_that_is_down_denies_at_each_step_and_serves_again_when_it_is_back(
    own, tmp_path
):
    place = place_of(own, tmp_path, timeout=0.2)
    ledger = opened(place_of(own, tmp_path, parse(place).ledger))  # patient, for this busy machine
    reserve(ledger, "before", 100)
    own.kill()
    refused_within(0.25, lambda: reserve(ledger, "while", 100))
    settle(ledger, "before", 60)  # it waits in the journal
    refused_within(0.25, lambda: ledger.room({}, NOW))
    with pytest.raises(LedgerUnavailable):
        opened(place)
    own.start()
    back = time.monotonic()
    reserve(ledger, "after", 100)
    assert time.monotonic() - back < 2
    assert counters(ledger) == {ALL: (60, 100)}
    assert ledger.verify() == []


def test_f31_a_server_that_hangs_denies_within_250_ms_and_serves_again_within_2_seconds(
    own, tmp_path
):
    ledger = opened(place_of(own, tmp_path, timeout=0.2))
    with suppress(LedgerUnavailable):
        reserve(ledger, "a", 100)
    own.freeze(frozen=True)
    took = refused_within(0.25, lambda: reserve(ledger, "b", 100))
    assert took > 0.15
    own.freeze(frozen=False)
    back = time.monotonic()
    while time.monotonic() - back < 2:
        with suppress(LedgerUnavailable):
            reserve(ledger, "c", 100)
            break
    assert time.monotonic() - back < 2


def test_f31_a_reply_that_is_lost_in_the_middle_of_each_step_changes_nothing_twice(
    tmp_path, proxy, monkeypatch
):
    """The step is done, its answer is cut off: it is asked again at once, and done once."""
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    warm = opened(place_of(redis("valkey"), tmp_path))  # from here on the server knows the scripts
    spent(warm, 1)
    reserve(warm, "late", 1)
    warm.expire(NOW + TTL)
    warm.set_limit("all", 500, now=NOW)
    ledger = opened(place_of(redis("valkey"), tmp_path, port=proxy.port))
    for count, step in enumerate(
        (
            lambda: reserve(ledger, "a", 100),
            lambda: settle(ledger, "a", 60),
            lambda: reserve(ledger, "b", 100),
            lambda: ledger.budget_ledger.expire(NOW + TTL),
            lambda: ledger.set_limit("all", 500, now=NOW),
        )
    ):
        proxy.swallow = 1
        step()
        assert proxy.swallowed == count + 1
    assert counters(ledger) == {ALL: (160, 0)}
    assert len(ledger.audit()) == 1
    assert ledger.verify() == []


def test_f07_a_reply_that_is_lost_with_the_connection_and_a_retry_are_one_hold(tmp_path, proxy):
    ledger = opened(place_of(redis("valkey"), tmp_path, port=proxy.port, timeout=0.5))
    reserve(ledger, "warm", 0)
    proxy.latency = 0.8  # done by the server, and given up on here
    with pytest.raises(LedgerUnavailable):
        reserve(ledger, "a", 700_000)
    proxy.latency = 0.0
    time.sleep(0.5)
    assert reserve(ledger, "a", 700_000).amount == 700_000
    assert counters(ledger) == {ALL: (0, 700_000)}
    proxy.latency = 0.8
    with pytest.raises(LedgerUnavailable):
        reserve(ledger, "never sent", 200_000)
    proxy.latency = 0.0
    time.sleep(0.5)
    assert counters(ledger) == {ALL: (0, 900_000)}
    ledger.expire(NOW)
    assert counters(ledger) == {ALL: (0, 700_000)}
    assert ledger.verify() == []


def test_a_credit_whose_reply_is_lost_is_not_given_twice(tmp_path, proxy, monkeypatch):
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    ledger = opened(place_of(redis("valkey"), tmp_path, port=proxy.port))
    spent(ledger, 3)
    ledger.credit("all", 0, now=NOW)  # from here on the server knows the script
    call = redis_server.Server.call

    def swallowed(self, script, *arguments, **options):
        proxy.swallow = int(script is scripts.CREDIT)
        return call(self, script, *arguments, **options)

    monkeypatch.setattr(redis_server.Server, "call", swallowed)
    with pytest.raises(LedgerUnavailable):
        ledger.credit("all", 50, now=NOW)
    assert counters(ledger) == {ALL: (130, 0)}
    assert ledger.verify() == []


def restart_empty(own: RedisServer, ledger: str) -> None:
    own.kill()
    for each in own.folder.glob("append*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    own.start()


def lose_the_counters_own_hash(own: RedisServer, ledger: str) -> None:
    own.ask("DEL", f"{{router:{ledger}}}:meta")


@pytest.mark.parametrize("lose", [forget_everything, restart_empty, lose_the_counters_own_hash])
def test_f32_a_server_that_has_forgotten_the_ledger_denies_until_it_is_rebuilt(own, tmp_path, lose):
    place = place_of(own, tmp_path)
    ledger = opened(place, BUDGET, Budget("roll", 900, "rolling", seconds=3600))
    spent(ledger, 5)
    reserve(ledger, "open", 100)
    reserve(ledger, "late", 50)
    ledger.set_limit("all", 5_000, now=NOW)
    assert ledger.verify() == []
    before = ledger.states(NOW)
    lose(own, parse(place).ledger)
    for step in (
        lambda: reserve(ledger, "x", 1),
        lambda: settle(ledger, "open", 1),
        lambda: ledger.room({}, NOW),
        lambda: opened(place),
        lambda: ledger.verify(),
    ):
        with pytest.raises(LedgerCorrupt, match="rebuild"):
            step()
    done = rebuild(place, durability="normal")
    assert (done.open_reservations, done.accounts) == (2, 2)
    assert ledger.states(NOW) == before  # the process that was refused goes on
    settle(ledger, "open", 70)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "too much", 481)  # of 900: 300 + 70 settled, 50 held
    assert opened(place).expire(NOW + TTL) == 1
    assert ledger.verify() == []
    assert counters(ledger)[ALL] == (420, 0)
    assert sum(row.cost or 0 for row in ledger.log().attempts()) == 420


def restore_older_state(own: RedisServer, work) -> None:
    """Do `work`, then bring the server's files back to what they were before."""
    copy = own.folder.with_name(own.folder.name + "-copy")
    shutil.copytree(own.folder, copy)
    work()
    own.kill()
    shutil.rmtree(own.folder)
    copy.rename(own.folder)
    own.start()


def test_f32_an_older_state_of_the_server_is_noticed_by_the_log_alone(own, tmp_path):
    place = place_of(own, tmp_path)
    ledger = opened(place)
    spent(ledger, 3)

    def work() -> None:
        spent(ledger, 3, name="lost")
        ledger.close()

    restore_older_state(own, work)
    with pytest.raises(LedgerCorrupt, match="was acknowledged and is gone"):
        opened(place)
    rebuild(place, durability="normal")
    assert counters(opened(place)) == {ALL: (360, 0)}


def test_f33_a_failover_that_lost_the_last_second_stops_all_even_when_others_went_on(
    own, tmp_path, monkeypatch
):
    """Nothing of the lost second was copied: only the process that saw it knows of it."""
    place = place_of(own, tmp_path)
    saw, other = opened(place), opened(place)
    spent(saw, 2)
    assert len(list(saw.log().requests())) == 2
    counters(other)
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)
    # A thread that was poked before may be late.
    monkeypatch.setattr(redis_outbox.Outbox, "drain_if_free", lambda self, stop=None: True)
    restore_older_state(own, lambda: spent(saw, 1, name="lost"))
    for call in range(5):
        reserve(other, f"other{call}", 100)  # which knows nothing better
    with pytest.raises(LedgerCorrupt, match="was acknowledged and is gone"):
        reserve(saw, "x", 1)
    with pytest.raises(LedgerCorrupt):
        reserve(other, "y", 1)
    done = rebuild(place, durability="normal")
    assert (done.steps, done.open_reservations) == (5, 5)
    settle(other, "other0", 60)
    assert counters(other) == {ALL: (180, 400)}
    assert other.verify() == []


@pytest.mark.parametrize(
    ("run", "high", "seq", "reached"),
    [
        ("one", 90, 95, True),
        ("one", 91, 95, False),  # of the first run's steps, 90 were left when the second began
        ("two", 95, 95, True),
        ("two", 96, 95, False),
        ("other", 1, 95, False),
    ],
)
def test_f33_a_step_is_there_if_every_later_run_began_after_it(run, high, seq, reached):
    assert _reached(run, high, seq, ["one 0", "two 90", "three 99"]) is reached


def test_a_restart_that_loses_nothing_is_passed_over(own, tmp_path):
    ledger = opened(place_of(own, tmp_path))
    for turn in range(3):
        spent(ledger, 2, name=f"t{turn}-")
        own.restart()
    assert counters(ledger) == {ALL: (360, 0)}
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("options", "durability", "says"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "normal", "noeviction"),
        (("--maxmemory-policy", "volatile-ttl"), "normal", "noeviction"),
        (("--appendonly", "no"), "normal", "appendonly"),
        ((), "full", "appendfsync always"),
    ],
)
def test_f34_a_server_that_may_lose_counters_is_refused_at_the_start(
    tmp_path, options, durability, says
):
    started = RedisServer("redis", *options)
    with pytest.raises(ConfigurationError, match=says):
        open_ledger(place_of(started, tmp_path), [BUDGET], durability=durability)
    assert list(tmp_path.iterdir()) == []
    started.stop()


def test_a_server_that_is_not_full_can_be_looked_after_by_commands_that_spend_nothing(tmp_path):
    place = place_of(redis("valkey"), tmp_path)
    spent(opened(place), 2)
    looking = open_ledger(place, create=False)
    assert counters(looking) == {ALL: (120, 0)}
    assert looking.verify() == []


def test_full_durability_is_a_server_that_writes_to_disk_before_it_answers(tmp_path):
    started = RedisServer("valkey", "--appendfsync", "always")
    ledger = open_ledger(place_of(started, tmp_path), [BUDGET], durability="full")
    reserve(ledger, "a", 100)
    started.restart()
    assert counters(ledger) == {ALL: (0, 100)}
    started.stop()


def test_f34_a_server_that_begins_to_evict_is_refused_by_its_next_connection(own, tmp_path):
    ledger = opened(place_of(own, tmp_path))
    reserve(ledger, "a", 100)
    own.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    own.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(LedgerUnavailable, match="noeviction"):
        reserve(ledger, "b", 100)


def test_f38_a_server_without_memory_denies_and_leaves_no_half_a_step(own, tmp_path):
    ledger = opened(place_of(own, tmp_path))
    spent(ledger, 2)
    reserve(ledger, "open", 100)
    own.ask("CONFIG", "SET", "maxmemory", "1")
    for step in (
        lambda: reserve(ledger, "x", 1),
        lambda: ledger.expire(NOW + TTL),
        lambda: ledger.set_limit("all", 5, now=NOW),
    ):
        with pytest.raises(LedgerUnavailable, match=r"maxmemory|OOM"):
            step()
    settle(ledger, "open", 60)  # it waits in the journal
    own.ask("CONFIG", "SET", "maxmemory", "0")
    assert counters(ledger) == {ALL: (120, 100)}
    ledger.expire(NOW)  # the journal is replayed
    assert counters(ledger) == {ALL: (180, 0)}
    assert ledger.verify() == []


def test_f38_a_server_that_is_full_of_what_is_to_be_copied_is_emptied_by_copying(
    own, tmp_path, monkeypatch
):
    monkeypatch.setattr(redis_outbox.Outbox, "poke", lambda self: None)  # its process died
    place = place_of(own, tmp_path)
    spent(opened(place), 400)
    monkeypatch.undo()
    used = re.search(r"used_memory:(\d+)", own.ask_all("INFO", "memory"))
    own.ask("CONFIG", "SET", "maxmemory", str(int(used[1]) - 100_000))
    ledger = opened(place)
    with pytest.raises(LedgerUnavailable, match="maxmemory"):
        reserve(ledger, "x", 1)
    assert ledger.verify() == []
    reserve(ledger, "x", 1)
    assert counters(ledger) == {ALL: (400 * 60, 1)}


def test_f41_a_ledger_of_another_version_is_refused_also_by_who_had_it_open(own, tmp_path):
    place = place_of(own, tmp_path)
    ledger = opened(place)
    reserve(ledger, "a", 100)
    list(ledger.log().requests())
    own.ask("HSET", f"{{router:{parse(place).ledger}}}:meta", "version", "1")
    with pytest.raises(ConfigurationError, match="version 1"):
        opened(place)
    own.restart()
    for _ in range(2):  # one that was open before notices when it meets the server anew
        with pytest.raises((ConfigurationError, LedgerUnavailable), match="version 1"):
            reserve(ledger, "b", 100)
    assert own.ask("HGET", f"{{router:{parse(place).ledger}}}:a:3:all:|total", "h") == "$3"
    rebuild(place, durability="normal")  # which is how an older one is taken over
    reserve(ledger, "b", 100)
    assert counters(ledger) == {ALL: (0, 200)}


def test_f45_a_slow_network_that_resets_and_slices_loses_nothing(tmp_path, proxy):
    ledger = opened(place_of(redis("valkey"), tmp_path, port=proxy.port))
    proxy.latency, proxy.slice = 0.002, 50
    done = threading.Event()

    def reset() -> None:
        while not done.wait(0.3):
            proxy.reset_all()

    resetting = threading.Thread(target=reset)
    resetting.start()
    for call in range(40):
        for step in (
            lambda c: reserve(ledger, f"r{c}", 100),
            lambda c: settle(ledger, f"r{c}", 60),
        ):
            for _ in range(50):
                with suppress(LedgerUnavailable):
                    step(call)
                    break
            else:
                raise AssertionError("never served")
    done.set()
    resetting.join()
    assert counters(ledger) == {ALL: (2400, 0)}
    assert ledger.verify() == []


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_f03_a_server_killed_again_and_again_loses_no_bill_with_durability_full(kind, tmp_path):
    """What it has acknowledged is in its file before it answers, so that no kill takes it back."""
    own = RedisServer(kind, durable=True)
    ledger = open_ledger(place_of(own, tmp_path), [BUDGET], durability="full")
    billed: dict[str, int] = {}
    stop = threading.Event()

    def work(worker: int) -> None:
        chance = random.Random(worker)
        for call in range(100_000):
            if stop.is_set():
                return
            name, cost = f"r{worker}-{call}", chance.randint(0, 10)
            with suppress(LedgerUnavailable):
                reserve(ledger, name, 10)
                billed[name] = cost
                settle(ledger, name, cost)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for each in workers:
        each.start()
    chance = random.Random(7)
    for _ in range(6):
        time.sleep(chance.uniform(0.05, 0.3))
        own.restart()
    stop.set()
    for each in workers:
        each.join()
    ledger.expire(NOW + TTL)
    assert ledger.verify() == []
    charged = {row.request_id: row.cost or 0 for row in ledger.log().attempts()}
    assert len(billed) > 50
    assert [name for name, cost in billed.items() if charged[name] < cost] == []
    assert counters(ledger) == {ALL: (sum(charged.values()), 0)}
    own.stop()


def leave_a_torn_step(own: RedisServer, ledger: str) -> None:
    """Leave its append-only file as a death in the middle of writing a step does."""
    [path] = [each for each in own.folder.rglob("*.aof") if "base" not in each.name]
    step = wire("MULTI") + wire("HINCRBY", f"{{router:{ledger}}}:meta", "seq", "1")
    with path.open("ab") as file:
        file.write(step + wire("XADD", f"{{router:{ledger}}}:outbox")[:-10])


def wait_for_its_new_file(own: RedisServer) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        facts = own.ask_all("INFO", "persistence")
        if "aof_rewrite_in_progress:0" in facts and "aof_rewrite_scheduled:0" in facts:
            return
        time.sleep(0.01)
    raise AssertionError("the append-only file is still being written anew")


def test_f03_a_step_torn_by_a_death_is_undone_whole_however_often_the_server_restarts(
    own, tmp_path
):
    """Redis takes out the torn command alone; those before it would be carried out at the restart
    after, with the step that was written next."""
    place = place_of(own, tmp_path)
    ledger = opened(place)
    spent(ledger, 3)
    own.kill()
    leave_a_torn_step(own, parse(place).ledger)
    own.start()
    spent(ledger, 3, name="after")
    wait_for_its_new_file(own)
    own.restart()
    spent(ledger, 3, name="later")
    assert ledger.verify() == []
    assert counters(ledger) == {ALL: (9 * 60, 0)}


def server_waits_for(primary: RedisServer, replicas: int) -> bool:
    return primary.ask("WAIT", str(replicas), "100") == f":{replicas}"


def test_a_step_counts_once_the_replicas_that_were_asked_for_have_it(tmp_path):
    primary = RedisServer("valkey", "--repl-diskless-sync-delay", "0")
    replica = RedisServer("valkey", "--replicaof", f"127.0.0.1 {primary.port}")
    with pytest.raises(LedgerUnavailable, match="replica"):
        opened(place_of(replica, tmp_path))
    deadline = time.monotonic() + 60
    while not server_waits_for(primary, 1) and time.monotonic() < deadline:
        time.sleep(0.05)
    ledger = opened(place_of(primary, tmp_path, replicas=1, timeout=20))
    reserve(ledger, "a", 100)
    replica.kill()
    with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
        opened(place_of(primary, tmp_path, replicas=1, timeout=1))
    primary.stop()
    replica.stop()


def test_a_server_that_is_still_loading_is_away_and_not_misconfigured(own, tmp_path):
    place = place_of(own, tmp_path)
    spent(opened(place), 3)
    info = redis_server._facts(b"redis_version:6.2.5\r\nrun_id:x\r\nrole:master\r\nloading:1\r\n"
                               b"aof_enabled:0\r\n")  # fmt: skip
    server = redis_server.Server(parse(place), "normal", 20)
    link = redis_server._Link(None, Exception)
    with pytest.raises(LedgerUnavailable, match="reading its data"):
        server._check(link, info, time.monotonic() + 1)


@pytest.mark.parametrize("damage", [("SET", "x"), ("HSET", "h", "much")])
@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_counter_that_is_none_any_more_is_damage_and_no_outage(tmp_path, kind, damage):
    place = place_of(redis(kind), tmp_path)
    ledger = opened(place)
    spent(ledger, 1)
    key = f"{{router:{parse(place).ledger}}}:a:3:all:|total"
    if damage[0] == "SET":
        redis(kind).ask("DEL", key)
    redis(kind).ask(damage[0], key, *damage[1:])
    with pytest.raises(LedgerCorrupt):
        reserve(ledger, "x", 1)
