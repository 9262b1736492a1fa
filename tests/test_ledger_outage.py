"""While the store is away: nothing is sent unasked, and nothing that was sent is lost."""

from __future__ import annotations

import os
import random
import signal
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from router.cli.ledger import command
from router.errors import BudgetExceeded, ConfigurationError, LedgerUnavailable, ReservationError
from router.ledger import open_ledger
from router.log.savings import savings
from router.types import Budget, RequestEnd
from tests.ledger_kit import (
    NOW,
    TTL,
    counters,
    processes,
    release,
    request_row,
    reserve,
    settle,
    url,
)
from tests.outage_kit import journals, leased, outage, store_of

ALL = ("all", "")
BUDGETS = [Budget("all", 10_000_000)]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "l.db"


@pytest.fixture
def cut(tmp_path) -> Path:
    return tmp_path / "cut"


def direct(path: Path, budgets=BUDGETS):
    return open_ledger(url(path), budgets, durability="normal")


def test_f31_a_store_that_is_away_before_a_call_denies_it(path, cut):
    ledger = outage(path, cut, BUDGETS)
    cut.touch()
    with pytest.raises(LedgerUnavailable):
        ledger.room({}, NOW)
    with pytest.raises(LedgerUnavailable):
        reserve(ledger, "a", 100)
    assert journals(path) == []


def test_a_reservation_that_was_refused_without_an_answer_is_released_and_never_charged(path, cut):
    """Nothing was sent, so the hold that may have been made is no call whose process died."""
    ledger = outage(path, cut, BUDGETS)
    for name in ("a", "b"):
        store_of(ledger).lose_replies = 1
        with pytest.raises(LedgerUnavailable):
            reserve(ledger, name, 100)
    assert counters(ledger) == {ALL: (0, 200)}
    assert reserve(ledger, "b", 100).amount == 100  # asked again: this one is sent
    ledger.expire(NOW + 1)
    assert counters(ledger) == {ALL: (0, 100)}
    assert ledger.expire(NOW + TTL) == 1
    assert counters(ledger) == {ALL: (100, 0)}
    assert ledger.verify() == []
    requests = {row.request_id: row for row in ledger.log().requests()}
    assert (requests["a"].status, requests["b"].status) == ("refused", "expired")
    assert "the reply was lost" in requests["a"].error
    assert [(row.status, row.cost) for row in ledger.log().attempts()] == [
        ("failed", 0),
        ("expired", 100),
    ]


def test_a_refused_reservation_that_comes_late_to_the_store_is_released_as_well(path, cut):
    ledger = outage(path, cut, BUDGETS)
    store, under_way = store_of(ledger), []

    def slow(new):
        under_way.append(new)
        raise LedgerUnavailable(store.name, "no answer came in time", in_doubt=True)

    store.hold = slow
    with pytest.raises(LedgerUnavailable):
        reserve(ledger, "a", 100)
    ledger.expire(NOW + 1)
    direct(path).store.hold(under_way[0])
    assert counters(ledger) == {ALL: (0, 100)}
    ledger.expire(NOW + 2)
    assert counters(ledger) == {ALL: (0, 0)}
    assert ledger.verify() == []


def test_f31_a_settlement_is_parked_and_replayed_with_the_next_call(path, cut):
    ledger = outage(path, cut, BUDGETS)
    for name in ("a", "b"):
        reserve(ledger, name, 100)
    cut.touch()
    settle(ledger, "a", 60)
    release(ledger, "b")
    settle(ledger, "a", 60)  # again
    with pytest.raises(ReservationError):
        settle(ledger, "a", 61)
    [journal] = journals(path)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700
    assert counters(direct(path)) == {ALL: (0, 200)}
    cut.unlink()
    reserve(ledger, "c", 100)
    assert counters(ledger) == {ALL: (60, 100)}
    assert journals(path) == []
    assert ledger.verify() == []
    assert [row.status for row in ledger.log().requests()] == ["answered", "failed", "open"]


