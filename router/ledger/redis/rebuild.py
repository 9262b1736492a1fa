"""Puts the counters back into a server that has lost them, from the copy that the log's store has.

What is rebuilt is what the copy knows, and what the server still has in its queue: all but the last
moments, about a quarter of a second, of a server that was emptied. A reservation that was lost with
them is unknown, and whoever settles it is told so.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from router.errors import ConfigurationError
from router.ledger.mirror import Contents, Event, Kept, Mirror, Place
from router.ledger.redis.keys import (
    account,
    clock,
    definition,
    optional,
    series,
    span,
    whole,
)
from router.ledger.redis.scripts import RESTORE
from router.ledger.redis.server import PATIENT_SECONDS, Argument, Server
from router.ledger.redis.session import VERSION
from router.ledger.redis.store import KEEP_WINDOW, REMEMBER, REMEMBER_EXPIRED
from router.ledger.redis.url import parse
from router.ledger.sqlite.mirror import SqliteMirror
from router.ledger.url import sqlite_path
from router.ledger.windows import ROLLING_BUCKETS
from router.log.writer import to_json

_AT_ONCE = 500
Command = Sequence[Argument]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild put back: `steps`, how many the server still had in its queue."""

    accounts: int
    open_reservations: int
    steps: int
    position: int


def rebuild(url: str, *, durability: str = "full") -> Rebuilt:
    """Replace everything that the server has of a ledger by what its log's store knows of it.

    All processes are refused meanwhile and go on afterwards, under a new generation. Nothing in
    the log's store is lost or changed, but for what the server's queue still had to tell it.
    Raises as `open_ledger` does, and `ConfigurationError` where the log is of no such ledger.
    """
    place = parse(url)
    server = Server(place, durability, place.timeout)
    server.start()
    mirror = None
    try:
        path = sqlite_path(place.log)
        assert path is not None  # seen to by `parse`
        mirror = SqliteMirror(path, create=False)
        known = mirror.place()
        if known is None or known.ledger != place.ledger:
            raise ConfigurationError(f"{place.log} is not the log of ledger {place.ledger!r}")
        return _rebuild(server, mirror, known)
    finally:
        if mirror is not None:
            mirror.close()
        server.close()


@dataclass(frozen=True, slots=True)
class _Account:
    counters: tuple[int, int, int, int, int]  # settled, held, overrun, seen, credited
    clock: str
    leaves: float  # unix seconds


def _rebuild(server: Server, mirror: Mirror, known: Place) -> Rebuilt:
    prefix = f"{{router:{known.ledger}}}:"
    meta = f"{prefix}meta"
    server.command("HSET", meta, "lost", "it is being rebuilt")
    generation, seq = server.command("HMGET", meta, "gen", "seq")
    steps = 0
    if generation == known.generation.encode():
        for events in _queued(server, f"{prefix}outbox"):
            mirror.force(events)
            steps += len(events)
    position = max(known.position, int(seq or 0))
    for keys in _keys(server, prefix):
        server.command("DEL", *(key for key in keys if key != meta.encode()), f"{prefix}turn")
    contents = mirror.contents(ended_since=REMEMBER)
    now = int(server.command("TIME")[0])
    accounts = _accounts(contents)
    for command in _commands(prefix, contents, accounts, position, now):
        server.command(*command)
    fresh = uuid.uuid4().hex
    answer = server.call(
        RESTORE,
        meta,
        lambda run: (fresh, run, position, VERSION),
        deadline=server.deadline(PATIENT_SECONDS),
    )
    mirror.move(Place(known.ledger, fresh, answer[2].decode(), position))
    still_open = sum(each.state == "open" for each in contents.reservations)
    return Rebuilt(len(accounts), still_open, steps, position)


def _queued(server: Server, key: str) -> Iterator[list[Event]]:
    after = "-"
    while True:
        found = server.command("XRANGE", key, after, "+", "COUNT", _AT_ONCE)
        if not found:
            return
        yield [
            Event(int(identity.partition(b"-")[0]), fields[1].decode(), fields[3])
            for identity, fields in found
        ]
        after = f"({found[-1][0].decode()}"


