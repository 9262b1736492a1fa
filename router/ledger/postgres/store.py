"""The store in PostgreSQL: each step is one call of a function in the database."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from router.ledger.matching import Amounts, Take
from router.ledger.postgres.connection import Refused, to_json
from router.ledger.postgres.database import BUSY_SECONDS, Database
from router.ledger.postgres.draws import DRAW, draw_values
from router.ledger.postgres.log import PostgresLog, keep_looks
from router.ledger.postgres.verify import problems
from router.ledger.store import Counters, Denied, Draw, Ending, Invalid, Known, NewHold, NotOpen
from router.types import Budget, Change, RequestEnd

_EXPIRE_AT_ONCE = 100  # reservations a transaction, so that a sweep never blocks others for long

_HOLD = "CALL hold(NULL, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_END = "CALL finish_hold(NULL, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"


class PostgresStore:
    """A `router.ledger.store.Store` in a PostgreSQL database. See `Database` for the parameters."""

    def __init__(
        self,
        url: str,
        *,
        durability: str = "full",
        busy_seconds: float = BUSY_SECONDS,
        connections: int = 8,
        create: bool = True,
    ):
        self._database = Database(
            url,
            durability=durability,
            busy_seconds=busy_seconds,
            connections=connections,
            create=create,
        )
        self.name = self._database.name

    def define(self, budgets: Sequence[Budget]) -> None:
        rows = [
            (
                *(b.name, b.limit, b.window, b.zone, b.scope),
                *(b.on_exceed, b.meter, b.value, b.seconds, b.purpose, json.dumps(b.when)),
            )
            for b in budgets
        ]
        if rows:
            self._database.call("SELECT define($1)", to_json(rows))

    def hold(self, new: NewHold) -> Denied | Known | Invalid | None:
        # One order of accounts for every process, so that none waits for another in a circle.
        order = sorted(
            range(len(new.takes)), key=lambda at: (new.takes[at].budget, new.takes[at].scope_value)
        )
        takes = [new.takes[at] for at in order]
        try:
            answer = self._database.call(
                _HOLD,
                self._database.durable,
                new.reservation_id,
                new.request_id,
                new.number,
                new.amounts.usd,
                new.amounts.tokens,
                new.now,
                new.expires_at,
                _locks(takes),
                _takes(takes),
                to_json(new.worst_case),
                None if new.request is None else to_json(new.request),
            )
        except Refused as error:
            return Invalid(str(error))
        if answer is None:
            return None
        if answer[0] == "known":
            _, state, usd, tokens, expires_at = answer
            return Known(state, Amounts(usd, tokens), float(expires_at))
        _, position, settled, held, limit, seen, window_id, resets_at, oldest = answer
        return Denied(order[position], settled, held, limit, seen, window_id, resets_at, oldest)

    def end(self, ending: Ending) -> NotOpen | None:
        answer = self._database.call(
            _END,
            self._database.durable,
            ending.reservation_id,
            ending.request_id,
            ending.number,
            ending.billed,
            ending.usd,
            ending.tokens,
            ending.now,
            to_json(ending.attempt),
            None if ending.end is None else _end(ending.end),
        )
        return None if answer is None else NotOpen(*answer)

    def draw(self, step: Draw) -> str:
        state: str = self._database.call(DRAW, self._database.durable, *draw_values(step))
        return state

    def refuse(self, request: list[object]) -> str | None:
        status: str | None = self._database.call("SELECT refuse($1)", to_json(request))
        return status

    def finish(self, request_id: str, end: RequestEnd, now: float) -> bool:
        done: bool = self._database.call(
            "SELECT to_jsonb(end_request($1, $2, $3))", request_id, _end(end), now
        )
        if done and end.looks is not None:
            keep_looks(self._database, request_id, end.looks)
        return done

    def expire(self, now: float) -> int:
        total = expired = self._expire_some(now)
        while expired == _EXPIRE_AT_ONCE:
            expired = self._expire_some(now)
            total += expired
        self._database.call("SELECT expire_requests($1)", now)
        return total

    def _expire_some(self, now: float) -> int:
        count: int = self._database.call("SELECT expire($1, $2)", now, _EXPIRE_AT_ONCE)
        return count

    def read(self, takes: Sequence[Take]) -> list[Counters]:
        found = self._database.call("SELECT counters($1)", _takes(takes))
        return [Counters(*row) for row in found]

    def defined(self) -> list[Budget]:
        rows = self._database.call(
            'SELECT jsonb_agg(jsonb_build_array(name, limit_n, "window", zone, scope, on_exceed,'
            " meter, value, seconds, purpose, conditions) ORDER BY name) FROM budget"
        )
        return [
            replace(
                Budget(*row[:-1]), when=tuple((name, value) for name, value in json.loads(row[-1]))
            )
            for row in rows or []
        ]

    def scope_values(self, budget: str) -> list[str]:
        name = f"convert_from(decode('{budget.encode().hex()}', 'hex'), 'UTF8')"
        [rows] = self._database.read(
            f"SELECT DISTINCT scope_value FROM account WHERE budget = {name} ORDER BY 1"
        )
        return [str(value) for [value] in rows]

    def set_limit(
        self, budget: str, scope_value: str | None, limit: int | None, now: float, note: str
    ) -> None:
        self._database.call(
            "SELECT set_limit($1, $2, $3, $4, $5)",
            budget,
            scope_value,
            limit,
            now,
            note,
        )

    def credit(self, take: Take, amount: int, now: float, note: str) -> int:
        # Asked again after a lost answer, it would be given twice.
        given: int = self._database.call(
            "SELECT credit($1, $2, $3, $4)", to_json(_take(take)), amount, now, note, again=False
        )
        return given

    def audit(self) -> list[Change]:
        rows = self._database.call("SELECT audit()") or []
        return [
            Change(budget, value, kind, amount, float(time), "", note)
            for budget, value, kind, amount, time, note in rows
        ]

    def verify(self) -> list[str]:
        return problems(self._database)

    def log(self) -> PostgresLog:
        return PostgresLog(self._database, owned=False)

    def close(self) -> None:
        self._database.close()


def _takes(takes: Sequence[Take]) -> str:
    return to_json([_take(take) for take in takes])


def _take(take: Take) -> list[Any]:
    return [
        *(take.budget, take.scope_value, take.meter, take.kind, take.window_id, take.since),
        *(take.resets_at, take.amount, take.limit),
    ]


def _locks(takes: Sequence[Take]) -> list[int]:
    """The advisory locks of these accounts: one each but for chance, which is harmless."""
    names = {f"{take.budget}\0{take.scope_value}".encode() for take in takes}
    return sorted({(zlib.crc32(name) & 0x7FFFFFFF) | 0x40000000 for name in names})


def _end(end: RequestEnd) -> str:
    return to_json([end.status, end.accepted, end.baseline, end.error])