def test_f31_a_sweep_replays_what_is_parked(path, cut):
    ledger = outage(path, cut, BUDGETS)
    reserve(ledger, "a", 100)
    cut.touch()
    settle(ledger, "a", 60)
    with pytest.raises(LedgerUnavailable):
        ledger.expire(NOW)
    cut.unlink()
    assert ledger.expire(NOW) == 0
    assert counters(ledger) == {ALL: (60, 0)}


def test_f31_a_reply_lost_after_the_commit_settles_once(path, cut):
    ledger = outage(path, cut, BUDGETS)
    reserve(ledger, "a", 100)
    store_of(ledger).lose_replies = 1
    settle(ledger, "a", 60)
    assert len(journals(path)) == 1
    ledger.expire(NOW)
    assert counters(ledger) == {ALL: (60, 0)}
    assert journals(path) == []
    assert ledger.verify() == []


def test_f31_a_settlement_that_comes_after_its_expiry_corrects_it(path, cut):
    ledger = outage(path, cut, BUDGETS)
    reserve(ledger, "a", 100)
    cut.touch()
    settle(ledger, "a", 60)
    assert direct(path).expire(NOW + TTL) == 1
    cut.unlink()
    ledger.expire(NOW + TTL)
    assert counters(ledger) == {ALL: (60, 0)}


def test_rows_of_the_log_alone_are_parked_too(path, cut):
    ledger = outage(path, cut, BUDGETS)
    reserve(ledger, "a", 100)
    release(ledger, "a")
    cut.touch()
    ledger.refuse(request_row("no", status="refused", error="too large"))
    ledger.finish("a", RequestEnd("failed", None, None, "all tiers"), NOW)
    cut.unlink()
    ledger.expire(NOW)
    assert {row.request_id: row.error for row in ledger.log().requests()} == {
        "a": "all tiers",
        "no": "too large",
    }


def _park_and_die(path, cut, torn):
    ledger = outage(path, cut, BUDGETS)
    for call in range(10):
        reserve(ledger, f"r{call}", 100)
    cut.touch()
    for call in range(10):
        settle(ledger, f"r{call}", call)
    if torn:
        [journal] = journals(path)
        text = journal.read_bytes().rstrip(b"\0")
        journal.write_bytes(text[:-20])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("torn", [False, True])
def test_f31_the_next_process_replays_what_a_dead_one_parked(path, cut, torn):
    process = processes.Process(target=_park_and_die, args=(path, cut, torn))
    process.start()
    process.join()
    assert len(journals(path)) == 1
    ledger = direct(path)
    assert counters(ledger) == {ALL: (sum(range(9 if torn else 10)), 100 if torn else 0)}
    assert ledger.verify() == []
    assert journals(path) == []


def test_a_journal_of_a_living_process_is_left_to_it(path, cut):
    ledger = outage(path, cut, BUDGETS)
    reserve(ledger, "a", 100)
    cut.touch()
    settle(ledger, "a", 60)
    other = direct(path)
    assert other.recover(NOW) == 0
    assert counters(other) == {ALL: (0, 100)}
    pid = os.fork()  # a child must not keep its parent's lock, nor replay its journal
    if pid == 0:
        ok = ledger._journal is None and not ledger._parked
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_journal_of_another_store_is_left_alone(path, cut, tmp_path):
    process = processes.Process(target=_park_and_die, args=(path, cut, False))
    process.start()
    process.join()
    other = open_ledger(url(tmp_path / "other.db"), BUDGETS, journal=f"{path}.journal")
    assert other.recover(NOW) == 0
    assert len(journals(path)) == 1


def test_a_journal_that_was_moved_together_with_its_file_is_replayed(path, cut, tmp_path):
    process = processes.Process(target=_park_and_die, args=(path, cut, False))
    process.start()
    process.join()
    moved = tmp_path / "moved"
    moved.mkdir()
    for each in [*path.parent.glob("l.db*")]:
        each.rename(moved / each.name)
    ledger = direct(moved / path.name)
    assert counters(ledger) == {ALL: (45, 0)}
    assert ledger.verify() == []
    assert journals(moved / path.name) == []


