"""The store in Redis or Valkey: each step is one script over counters, reservation and queue."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

from router.errors import LedgerUnavailable
from router.ledger import lines
from router.ledger.matching import Amounts, Take
from router.ledger.mirror import Copied, Memory, Past, credited, drawn
from router.ledger.redis import scripts
from router.ledger.redis.keys import (
    account,
    clock,
    counters,
    definition,
    optional,
    read_account,
    series,
    span,
    take_arguments,
    told,
    whole,
)
from router.ledger.redis.log import DrainedLog
from router.ledger.redis.outbox import Outbox
from router.ledger.redis.server import Argument, Server
from router.ledger.redis.session import Session
from router.ledger.redis.url import parse
from router.ledger.redis.verify import problems
from router.ledger.sqlite.mirror import SqliteMirror
from router.ledger.store import (
    Counters,
    Denied,
    Draw,
    Drawn,
    Ending,
    Invalid,
    Known,
    NewHold,
    NotOpen,
)
from router.ledger.url import sqlite_path
from router.log.writer import to_json
from router.types import Budget, Change, RequestEnd

if TYPE_CHECKING:
    from router.log.base import Log

# How long Redis remembers a reservation that has ended, so that most of what is asked again is
# known without a look at the log's store, which remembers all for good; and one that has expired,
# which evidence may correct as long as it is remembered here. In seconds.
REMEMBER, REMEMBER_EXPIRED = 600, 30 * 86400
KEEP_WINDOW = 86400  # seconds that a rolling window's counters are kept after they last count
# How far the log's store has come, for what is known of an id that was drawn just now in any case.
_EVER = 2**53
_EXPIRE_AT_ONCE = 200  # reservations a script, so that a sweep never blocks others for long
_LOOKS = 5
Places = set[tuple[str, str, str]]  # accounts: budget, scope value, window
_STATUS = 2  # the place of a request's status in its row
_INVALID = {
    "taken": "its request or attempt number is taken",
    "missing": "a first attempt must bring its request's row",
}


class RedisStore:
    """A `router.ledger.store.Store` on one Redis or Valkey server.

    Parameters: `url`, see `router.ledger.redis.url`; `durability`, "full" (a step is on the
    server's disk before it is answered) or "normal" (it survives the death of any process but the
    server: one that is killed may lose its last moments, which is noticed and stops everybody until
    a rebuild); `busy_seconds`, how long a call may take, None for what the URL says; `create`
    False opens only a ledger that exists.
    """

    def __init__(
        self,
        url: str,
        *,
        durability: str = "full",
        busy_seconds: float | None = None,
        create: bool = True,
    ):
        place = parse(url)
        self.name = place.name
        seconds = place.timeout if busy_seconds is None else busy_seconds
        # Who only opens what exists looks at it or looks after it, on any server that keeps it.
        self._server = Server(place, durability if create else "normal", seconds)
        self._server.start()
        path = sqlite_path(place.log)
        assert path is not None  # seen to by `parse`
        try:
            self._mirror = SqliteMirror(path, create=create)
        except BaseException:
            self._server.close()
            raise
        self._session = Session(self._server, self._mirror)
        self._outbox = Outbox(self._server, self._session, self._mirror)
        try:
            self._session.begin(create=create)
        except BaseException:
            self.close()
            raise

    def define(self, budgets: Sequence[Budget]) -> None:
        named: list[Argument] = []
        for budget in budgets:
            named += [budget.name, definition(budget)]
        if named:
            self._step(scripts.DEFINE, to_json([astuple(budget) for budget in budgets]), *named)

    def hold(self, new: NewHold) -> Denied | Known | Invalid | None:
        takes: list[Argument] = []
        for take in new.takes:
            takes += [
                *take_arguments(take),
                take.meter,
                take.window_id,
                take.since,
                optional(take.resets_at),
                span(take.kind) + KEEP_WINDOW if take.rolls else REMEMBER,
                take.amount,
                optional(take.limit),
            ]

        def arguments(memory: Memory) -> list[Argument]:
            return [
                new.reservation_id,
                new.request_id,
                new.number,
                new.amounts.usd,
                new.amounts.tokens,
                repr(float(new.expires_at)),
                "" if new.request is None else new.request[_STATUS],
                payload,
                memory.position,
                "1" if memory.reservations else "",
                memory.request or "",
                "1" if memory.taken else "",
                told(memory),
                *takes,
            ]

        def look(accounts: Places) -> Memory:
            if new.is_new and new.request is not None and not accounts:
                return Memory(_EVER, {}, accounts=_own_accounts(new))
            return self._mirror.memory([new.reservation_id], new.request_id, new.number, accounts)

        payload = lines.open_line(new)
        memory, kind, *answer = self._remembering(scripts.HOLD, look, arguments)
        if kind == "ok":
            return None
        if kind == "past":
            past = memory.reservations[new.reservation_id]
            return Known(past.state, past.amounts, past.expires_at)
        if kind == "known":
            state, usd, tokens, expires_at = answer
            return Known(state.decode(), Amounts(int(usd), int(tokens)), float(expires_at))
        if kind == "invalid":
            return Invalid(_INVALID[answer[0].decode()])
        position, window_id, limit, resets_at, *windows = answer
        found = counters(window_id, resets_at, b"", windows)
        return Denied(
            int(position),
            found.settled,
            found.held,
            int(limit),
            found.seen,
            found.window_id,
            found.resets_at,
            found.oldest,
        )

    def end(self, ending: Ending) -> NotOpen | None:
        kind, *answer = self._step(
            scripts.END,
            ending.reservation_id,
            ending.request_id,
            ending.number,
            "settled" if ending.billed else "released",
            ending.usd,
            optional(ending.tokens),
            int(ending.billed),
            lines.end_line(ending),
            "" if ending.end is None else ending.end.status,
            REMEMBER,
        )
        if kind == "ok":
            return None
        state, booked, request_id, number = answer
        if state != b"unknown":
            return NotOpen(state.decode(), int(booked), request_id.decode(), int(number))
        past = self._past(ending.reservation_id)
        if past is None:
            return NotOpen("unknown")
        return NotOpen(past.state, past.booked, past.request_id, past.number)

    def draw(self, step: Draw) -> str:
        ids = [call.reservation_id for call in step.calls]

        def arguments(memory: Memory) -> list[Argument]:
            calls = [call for call in step.calls if call.reservation_id not in memory.reservations]
            return [
                step.lease_id,
                step.keep.usd,
                step.keep.tokens,
                repr(float(step.expires_at)),
                drawn(replace(step, calls=tuple(calls))),
                memory.position,
                REMEMBER,
                *[value for call in calls for value in _call(call)],
            ]

        _, _, state = self._remembering(scripts.DRAW, lambda _: self._mirror.memory(ids), arguments)
        if state == b"unknown":
            past = self._past(step.lease_id)
            return "unknown" if past is None else past.state
        return str(state.decode())

    def refuse(self, request: list[Any]) -> str | None:
        _, kind, *answer = self._remembering(
            scripts.REFUSE,
            lambda _: self._mirror.memory((), request[0]),
            lambda memory: [
                request[0],
                request[_STATUS],
                to_json(request),
                REMEMBER,
                memory.position,
                memory.request or "",
            ],
        )
        return None if kind == "ok" else str(answer[0].decode())

    def finish(self, request_id: str, end: RequestEnd, now: float) -> bool:
        _, kind, *_ = self._remembering(
            scripts.FINISH,
            lambda _: self._mirror.memory((), request_id),
            lambda memory: [
                request_id,
                end.status,
                lines.finish_line(request_id, end, now),
                memory.position,
                memory.request or "",
            ],
        )
        return bool(kind == "ok")

    def expire(self, now: float) -> int:
        total = 0
        while True:
            _, expired, requests = self._step(
                scripts.EXPIRE, repr(float(now)), _EXPIRE_AT_ONCE, REMEMBER_EXPIRED
            )
            total += int(expired)
            if max(int(expired), int(requests)) < _EXPIRE_AT_ONCE:
                return total

    def read(self, takes: Sequence[Take]) -> list[Counters]:
        arguments: list[Argument] = []
        for take in takes:
            arguments += [
                *take_arguments(take), take.window_id, take.since, optional(take.resets_at)
            ]  # fmt: skip
        _, *answers = self._look(scripts.READ, *arguments)
        let_go = {
            account(take.budget, take.scope_value, answer[0].decode()): answer
            for take, answer in zip(takes, answers, strict=True)
            if not take.rolls and len(answer) == 3
        }
        if let_go:  # they may have come back since: then the log's store has a later state
            known = self._mirror.memory(accounts=map(read_account, let_go)).accounts.values()
            for copy, answer in zip(known, let_go.values(), strict=True):
                answer += [answer[0], copy.settled, copy.held, copy.overrun, copy.seen]
        return [counters(answer[0], answer[1], answer[2], answer[3:]) for answer in answers]

    def defined(self) -> list[Budget]:
        _, *found = self._look(scripts.LIST)
        budgets = []
        for each in found:
            budget = Budget(**json.loads(each))
            when = tuple([(name, value) for name, value in budget.when])
            budgets.append(replace(budget, when=when))
        return sorted(budgets, key=lambda budget: budget.name)

    def scope_values(self, budget: str) -> list[str]:
        self._outbox.drain()
        return self._mirror.scope_values(budget)

    def set_limit(
        self, budget: str, scope_value: str | None, limit: int | None, now: float, note: str
    ) -> None:
        whose = whole(budget) if scope_value is None else series(budget, scope_value)
        payload = to_json([budget, scope_value, limit, now, note])
        self._step(scripts.SET_LIMIT, whose, optional(limit), payload)

    def credit(self, take: Take, amount: int, now: float, note: str) -> int:
        _, _, given = self._remembering(
            scripts.CREDIT,
            lambda accounts: self._mirror.memory(accounts=accounts),
            lambda memory: [
                series(take.budget, take.scope_value),
                clock(take.budget, take.kind),
                take.window_id,
                take.since,
                amount,
                credited(take, amount, now, note),
                memory.position,
                told(memory),
                REMEMBER,
            ],
            again=False,  # it has no id by which a second one could be told from a repetition
        )
        return int(given)

    def audit(self) -> list[Change]:
        self._outbox.drain()
        return self._mirror.audit()

    def verify(self) -> list[str]:
        return problems(self._session, self._outbox, self._mirror)

    def log(self) -> Log:
        return DrainedLog(self._mirror.log(), self._outbox.drain, lambda: None)

    def close(self) -> None:
        self._outbox.close()
        self._server.close()
        self._mirror.close()

    def _step(self, script: scripts.Script, *arguments: Argument, again: bool = True) -> list[Any]:
        """Do a step, which queues something for the log."""
        self._outbox.check()
        answer = self._session.step(script, arguments, again=again, durable=True)
        self._outbox.poke()
        return answer

    def _remembering(
        self,
        script: scripts.Script,
        look: Callable[[Places], Memory],
        arguments: Callable[[Memory], Sequence[Argument]],
        *,
        again: bool = True,
    ) -> tuple[Any, ...]:
        """Do a step that must know what Redis has forgotten. Whatever that is was in the log's
        store before; the script refuses where more was forgotten since it was looked at there, and
        names accounts that it must be told of."""
        accounts: Places = set()
        for _ in range(_LOOKS):
            memory = look(accounts)
            answer = self._step(script, *arguments(memory), again=again)
            if answer[0] != "again":
                return memory, *answer
            accounts |= {read_account(name.decode()) for name in answer[1:]}
        raise LedgerUnavailable(self.name, "its log moves too fast to be looked at")

    def _past(self, reservation_id: str) -> Past | None:
        """What the log's store knows of a reservation that Redis does not know."""
        return self._mirror.memory([reservation_id]).reservations.get(reservation_id)

    def _look(self, script: scripts.Script, *arguments: Argument) -> list[Any]:
        """Ask, without changing anything."""
        self._outbox.check()
        return self._session.step(script, arguments)


def _own_accounts(new: NewHold) -> dict[tuple[str, str, str], Copied]:
    """The accounts of a request whose id was drawn just now: nothing was ever spent from them."""
    places = [
        (take.budget, take.scope_value, take.window_id)
        for take in new.takes
        if take.scope_value == new.request_id
    ]
    return {place: Copied(*place, 0, 0, 0, 0, 0) for place in places}


def _call(call: Drawn) -> list[Argument]:
    """What the script is told of a call that is drawn."""
    return [
        *(call.reservation_id, call.request_id, call.number, call.state),
        *(call.amounts.usd, call.amounts.tokens, call.usd, call.tokens),
        *(call.inside.usd, call.inside.tokens, repr(float(call.expires_at))),
        "" if call.request is None else call.request[_STATUS],
        "" if call.end is None else call.end.status,
    ]


def open_redis_log(url: str) -> Log:
    """Open the log of an existing ledger. Raises as `open_ledger` does."""
    store = RedisStore(url, durability="normal", create=False)
    return DrainedLog(store._mirror.log(), store._outbox.drain, store.close)