def _keys(server: Server, prefix: str) -> Iterator[list[bytes]]:
    cursor = b"0"
    while True:
        cursor, keys = server.command("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", _AT_ONCE)
        if keys:
            yield keys
        if cursor == b"0":
            return


def _accounts(contents: Contents) -> dict[str, _Account]:
    """The accounts that Redis must have, by name.

    Those of rolling windows that count in the latest, and those that a reservation pays from which
    may still end or be corrected. Others come back when they are asked for.
    """
    paid = {account(*pays[:3]) for each in contents.reservations for pays in each.pays}
    clocks: dict[str, list[tuple[str, str, float | None]]] = {}
    for budget, kind, window_id, ends in contents.clocks:
        clocks.setdefault(budget, []).append((kind, window_id, ends))
    found = {}
    for each in contents.accounts:
        name = account(each.budget, each.scope_value, each.window_id)
        leaves, kind = 0.0, ""
        for kind, latest, ends in clocks.get(each.budget, []):
            leaves = _leaves(each.window_id, kind, latest, ends)
            if leaves:
                break
        if leaves or name in paid:
            counters = (each.settled, each.held, each.overrun, each.seen, each.credited)
            found[name] = _Account(counters, clock(each.budget, kind), leaves)
    return found


def _leaves(window_id: str, kind: str, latest: str, ends: float | None) -> float:
    """When a rolling window stops counting, given the latest of a kind; 0 for one that does not
    count, or does not roll."""
    seconds = span(kind)
    if ends is None or not window_id.startswith(f"{seconds}s:"):
        return 0.0
    back = int(latest.partition(":")[2]) - int(window_id.partition(":")[2])
    leaves = ends + seconds - back * seconds / ROLLING_BUCKETS
    return leaves if 0 <= back <= ROLLING_BUCKETS else 0.0


def _commands(
    prefix: str,
    contents: Contents,
    accounts: dict[str, _Account],
    position: int,
    now: int,
) -> Iterator[Command]:
    refers = Counter(account(*pays[:3]) for each in contents.reservations for pays in each.pays)
    for budget in contents.budgets:
        yield ("HSET", f"{prefix}budgets", budget.name, definition(budget))
    for name, value, limit in contents.limits:
        whose = whole(name) if value is None else series(name, value)
        yield ("HSET", f"{prefix}limit", whose, limit)
    for name, kind, window_id, ends in contents.clocks:
        yield ("HSET", f"{prefix}clock", clock(name, kind), f"{window_id}|{optional(ends)}")
    for name, found in accounts.items():
        pairs = [item for pair in zip("shonc", found.counters, strict=True) for item in pair]
        yield ("HSET", f"{prefix}a:{name}", *pairs, "r", refers[name], "k", found.clock)
        look_at = found.leaves + KEEP_WINDOW if found.leaves else now
        yield ("ZADD", f"{prefix}accounts", look_at, name)
        owner, _, window_id = name.rpartition("|")
        if window_id.partition(":")[0].removesuffix("s").isdecimal():
            yield ("ZADD", f"{prefix}rolling:{owner}", 0, window_id)
    for each in contents.reservations:
        yield from _reservation(prefix, each, position, now)


def _reservation(prefix: str, each: Kept, position: int, now: int) -> Iterable[Command]:
    paying = to_json([part for pays in each.pays for part in (account(*pays[:3]), pays[3])])
    expires_at = repr(float(each.expires_at))
    values: list[Argument] = [
        "st", each.state, "a", each.amounts.usd, "t", each.amounts.tokens, "e", expires_at,
        "q", each.request_id, "n", each.number, "p", paying, "v", position,
    ]  # fmt: skip
    if each.actual is not None:
        values += ["x", each.actual]
    yield ("HSET", f"{prefix}r:{each.reservation_id}", *values)
    request = f"{prefix}q:{each.request_id}"
    yield ("HSET", request, "st", each.request_status, f"n:{each.number}", each.reservation_id)
    if each.request_status == "open":
        yield ("ZADD", f"{prefix}requests", "GT", expires_at, each.request_id)
    if each.state == "open":
        yield ("ZADD", f"{prefix}open", expires_at, each.reservation_id)
    else:
        kept = REMEMBER_EXPIRED if each.state == "expired" else REMEMBER
        yield ("ZADD", f"{prefix}done", now + kept, f"r:{each.reservation_id}")