def test_a_journal_that_was_changed_is_set_aside_and_its_holds_expire(path, cut):
    process = processes.Process(target=_park_and_die, args=(path, cut, False))
    process.start()
    process.join()
    [journal] = journals(path)
    text = bytearray(journal.read_bytes())
    text[text.index(b'"r3/1"') + 2] ^= 1
    journal.write_bytes(bytes(text))
    ledger = direct(path)
    assert counters(ledger) == {ALL: (0, 1000)}
    assert [file.suffix for file in journal.parent.iterdir()] == [".damaged"]
    ledger.expire(NOW + TTL)
    assert counters(ledger) == {ALL: (1000, 0)}


def _replay(place, answers):
    answers.put(open_ledger(place, create=False).recover(NOW))


def test_of_processes_that_replay_at_once_one_does(path, cut):
    for _ in range(3):
        process = processes.Process(target=_park_and_die, args=(path, cut, False))
        process.start()
        process.join()
        cut.unlink()
        answers = processes.Queue()
        racing = [processes.Process(target=_replay, args=(url(path), answers)) for _ in range(4)]
        for each in racing:
            each.start()
        assert sum(answers.get(timeout=30) for _ in racing) == 1
        for each in racing:
            each.join()
        ledger = direct(path)
        assert counters(ledger) == {ALL: (45, 0)}
        assert ledger.verify() == []
        ledger.close()
        path.unlink()


def test_the_command_line_replays_too(path, cut):
    process = processes.Process(target=_park_and_die, args=(path, cut, False))
    process.start()
    process.join()
    ran = CliRunner().invoke(command, ["recover", str(path)])
    assert (ran.exit_code, ran.output.strip()) == (0, "1 journals replayed")
    assert counters(direct(path)) == {ALL: (45, 0)}
    ran = CliRunner().invoke(command, ["recover", str(path), "--json"])
    assert '"journals": 0' in ran.output


def test_a_journal_that_cannot_be_written_leaves_the_hold_and_says_so(path, cut, tmp_path):
    ledger = outage(path, cut, BUDGETS)
    reserve(ledger, "a", 100)
    Path(f"{path}.journal").write_text("not a folder")
    cut.touch()
    with pytest.raises(LedgerUnavailable, match="network is cut"):
        settle(ledger, "a", 60)
    cut.unlink()
    assert counters(ledger) == {ALL: (0, 100)}


# ── on_outage: open ────────────────────────────────────────────────────────────────────────────
def test_open_goes_on_counts_each_call_and_books_it_as_an_overrun(path, cut):
    budgets = [*BUDGETS, Budget("calls", 1, meter="requests")]
    ledger = outage(path, cut, budgets, on_outage="open")
    reserve(ledger, "before", 100)
    cut.touch()
    assert ledger.room({}, NOW).remaining() is None
    for call in range(5):
        reserve(ledger, f"r{call}", 100)
    settle(ledger, "before", 50)
    for call in range(4):
        settle(ledger, f"r{call}", 10)
    assert ledger.unbooked() == 5
    cut.unlink()
    ledger._away_until = 0.0  # a moment later
    assert ledger.expire(NOW) == 0
    assert ledger.unbooked() == 1  # one is under way
    settle(ledger, "r4", 10)
    ledger.expire(NOW)
    assert ledger.unbooked() == 0
    state = ledger.states(NOW)[0]
    assert (state.settled, state.held, state.overrun) == (100, 0, 50)
    assert ledger.verify() == []
    assert journals(path) == []
    report = savings(ledger.log())
    assert (report.unaccounted, report.total.spent) == (5, 100)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "after", 100)


def test_open_asks_the_store_again_a_moment_later_however_many_calls_come_meanwhile(
    path, cut, monkeypatch
):
    moment = 1000.0
    monkeypatch.setattr("router.ledger.outage.time.monotonic", lambda: moment)
    ledger = outage(path, cut, [Budget("all", 500)], on_outage="open")
    cut.touch()
    reserve(ledger, "blip", 100)
    cut.unlink()
    for call in range(3):  # within the same moment
        moment += 0.3
        reserve(ledger, f"r{call}", 100)
    assert ledger.unbooked() == 4
    moment += 0.3
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "too much", 501)


