"""The store in Redis or Valkey: each step is one script over counters, reservation and queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from typing import TYPE_CHECKING, Any

from router.ledger.matching import Amounts, Take
from router.ledger.mirror import drawn, ended, held, open_mirror, read_budget
from router.ledger.redis import scripts
from router.ledger.redis.keys import (
    clock,
    counters,
    definition,
    optional,
    series,
    span,
    take_arguments,
    whole,
)
from router.ledger.redis.outbox import Outbox
from router.ledger.redis.server import Argument, Server
from router.ledger.redis.session import Session
from router.ledger.redis.url import parse
from router.ledger.redis.verify import problems
from router.ledger.store import Counters, Denied, Draw, Ending, Invalid, Known, NewHold, NotOpen
from router.log.writer import to_json
from router.types import Budget, Change, RequestEnd

if TYPE_CHECKING:
    from router.log.base import Log

# How long Redis remembers a reservation that has ended, and one that has expired, in seconds: a
# lost reply is asked again within the first, evidence for a correction comes within the second.
# The log's store remembers all for good.
REMEMBER, REMEMBER_EXPIRED = 600, 86400
_LOG_BUSY_SECONDS = 10.0
_EXPIRE_AT_ONCE = 200  # reservations a script, so that a sweep never blocks others for long
_STATUS = 2  # the place of a request's status in its row
_INVALID = {
    "taken": "its request or attempt number is taken",
    "missing": "a first attempt must bring its request's row",
}


class RedisStore:
    """A `router.ledger.store.Store` on one Redis or Valkey server.

    Parameters: `url`, see `router.ledger.redis.url`; `durability`, "full" (a step is on the
    server's disk before it is answered) or "normal" (it survives the death of any process, the
    server's too); `busy_seconds`, in the place of the URL's timeout; `create` False opens only a
    ledger that exists.
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
        if busy_seconds is not None:
            place = replace(place, timeout=busy_seconds)
        self.name = place.name
        # Who only opens what exists looks at it or looks after it, on any server that keeps it.
        self._server = Server(place, durability if create else "normal")
        self._server.start()
        try:
            # The copy is always durable: what it has is taken out of Redis.
            self._mirror = open_mirror(
                place.log, durability="full", busy_seconds=_LOG_BUSY_SECONDS, create=create
            )
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
            self._step(scripts.DEFINE, to_json([asdict(budget) for budget in budgets]), *named)

    def hold(self, new: NewHold) -> Denied | Known | Invalid | None:
        takes: list[Argument] = []
        for take in new.takes:
            takes += [
                *take_arguments(take),
                take.meter,
                take.window_id,
                take.since,
                optional(take.resets_at),
                span(take.kind),
                take.amount,
                optional(take.limit),
            ]
        kind, *answer = self._step(
            scripts.HOLD,
            new.reservation_id,
            new.request_id,
            new.number,
            new.amounts.usd,
            new.amounts.tokens,
            repr(float(new.expires_at)),
            "" if new.request is None else new.request[_STATUS],
            held(new),
            *takes,
        )
        if kind == "ok":
            return None
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
            ended(ending),
            "" if ending.end is None else ending.end.status,
            REMEMBER,
        )
        if kind == "ok":
            return None
        state, booked, request_id, number = answer
        return NotOpen(state.decode(), int(booked), request_id.decode(), int(number))

    def draw(self, step: Draw) -> str:
        calls: list[Argument] = []
        for call in step.calls:
            calls += [
                call.reservation_id,
                call.request_id,
                call.number,
                call.state,
                call.amounts.usd,
                call.amounts.tokens,
                call.usd,
                call.tokens,
                int(call.state != "released"),
                "" if call.request is None else call.request[_STATUS],
                "" if call.end is None else call.end.status,
                repr(float(call.expires_at)),
            ]
        _, state = self._step(
            scripts.DRAW,
            step.lease_id,
            step.keep.usd,
            step.keep.tokens,
            repr(float(step.expires_at)),
            drawn(step),
            REMEMBER,
            REMEMBER_EXPIRED,
            *calls,
        )
        return str(state.decode())

    def refuse(self, request: list[Any]) -> str | None:
        kind, *answer = self._step(
            scripts.REFUSE, request[0], request[_STATUS], to_json(request), REMEMBER
        )
        return None if kind == "ok" else str(answer[0].decode())

    def finish(self, request_id: str, end: RequestEnd, now: float) -> bool:
        payload = to_json([request_id, astuple(end), now])
        return bool(self._step(scripts.FINISH, request_id, end.status, payload)[0] == "ok")

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
        return [counters(answer[0], answer[1], answer[2], answer[3:]) for answer in answers]

    def defined(self) -> list[Budget]:
        _, *found = self._look(scripts.LIST, "")
        budgets = [read_budget(json.loads(each)) for each in found]
        return sorted(budgets, key=lambda budget: budget.name)

    def scope_values(self, budget: str) -> list[str]:
        _, *found = self._look(scripts.LIST, series(budget, ""))
        return sorted(value.decode() for value in found)

    def set_limit(
        self, budget: str, scope_value: str | None, limit: int | None, now: float, note: str
    ) -> None:
        whose = whole(budget) if scope_value is None else series(budget, scope_value)
        payload = to_json([budget, scope_value, limit, now, note])
        self._step(scripts.SET_LIMIT, whose, optional(limit), payload)

    def credit(self, take: Take, amount: int, now: float, note: str) -> int:
        self._outbox.check()
        _, given = self._session.step(
            scripts.CREDIT,
            (
                series(take.budget, take.scope_value),
                clock(take.budget, take.kind),
                take.window_id,
                take.since,
                amount,
                to_json([astuple(replace(take, amount=0)), amount, now, note]),
            ),
            again=False,  # it has no id by which a second one could be told from a repetition
            durable=True,
        )
        self._outbox.poke()
        return int(given)

    def audit(self) -> list[Change]:
        self._outbox.drain()
        return self._mirror.audit()

    def verify(self) -> list[str]:
        return problems(self._session, self._outbox, self._mirror)

    def log(self) -> Log:
        return self._mirror.log(self._outbox.drain, lambda: None)

    def close(self) -> None:
        self._outbox.close()
        self._server.close()
        self._mirror.close()

    def _step(self, script: scripts.Script, *arguments: Argument) -> list[Any]:
        """Do a step, which queues something for the log."""
        self._outbox.check()
        answer = self._session.step(script, arguments, durable=True)
        self._outbox.poke()
        return answer

    def _look(self, script: scripts.Script, *arguments: Argument) -> list[Any]:
        """Ask, without changing anything."""
        self._outbox.check()
        return self._session.step(script, arguments)


def open_redis_log(url: str) -> Log:
    """Open the log of an existing ledger. Raises as `router.log.open_log` does."""
    store = RedisStore(url, durability="normal", create=False)
    return store._mirror.log(store._outbox.drain, store.close)