def test_an_open_call_is_booked_after_a_replay_that_found_the_store_still_away(path, cut):
    ledger = outage(path, cut, BUDGETS, on_outage="open")
    cut.touch()
    for name, cost in (("a", 60), ("b", 50)):
        ledger._away_until = 0.0  # a moment later
        reserve(ledger, name, 100)
        settle(ledger, name, cost)
    cut.unlink()
    ledger.expire(NOW)
    assert counters(ledger) == {ALL: (110, 0)}
    assert [row.cost for row in ledger.log().attempts()] == [60, 50]
    assert journals(path) == []


def test_samples_of_one_open_request_are_booked_in_whatever_order_they_end(path, cut):
    ledger = outage(path, cut, BUDGETS, on_outage="open")
    cut.touch()
    for number in (1, 2, 3):
        reserve(ledger, "vote", 100, number=number)
    for number in (3, 1, 2):
        settle(ledger, "vote", 10 * number, number=number)
    cut.unlink()
    ledger.expire(NOW)
    assert counters(ledger) == {ALL: (60, 0)}
    assert ledger.verify() == []


def test_a_further_sample_of_an_open_request_is_held_once_the_store_is_back(path, cut):
    ledger = outage(path, cut, BUDGETS, on_outage="open")
    cut.touch()
    reserve(ledger, "vote", 100)
    cut.unlink()
    ledger._away_until = 0.0  # a moment later
    for number in (2, 3):
        reserve(ledger, "vote", 100, number=number)
    assert counters(ledger) == {ALL: (0, 200)}
    for number in (2, 1, 3):
        settle(ledger, "vote", 10, number=number)
    ledger.expire(NOW)
    assert counters(ledger) == {ALL: (30, 0)}
    assert ledger.verify() == []


def test_a_call_that_one_budget_of_requests_has_no_room_for_counts_in_all_others(path, cut):
    limits = {"a": 1, "b": 5, "c": 2}
    budgets = [Budget(name, limit, meter="requests") for name, limit in limits.items()]
    ledger = outage(path, cut, [*BUDGETS, *budgets], on_outage="open")
    cut.touch()
    for call in range(4):
        reserve(ledger, f"r{call}", 100)
        settle(ledger, f"r{call}", 60)
    cut.unlink()
    ledger.expire(NOW)
    own = {("a", ""): (1, 0), ("b", ""): (4, 0), ("c", ""): (2, 0)}
    assert counters(ledger) == {ALL: (240, 0), **own}
    assert ledger.verify() == []


def _go_on_open_and_die(path, cut):
    ledger = outage(path, cut, BUDGETS, on_outage="open")
    cut.touch()
    for call in range(4):
        reserve(ledger, f"r{call}", 100)
        if call < 3:
            settle(ledger, f"r{call}", 10)
    os.kill(os.getpid(), signal.SIGKILL)


def test_open_calls_of_a_dead_process_are_booked_and_one_under_way_in_full(path, cut):
    process = processes.Process(target=_go_on_open_and_die, args=(path, cut))
    process.start()
    process.join()
    ledger = direct(path)
    assert counters(ledger) == {ALL: (130, 0)}
    assert ledger.verify() == []


def test_an_open_call_that_is_never_heard_of_is_charged_in_full(path, cut):
    ledger = outage(path, cut, BUDGETS, on_outage="open")
    cut.touch()
    reserve(ledger, "a", 100)
    cut.unlink()
    ledger.expire(NOW + TTL)
    assert counters(ledger) == {ALL: (100, 0)}


# ── on_outage: lease ───────────────────────────────────────────────────────────────────────────
def test_lease_goes_on_within_what_is_held_and_no_further(path, cut):
    ledger = leased(path, cut, BUDGETS, on_outage="lease", flush_seconds=3600.0)
    reserve(ledger, "first", 100)
    ledger.room({}, NOW)
    cut.touch()
    spent = 0
    for call in range(100_000):
        name, now = f"r{call}", NOW + call  # far past the lease's own time
        try:
            ledger.room({}, now)
            reserve(ledger, name, 1000, now=now)
        except LedgerUnavailable:
            break
        settle(ledger, name, 900, now=now)
        spent += 900
    assert 100_000 - 1000 <= spent + 100 <= 100_000
    assert direct(path).expire(NOW + 10_000) == 1  # others charge the lease meanwhile
    assert counters(direct(path)) == {ALL: (100_000, 0)}
    cut.unlink()
    settle(ledger, "first", 1, now=NOW + 10_000)
    ledger.close()
    after = direct(path)
    assert counters(after) == {ALL: (spent + 1, 0)}
    assert after.verify() == []


def test_deny_stops_leases_as_soon_as_the_store_is_found_away(path, cut):
    ledger = leased(path, cut, BUDGETS, flush_seconds=3600.0)
    reserve(ledger, "a", 100)
    settle(ledger, "a", 60)
    cut.touch()
    ledger._mine.flush()
    with pytest.raises(LedgerUnavailable):
        reserve(ledger, "b", 100)
    cut.unlink()
    reserve(ledger, "b", 100)
    ledger.close()
    assert counters(direct(path)) == {ALL: (160, 0)}


def test_on_outage_lease_needs_leases():
    with pytest.raises(ConfigurationError):
        open_ledger("sqlite://", on_outage="lease")


LIMIT = 20_000_000


def _host(path, cut, worker, answers, barrier):
    """Spend as fast as the budget allows, through an outage of this host's own contact."""
    chance = random.Random(worker)
    mine = cut.with_name(f"cut{worker % 3}")  # the third part of the hosts keeps its contact
    ledger = leased(path, mine, [Budget("all", LIMIT)], on_outage="lease", flush_seconds=0.02)
    spent = calls = denied = away = 0

    def spend(until: float) -> None:
        nonlocal spent, calls, denied, away
        while time.monotonic() < until:
            name = f"r{worker}-{calls + denied + away}"
            try:
                ledger.room({}, NOW)
                reserve(ledger, name, 500)
            except BudgetExceeded:
                denied += 1
            except LedgerUnavailable:
                away += 1
            else:
                cost = chance.randint(0, 500)
                settle(ledger, name, cost)
                spent, calls = spent + cost, calls + 1
            time.sleep(0.0005)

    reserve(ledger, f"warm{worker}", 500)
    settle(ledger, f"warm{worker}", 500)
    spent += 500
    ledger.room({}, NOW)
    barrier.wait()
    if worker % 3:
        mine.touch()
    before = calls
    spend(time.monotonic() + 1.5)
    during = calls - before
    barrier.wait()
    mine.unlink(missing_ok=True)
    barrier.wait()
    spend(time.monotonic() + 0.5)
    ledger.close()
    answers.put((worker, spent, calls + 1, during))


def test_hosts_that_lose_the_store_go_on_within_their_leases_and_rejoin_with_exact_totals(
    path, cut
):
    hosts = 6
    answers, barrier = processes.Queue(), processes.Barrier(hosts)
    direct(path, [Budget("all", LIMIT)]).close()
    running = [
        processes.Process(target=_host, args=(path, cut, worker, answers, barrier))
        for worker in range(hosts)
    ]
    for process in running:
        process.start()
    ledger, worst = direct(path, [Budget("all", LIMIT)]), []
    while any(process.is_alive() for process in running) and answers.empty():
        [state] = ledger.states(NOW)
        worst.append(state.settled + state.held)
        time.sleep(0.01)
    results = [answers.get(timeout=60) for _ in running]
    for process in running:
        process.join()
        assert process.exitcode == 0
    cut_off = [result for result in results if result[0] % 3]
    assert all(during > 20 for _, _, _, during in cut_off)  # they went on
    assert max(worst) <= LIMIT
    assert counters(ledger) == {ALL: (sum(spent for _, spent, _, _ in results), 0)}
    assert len(list(ledger.log().attempts())) == sum(calls for _, _, calls, _ in results)
    assert ledger.verify() == []
    assert journals(path) == []
